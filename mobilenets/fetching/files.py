"""The file of a source: from the cache, or fetched into it, as it should be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from mobilenets.fetching import cache_folder, checks, mirror, network, urls
from mobilenets.fetching.errors import FetchError, not_writable
from mobilenets.published import Source
from mobilenets.writing import written_beside

__all__ = ["fetch", "first_use"]


def fetch(
    source: Source,
    *,
    progress: Callable[[int, int | None], None] | None = None,
    offline: bool = False,
) -> Path:
    """The file of a source, from the cache or fetched into it.

    One process at a time fetches a file. It is checked before it gets its place, and again whenever
    it is used. Where no hash was published, that of the first use counts from then on; what is no
    archive or HDF5 file though it should be one, such as a page that says "sign in", is refused
    before. Proxies are taken from the environment, as `requests` does. A redirect leads to http and
    https alone.

    Args:
      source: What to fetch, of a mirror's module the newest version; a file on this machine is
        checked and stays where it is.
      progress: Told the bytes that have come, and the bytes in all, or None where the server does
        not tell; None draws a bar on standard error if that is a terminal.
      offline: Whether only the cache counts, as with `MOBILENETS_OFFLINE=1`.

    Returns:
      The file's path, not to be changed.

    Raises:
      FetchError: The host does not answer or answers with an error, the bytes are not those that
        were published or came at first use, the source is not in the cache and the network is
        forbidden, or the cache cannot be written.
    """
    source = mirror.newest(source, offline=offline)
    target = cache_folder.place(source.url)
    try:
        if not urls.is_url(source.url):
            return _on_this_machine(source)
        if _is_good(source, target):
            # A file that the user put there; the cache may be one that only others write to.
            if source.sha256 is None and cache_folder.recorded(target) is None:
                with contextlib.suppress(OSError), cache_folder.locked(target):
                    cache_folder.note(target, checks.sha256(target))
            return target
        if offline or network.offline():
            raise FetchError(f"{source.url} is not in the cache ({target}), and this is offline")
        with cache_folder.locked(target):
            if not _is_good(source, target):
                _bring(source, target, progress)
    except FetchError:
        raise
    except OSError as error:
        raise not_writable(target, error) from error
    return target


def first_use(source: Source) -> str | None:
    """The SHA-256 that was recorded when a source without a published one was first used."""
    return None if source.sha256 else cache_folder.recorded(cache_folder.place(source.url))


def _is_good(source: Source, target: Path) -> bool:
    """Whether the file is in the cache as it should be."""
    if not target.is_file():
        return False
    expected = source.sha256 or cache_folder.recorded(target)
    if expected is None:
        checks.check_content(source.url, target)
        return True
    return checks.sha256(target) == expected


def _bring(
    source: Source, target: Path, progress: Callable[[int, int | None], None] | None
) -> None:
    expected = source.sha256 or cache_folder.recorded(target)
    with written_beside(target) as folder:
        new = folder / target.name
        network.download(source.url, new, progress)
        found = checks.sha256(new)
        if expected is None:
            checks.check_content(source.url, new)
        elif found != expected:
            when = "published" if source.sha256 else "recorded at first use"
            advice = (
                "run again, and if it persists look at what the server sends"
                if source.sha256
                else f"delete {cache_folder.record(target)} if the new file is the right one"
            )
            raise FetchError(
                f"{source.url}: expected the SHA-256 {when}, {expected}, found {found} in "
                f"{new.stat().st_size} bytes; nothing was kept; {advice}"
            )
        if source.sha256 is None or source.index:
            # A mirror's index is not kept.
            cache_folder.note(target, found)


def _on_this_machine(source: Source) -> Path:
    path = Path(source.url)
    if not path.is_file():
        raise FetchError(f"{path} is not there")
    if source.sha256 is not None and (found := checks.sha256(path)) != source.sha256:
        raise FetchError(f"{path}: expected SHA-256 {source.sha256}, found {found}")
    return path
