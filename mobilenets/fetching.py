"""Everything that comes from elsewhere: fetched, checked and unpacked safely.

The only module that touches the network, through pooch. What is fetched stays in a cache.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import mobilenets.published as published
from mobilenets.errors import MobileNetError
from mobilenets.published import Source
from mobilenets.writing import written_beside

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "MIRROR",
    "ArchiveError",
    "FetchError",
    "cache",
    "fetch",
    "first_use",
    "local",
    "locked",
    "offline",
    "sources",
    "unpack",
    "unpacked",
]

MIRROR = "mirror"
"""What a source is that `MOBILENETS_MIRROR` names; it holds modules."""

_CHUNK = 1 << 16
# The largest published archive unpacks to about 0.2 GB and ten files; anything near these is no
# MobileNet.
_CEILING = 2 << 30
_MOST_MEMBERS = 10_000
_URL = re.compile(r"https?://", re.IGNORECASE)
_ARCHIVE = re.compile(r".+\.(?:tgz|tar\.gz|tar)", re.IGNORECASE)
# URLs whose path names a file; all others are those of hub modules.
_FILE = re.compile(
    r".+\.(?:tgz|tar\.gz|tar|h5|hdf5|keras|pb|safetensors|tflite|zip)", re.IGNORECASE
)
_HUB_QUERY = "tf-hub-format=compressed"
_GZIP = b"\x1f\x8b"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TIMEOUT = 30.0
# Seconds to wait before each further attempt.
_DELAYS = (1.0, 3.0)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
)


class FetchError(MobileNetError, OSError):
    """Something cannot be fetched or put into place; also an OSError, for callers that catch it."""


class ArchiveError(MobileNetError):
    """An archive cannot be unpacked: it is damaged, or unsafe."""


def cache() -> Path:
    """The folder of everything that is fetched: `MOBILENETS_CACHE`, or in the user's cache folder.

    That is `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS and
    `%LOCALAPPDATA%` on Windows.
    """
    if folder := os.environ.get("MOBILENETS_CACHE"):
        return Path(folder).expanduser()
    import pooch

    return Path(pooch.os_cache("mobilenets"))


def offline() -> bool:
    """Whether `MOBILENETS_OFFLINE` forbids to touch the network; an empty value and 0 do not."""
    return os.environ.get("MOBILENETS_OFFLINE", "") not in ("", "0")


def sources(name: str, kind: str) -> list[Source]:
    """Where a published variant can be had: first what needs no network, then best first.

    The best is a mirror, if `MOBILENETS_MIRROR` names one: a URL or a folder that holds
    `<hub name>/<kind>/1.tar.gz` and a `SHA256SUMS` with a line `sha256  path` for each.

    Args:
      name: The hub's name; one of `published.archives()`.
      kind: One of `published.KINDS`.
    """
    found = published.sources(name, kind)
    if mirror := os.environ.get("MOBILENETS_MIRROR", "").rstrip("/"):
        path = f"{mirror}/{name}/{kind}/1.tar.gz"
        found.insert(0, Source(MIRROR, path, sums=f"{mirror}/SHA256SUMS"))
    return sorted(found, key=lambda source: not _place(source.url).is_file())


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
      source: What to fetch; a file on this machine is checked and stays where it is.
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
    target = _place(source.url)
    try:
        if not _URL.match(source.url):
            return _on_this_machine(source)
        if _is_good(source, target):
            # A file that the user put there; the cache may be one that only others write to.
            if source.sha256 is None and _recorded(target) is None:
                with contextlib.suppress(OSError), locked(target):
                    _note(target, _sha256(target))
            return target
        if offline or _is_offline():
            raise FetchError(f"{source.url} is not in the cache ({target}), and this is offline")
        with locked(target):
            if not _is_good(source, target):
                _bring(source, target, progress)
    except FetchError:
        raise
    except OSError as error:
        raise _not_writable(target, error) from error
    return target


# Under another name within `fetch`, whose argument has this one.
_is_offline = offline


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
            # Only this process may write here now: these are of one that was killed.
            for left in path.parent.glob(f".{path.name}.*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def first_use(source: Source) -> str | None:
    """The SHA-256 that was recorded when a source without a published one was first used."""
    return None if source.sha256 else _recorded(_place(source.url))


def _place(url: str) -> Path:
    """Where in the cache a URL's file is: in folders that are called as its host and path are."""
    if not _URL.match(url):
        return Path(url)
    parts = urllib.parse.urlsplit(url)
    host = f"{parts.hostname}_{parts.port}" if parts.port else f"{parts.hostname}"
    names = [name for name in parts.path.split("/") if name] or ["index"]
    plain = [re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "_" for name in names]
    if parts.query == _HUB_QUERY:
        plain[-1] += ".tar.gz"
    if plain[:-1] != names[:-1] or (parts.query != _HUB_QUERY and parts.query):
        plain[-1] = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{plain[-1]}"
    return cache().joinpath("files", host, *plain)


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _recorded(target: Path) -> str | None:
    """The hash that was noted when the file first had its place."""
    try:
        words = _record(target).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    return words[0] if words else None


def _note(target: Path, sha256: str) -> None:
    # The line that `sha256sum --check` takes.
    with written_beside(_record(target)) as folder:
        line = f"{sha256}  {target.name}\n"
        (folder / _record(target).name).write_text(line, encoding="utf-8")


def _is_good(source: Source, target: Path) -> bool:
    """Whether the file is in the cache as it should be."""
    if not target.is_file():
        return False
    expected = source.sha256 or _recorded(target)
    if expected is None and source.sums is None:
        _check_content(source.url, target)
        return True
    return _sha256(target) == expected


def _bring(
    source: Source, target: Path, progress: Callable[[int, int | None], None] | None
) -> None:
    published = source.sha256 or (_listed(source) if source.sums else None)
    expected = published or _recorded(target)
    with written_beside(target) as folder:
        new = folder / target.name
        _download(source.url, new, progress)
        found = _sha256(new)
        if expected is None:
            _check_content(source.url, new)
        elif found != expected:
            when = "published" if published else "recorded at first use"
            advice = (
                "run again, and if it persists look at what the server sends"
                if published
                else f"delete {_record(target)} if the new file is the right one"
            )
            raise FetchError(
                f"{source.url}: expected the SHA-256 {when}, {expected}, found {found} in "
                f"{new.stat().st_size} bytes; nothing was kept; {advice}"
            )
        if source.sha256 is None:
            _note(target, found)


def _on_this_machine(source: Source) -> Path:
    path = Path(source.url)
    if not path.is_file():
        raise FetchError(f"{path} is not there")
    expected = source.sha256 or (_listed(source) if source.sums else None)
    if expected is not None and (found := _sha256(path)) != expected:
        raise FetchError(f"{path}: expected SHA-256 {expected}, found {found}")
    return path


def _listed(source: Source) -> str:
    """The hash of a source's file in the SHA256SUMS that goes with it."""
    assert source.sums is not None
    name = source.url.removeprefix(source.sums.removesuffix("SHA256SUMS"))
    if _URL.match(source.sums):
        with tempfile.TemporaryDirectory(prefix="mobilenet-") as folder:
            file = Path(folder) / "SHA256SUMS"
            _download(source.sums, file, lambda done, total: None)
            text = file.read_text(encoding="utf-8", errors="replace")
    else:
        try:
            text = Path(source.sums).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise FetchError(f"cannot read {source.sums}: {_reason(error)}") from error
    for line in text.splitlines():
        match = re.fullmatch(r"(?P<sha256>[0-9a-fA-F]{64}) [ *](?:\./)?(?P<name>.+)", line.strip())
        if match and match["name"] == name:
            return match["sha256"].lower()
    raise FetchError(f"{source.sums} does not list {name}")


def _check_content(url: str, path: Path) -> None:
    """Refuses what is clearly something else than the URL speaks of, such as a page."""
    with path.open("rb") as file:
        start = file.read(512)
    if re.search(r"\.(?:h5|hdf5)$", urllib.parse.urlsplit(url).path):
        right = start.startswith(_HDF5)
    elif path.name.endswith((".tgz", ".tar.gz", ".tar")):
        right = start.startswith(_GZIP) or tarfile.is_tarfile(path)
    else:
        right = not start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
    if not right:
        raise FetchError(
            f"{url}: the answer is no such file but begins with {start[:20]!r}, perhaps a page "
            "that asks to sign in"
        )


class _InterruptedTransfer(Exception):
    """A transfer that another attempt may complete."""


def _download(url: str, target: Path, progress: Callable[[int, int | None], None] | None) -> None:
    """Fetches a URL to a file, in as many attempts as there are delays, plus one.

    Raises:
        FetchError: No attempt got to the end, or another one would not help.
        OSError: The file cannot be written.
    """
    with contextlib.nullcontext(progress) if progress else _bar(url) as told:
        for delay in (*_DELAYS, None):
            try:
                return _transfer(url, target, told)
            except _InterruptedTransfer as error:
                if delay is None:
                    raise FetchError(f"cannot download {url}: {error}; run again") from error
            time.sleep(delay)


def _transfer(url: str, target: Path, progress: Callable[[int, int | None], None]) -> None:
    import pooch
    import requests
    from urllib3.exceptions import MaxRetryError

    download = pooch.HTTPDownloader(
        progressbar=_Bounded(url, progress),
        chunk_size=_CHUNK,
        timeout=_TIMEOUT,
        # A compressed transfer would not be what the hash is of.
        headers={"User-Agent": "mobilenets", "Accept-Encoding": "identity"},
    )
    passing = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    )
    try:
        download(_elsewhere(url), str(target), None)
    except FetchError:
        raise
    except requests.HTTPError as error:
        answer = error.response
        status = 0 if answer is None else answer.status_code
        reason = f"HTTP status {status} {'' if answer is None else answer.reason or ''}".strip()
        if status in {408, 429} or status >= 500:
            raise _InterruptedTransfer(reason) from error
        raise FetchError(f"cannot download {url}: {reason}") from error
    except requests.RequestException as error:
        reached = not (error.args and isinstance(error.args[0], MaxRetryError))
        if reached and isinstance(error, passing):
            raise _InterruptedTransfer(_cause(error)) from error
        raise FetchError(
            f"cannot reach {url}: {_cause(error)}; check the connection and the proxy settings"
        ) from error
    except ValueError as error:
        raise FetchError(f"cannot download {url}: {_reason(error)}") from error


class _Bounded:
    """The progress bar that pooch is given: it passes on what comes, and stops what is endless."""

    def __init__(self, url: str, progress: Callable[[int, int | None], None]) -> None:
        self._url, self._progress, self._done = url, progress, 0
        self.total = 0

    def update(self, count: int) -> None:
        self._done += count
        if max(self._done, self.total) > _CEILING:
            raise FetchError(f"{self._url} is larger than 2 GiB: not a MobileNet's weights")
        # pooch counts whole chunks.
        self._progress(min(self._done, self.total or self._done), self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


@contextlib.contextmanager
def _bar(url: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error, if that is a terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, desc=_place(url).name[-40:], leave=False) as bar:

        def told(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield told


def _elsewhere(url: str) -> str:
    """The URL that stands for another: `MOBILENETS_HOSTS` is a list of `<beginning>=<other>`.

    For tests, and for companies whose computers reach the hosts through a repository of their own.
    """
    for pair in os.environ.get("MOBILENETS_HOSTS", "").split():
        beginning, _, other = pair.partition("=")
        if beginning and url.startswith(beginning):
            return other + url.removeprefix(beginning)
    return url


def _cause(error: BaseException) -> str:
    """What the system said, beneath the layers of the libraries above it."""
    text, seen = _reason(error), {id(error)}
    pending: list[object] = [error]
    while pending:
        one = pending.pop(0)
        if isinstance(one, OSError) and one.strerror:
            return _reason(one)
        if isinstance(one, TimeoutError) or "Timeout" in type(one).__name__:
            text = "timed out"
        if not isinstance(one, BaseException):
            continue
        inner = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        for each in inner:
            if isinstance(each, BaseException) and id(each) not in seen:
                seen.add(id(each))
                pending.append(each)
    return text


@contextlib.contextmanager
def local(source: str | os.PathLike[str]) -> Iterator[Path]:
    """The path where a source can be read until the context ends.

    Args:
      source: A path; a `.tar.gz`, `.tgz` or `.tar` file, which is unpacked to a temporary folder;
        or the `http://` or `https://` URL of an archive or a file of weights, or of a TensorFlow
        Hub module, which is asked for as its hosting protocol says (`?tf-hub-format=compressed`);
        see `fetch`.

    Raises:
      ArchiveError: The archive cannot be unpacked.
      FetchError: The URL cannot be fetched, or there is no space left.
    """
    name = os.fspath(source)
    if _URL.match(name):
        name = os.fspath(fetch(Source("URL", _asked_for(name))))
    if _ARCHIVE.fullmatch(name) and os.path.isfile(name):
        with tempfile.TemporaryDirectory(prefix="mobilenet-") as folder:
            unpack(name, folder)
            yield _root(Path(folder))
    else:
        yield Path(name)


def _asked_for(url: str) -> str:
    """The URL of a file: a hub module's gets the query that asks for its archive."""
    parts = urllib.parse.urlsplit(url)
    if _FILE.fullmatch(parts.path) or parts.query:
        return url
    return f"{url}?{_HUB_QUERY}"


def unpacked(archive: str | os.PathLike[str], directory: str | os.PathLike[str]) -> None:
    """Unpacks an archive to a folder that is there when it is whole, whatever happens before.

    Args:
      archive: See `unpack`. A single folder within it is what is wanted.
      directory: The folder, which is replaced.

    Raises:
      ArchiveError: See `unpack`.
      FetchError: The folder cannot be written.
    """
    target = Path(directory)
    try:
        with written_beside(target) as folder:
            packed = folder / ".packed"
            unpack(archive, packed)
            _root(packed).rename(folder / target.name)
            shutil.rmtree(packed, ignore_errors=True)
    except FetchError:
        raise
    except OSError as error:
        raise _not_writable(target, error) from error


def _root(folder: Path) -> Path:
    """The folder that was packed: archives hold its files, or the folder itself."""
    while True:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]


def unpack(
    archive: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    wanted: Callable[[str], bool] = lambda name: True,
) -> None:
    """Unpacks the files of a tar archive, compressed by gzip or not.

    Modes, owners and times in the archive have no effect, and macOS's `._*` companions are left
    out.

    Args:
      archive: The `.tgz`, `.tar.gz` or `.tar`.
      directory: Where the files go, in their folders; created if absent.
      wanted: Which files, by their name within the archive; nothing is asked of the others.

    Raises:
      ArchiveError: The archive is unreadable or damaged, unpacks to more than 2 GiB or 10,000
        members, or a wanted member has a name that leads outside, or is a link or a device;
        nothing was written then.
      FetchError: The files cannot be written; some may be there.
    """
    source, target = Path(archive), Path(directory)
    try:
        _read_through(source)
        with tarfile.open(source, "r:gz" if _is_gzip(source) else "r:") as tar:
            for member in list(_members(source, tar, wanted)):
                _extract(tar, member, target)
    except _DAMAGED as error:
        if isinstance(error, MobileNetError):
            raise
        raise ArchiveError(
            f"{source} cannot be unpacked ({_reason(error)}); download or pack it again"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_gzip(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def _read_through(source: Path) -> None:
    """Reads everything to nowhere: the checksum at the end is right, the size bounded."""
    try:
        size = 0
        with gzip.open(source) if _is_gzip(source) else source.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                if size > _CEILING:
                    raise ArchiveError(_too_large(source))
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise ArchiveError(f"cannot read {source}: {_reason(error)}") from error


def _members(
    source: Path, tar: tarfile.TarFile, wanted: Callable[[str], bool]
) -> Iterator[tarfile.TarInfo]:
    """The regular files among the wanted members, each found safe."""
    size = 0
    for number, member in enumerate(tar):
        if number >= _MOST_MEMBERS:
            raise ArchiveError(
                f"{source} holds more than {_MOST_MEMBERS} members: not a MobileNet archive"
            )
        path = PurePosixPath(member.name)
        # macOS packs a "._<name>" beside every file that has extended attributes.
        if path.name.startswith("._") or not wanted(member.name):
            continue
        if (
            path.is_absolute()
            or ".." in path.parts
            or any(Path(part).name != part for part in path.parts)
        ):
            raise ArchiveError(
                f"{source}: refused, since {member.name!r} leads outside the folder; "
                "pack it again with relative names"
            )
        if member.isdir():
            continue
        if not member.isreg():
            raise ArchiveError(
                f"{source}: refused, since {member.name!r} is a link or a device; "
                "pack it again with regular files"
            )
        # A sparse file is larger than what the archive holds of it.
        size += member.size
        if size > _CEILING:
            raise ArchiveError(_too_large(source))
        yield member


def _too_large(source: Path) -> str:
    return f"{source} unpacks to more than 2 GiB: not a MobileNet archive"


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    path = target / member.name
    stream = tar.extractfile(member)
    assert stream is not None  # Only regular files come here.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with stream, path.open("xb") as file:
            shutil.copyfileobj(stream, file)
    except OSError as error:
        raise _not_writable(target, error) from error


def _not_writable(path: Path, error: OSError) -> FetchError:
    advice = (
        "free some space and run again"
        if error.errno in _DISK_FULL
        else "choose a folder that can be written"
    )
    return FetchError(f"cannot write {path}: {_reason(error)}; {advice}")


def _reason(error: object) -> str:
    """Returns what went wrong as one line, for exceptions whose text is empty, too."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())
