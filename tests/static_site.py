"""A folder on loopback, served as any static web server does."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["StaticSite", "serving"]


class StaticSite(ThreadingHTTPServer):
    """A server.

    Attributes:
      url: Its URL.
      asked: The paths that were asked for, with their queries.
      cut: After how many bytes answers end, though they promise more; None for whole ones.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.cut: int | None = None


class _Handler(SimpleHTTPRequestHandler):
    server: StaticSite

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if self.server.cut is None:
            super().copyfile(source, outputfile)
        else:
            outputfile.write(source.read(self.server.cut))

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[StaticSite]:
    """Serves a folder until the context ends."""
    with StaticSite(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
