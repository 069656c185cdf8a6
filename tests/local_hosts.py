"""The hosts of published weights, on loopback."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

__all__ = ["Hosts", "closed_port", "hosts", "tgz"]

NAMES = ("http://download.tensorflow.org", "https://storage.googleapis.com")
NAMES += ("https://tfhub.dev", "https://www.kaggle.com", "https://huggingface.co")


def tgz(members: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]] | Path) -> bytes:
    """An archive of files by name, of whatever the given headers say, or of a folder."""
    if isinstance(members, dict):
        members = [(tarfile.TarInfo(name), content) for name, content in members.items()]
    packed = io.BytesIO()
    # Random weights hardly become smaller.
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        if isinstance(members, Path):
            tar.add(members, arcname=".")
        else:
            for member, content in members:
                if member.isreg():
                    member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Hosts(ThreadingHTTPServer):
    """What each URL answers, and a record of what was asked.

    Attributes:
      answers: By URL, as the world calls it or as this server does: a body, a status, or the URL
        to go to. All others answer 404.
      cuts: After how many bytes the first answers with a body end.
      statuses: What the first requests are answered instead; 0 hangs up.
      length: Whether answers tell their length.
      lie: By how many bytes the length that they tell is too small.
      silence: For how many seconds nothing follows a cut, before the connection ends.
      drip: Bodies come in pieces of so many bytes, with so many seconds after each.
      drip_header: So many seconds are between the lines of a header that never ends; after the
        redirect, if there is one.
      asked: The URLs.
      closed: Whether the test is over.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, bytes | int | str] = {}
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.length = True
        self.lie = 0
        self.silence = 0.0
        self.drip: tuple[int, float] | None = None
        self.drip_header: float | None = None
        self.asked: list[str] = []
        self.closed = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> str:
        """For `MOBILENETS_HOSTS`."""
        return " ".join(f"{name}={self.url}/{name.replace('://', '.')}" for name in NAMES)

    def name(self, path: str) -> str:
        """The URL that the world knows."""
        for name in NAMES:
            beginning = f"/{name.replace('://', '.')}"
            if path.startswith(beginning):
                return name + path.removeprefix(beginning)
        return self.url + path if path.startswith("/") else path


class _Handler(BaseHTTPRequestHandler):
    server: Hosts
    timeout = 10

    def do_GET(self) -> None:
        hosts = self.server
        url = hosts.name(self.path)
        hosts.asked.append(url)
        answer = hosts.answers.get(url, 404)
        if hosts.statuses:
            answer = hosts.statuses.pop(0)
        if answer == 0:
            return
        if isinstance(answer, str):
            self.send_response(302)
            self.send_header("Location", answer)
            answer = b""
        elif isinstance(answer, int):
            self.send_response(answer)
            answer = b"no"
        else:
            self.send_response(200)
        if hosts.drip_header and not isinstance(hosts.answers.get(url), str):
            with contextlib.suppress(OSError):
                while not hosts.closed:
                    self.send_header("X-Drip", "1")
                    self.flush_headers()
                    time.sleep(hosts.drip_header)
            return
        if hosts.length:
            self.send_header("Content-Length", str(len(answer) - hosts.lie))
        self.end_headers()
        cut = hosts.cuts.pop(0) if hosts.cuts and len(answer) > 2 else len(answer)
        size, pause = hosts.drip or (max(cut, 1), 0.0)
        with contextlib.suppress(OSError):
            for start in range(0, cut, size):
                self.wfile.write(answer[start : min(cut, start + size)])
                time.sleep(pause)
        if cut < len(answer):
            time.sleep(hosts.silence)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hosts]:
    """All hosts, an empty cache, no delays, and nothing of the user's own settings."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("MOBILENETS_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("mobilenets.fetching.network._DELAYS", (0.0, 0.0))
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    with Hosts() as server:
        monkeypatch.setenv("MOBILENETS_HOSTS", server.environment)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.closed = True
        server.shutdown()
        thread.join(10)


def closed_port() -> str:
    """The URL of a host that is down."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"
