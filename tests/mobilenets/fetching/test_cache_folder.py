"""The cache is the user's, nothing leads out of it, and one process at a time writes a file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_hosts import Hosts
from published_archive import BODY, NAME, UNKNOWN, URL, cached

from mobilenets import fetching
from mobilenets.fetching import cache_folder, fetch


def test_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MOBILENETS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert fetching.cache() == tmp_path / "mobilenets"
    monkeypatch.setenv("MOBILENETS_CACHE", "~/weights")
    assert fetching.cache() == Path.home() / "weights"


def test_urls_cannot_lead_out_of_the_cache(site: Hosts) -> None:
    for path in ("/../../../evil.tgz", "/a/%2e%2e/..%2f..%2fevil.tgz", "/.ssh/x.tgz", "/", ""):
        place = cache_folder.place(f"http://user:secret@host:8000{path}")
        assert place.is_relative_to(fetching.cache() / "files" / "host_8000")
        assert ".." not in place.parts
        assert "secret" not in str(place)
    assert cache_folder.place(URL) != cache_folder.place(f"{URL}?raw=1")


def test_several_fetch_once(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand for processes: the kernel's lock belongs to the open file, not the process."""
    answer = Hosts.name
    monkeypatch.setattr(Hosts, "name", lambda self, path: time.sleep(0.5) or answer(self, path))
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(fetch, [UNKNOWN] * 3))
    assert len(paths) == 1
    assert site.asked == [URL]


def test_a_killed_process_leaves_no_lock_and_no_rest(site: Hosts) -> None:
    program = """
import sys, time
from convert import light
from mobilenets import fetching
from mobilenets.published import Source
def told(done, total):
    print("begun", flush=True)
    time.sleep(100)
fetching.fetch(Source("archive", sys.argv[1]), progress=told)
"""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program, URL], stdout=subprocess.PIPE, cwd=root, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGKILL)
    assert any(".tgz" in name for name in cached())
    assert fetch(UNKNOWN).read_bytes() == BODY
    assert sorted(cached()) == [
        f"files/download.tensorflow.org/models/{NAME}.tgz{suffix}" for suffix in ("", ".sha256")
    ]
