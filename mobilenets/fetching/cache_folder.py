"""The cache: where what was fetched is kept, one process at a time, and the hashes noted there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from mobilenets.fetching import urls
from mobilenets.writing import remove_abandoned, written_beside

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["cache", "locked", "note", "place", "record", "recorded"]


def cache() -> Path:
    """The folder of everything that is fetched: `MOBILENETS_CACHE`, or in the user's cache folder.

    That is `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS and
    `%LOCALAPPDATA%` on Windows.
    """
    if folder := os.environ.get("MOBILENETS_CACHE"):
        return Path(folder).expanduser()
    return Path(platformdirs.user_cache_dir("mobilenets"))


def place(url: str) -> Path:
    """Where in the cache a URL's file is: in folders that are called as its host and path are."""
    if not urls.is_url(url):
        return Path(url)
    return cache().joinpath("files", *urls.names(url))


@contextlib.contextmanager
def locked(target: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes from making the same file or folder until the context ends.

    The lock is the kernel's, on an empty file beside the target: it ends with the process, however
    that ends. Where there are no such locks (Windows), two processes may do the same work; files
    get their places at once there too.

    Raises:
      OSError: There cannot be a file.
    """
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
            remove_abandoned(f".{path.name}.", path.parent)
        yield


def record(target: Path) -> Path:
    """Where the hash of a file without a published one is noted."""
    return target.with_name(f"{target.name}.sha256")


def recorded(target: Path) -> str | None:
    """The hash that was noted when the file first had its place."""
    try:
        words = record(target).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    return words[0] if words else None


def note(target: Path, sha256: str) -> None:
    """Notes the hash that counts from now on."""
    # The line that `sha256sum --check` takes.
    with written_beside(record(target)) as folder:
        line = f"{sha256}  {target.name}\n"
        (folder / record(target).name).write_text(line, encoding="utf-8")
