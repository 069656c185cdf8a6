"""Google's published checkpoints: where they are, and how they are fetched and unpacked safely.

The only module that touches the network. It needs nothing beyond the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import http.client
import os
import re
import shutil
import tarfile
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convert.errors import ConvertError

__all__ = ["Archive", "archives", "fetch", "unpack"]

_CHUNK = 1 << 16
# The largest published archive unpacks to about 0.2 GB; anything near this is no MobileNet.
_CEILING = 2 << 30
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_CHECKPOINT_FILE = re.compile(
    r"(?P<prefix>[^\x00\r\n]+)"
    r"\.(?:index|data-(?P<shard>[0-9]{5})-of-(?P<shards>(?!00000)[0-9]{5}))"
)
_DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True)
class Archive:
    """One published ImageNet checkpoint, as a row of `archives.toml`.

    Attributes:
        name: The hub's name of the variant, such as `mobilenet_v1_050_160/quantops`.
        slim_name: TF-Slim's name, such as `mobilenet_v1_0.5_160_quant`.
        million_macs: Multiply-accumulates for one image of the variant's size, in millions.
        million_parameters: Parameters in millions, with the logits layer.
        top1: Published ImageNet validation accuracy, in percent.
        top5: Published ImageNet validation accuracy among the first five, in percent.
        url: Where the `.tgz` is.
        sha256: The SHA-256 of the `.tgz`, as 64 lower-case hexadecimal digits.
    """

    name: str
    slim_name: str
    million_macs: int
    million_parameters: float
    top1: float
    top5: float
    url: str
    sha256: str


@functools.cache
def archives() -> dict[str, Archive]:
    """Returns the 54 published checkpoints by hub name, in the order of `archives.toml`."""
    table = tomllib.loads(Path(__file__).with_name("archives.toml").read_text(encoding="utf-8"))
    return {name: Archive(name=name, **row) for name, row in table.items()}


def fetch(
    archive: Archive,
    directory: str | os.PathLike[str],
    *,
    progress: Callable[[int, int | None], None] | None = None,
    timeout: float = 30.0,
    delays: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
) -> Path:
    """Brings a published checkpoint into `directory/<slim_name>/`, unless it is there already.

    The download goes to `directory/<slim_name>.tgz.part`. It continues what an earlier call or a
    dropped connection left there, is hashed before anything is unpacked, and is deleted after.
    Proxies are taken from the environment, as `urllib.request` does.

    Args:
        archive: What to fetch.
        directory: The folder of checkpoints; created if absent.
        progress: Called with the bytes at hand (those of an earlier call included) and the bytes
            in all, or None where the server does not tell. Bytes at hand fall back to zero when
            the server cannot resume.
        timeout: Seconds without an answer after which a connection counts as dropped.
        delays: Seconds to wait before each further attempt; their number is that of the retries.
            A host that cannot be reached at all is not tried again.

    Returns:
        The checkpoint's prefix, `directory/<slim_name>/<slim_name>.ckpt`.

    Raises:
        ConvertError: The host does not answer or answers with an error, the bytes are not the
            published ones, the archive is unreadable, or the directory cannot be written.
    """
    folder = Path(directory) / archive.slim_name
    prefix = folder / f"{archive.slim_name}.ckpt"
    part = Path(directory) / f"{archive.slim_name}.tgz.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _first_missing(prefix.name, (path.name for path in folder.iterdir())) is None:
            return prefix
        try:
            # A call that was stopped between download and unpacking left the whole archive.
            if not (part.is_file() and _sha256(part) == archive.sha256):
                _download(archive.url, part, progress, timeout, delays)
                _check(archive, part)
            prefix = unpack(part, folder)
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # Only an empty one goes.
        part.unlink()
    except OSError as error:
        raise _not_writable(Path(directory), error) from error
    return prefix


def unpack(archive_path: str | os.PathLike[str], directory: str | os.PathLike[str]) -> Path:
    """Unpacks the one checkpoint of a gzipped tar file, and nothing else of it.

    A checkpoint is a `<prefix>.index` with all its `<prefix>.data-NNNNN-of-NNNNN`, wherever in
    the archive. The files land directly in `directory`, whatever folders they were in, and only
    once all of them are unpacked; existing files of the same names are replaced.

    Args:
        archive_path: The `.tgz`.
        directory: Where the files go; created if absent.

    Returns:
        The checkpoint's prefix, `directory/<prefix>`.

    Raises:
        ConvertError: The archive is unreadable or damaged, holds no complete checkpoint or
            several, holds one under a name that leads outside, as a link or as a device, unpacks
            to more than 2 GiB, or the directory cannot be written.
    """
    source, target = Path(archive_path), Path(directory)
    try:
        _read_through(source)
        with tarfile.open(source, "r:gz") as tar:
            prefix, members = _checkpoint_members(source, tar)
            _extract(tar, prefix, members, target)
    except _DAMAGED as error:
        raise ConvertError(
            f"{source}: not a readable .tgz ({_reason(error)}); download or pack it again"
        ) from error
    return target / prefix


class _InterruptedTransfer(Exception):
    """A transfer that another attempt may complete."""

    def __init__(self, reason: str, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


def _download(
    url: str,
    part: Path,
    progress: Callable[[int, int | None], None] | None,
    timeout: float,
    delays: Sequence[float],
) -> None:
    """Completes `part` with the bytes of `url`, in as many attempts as there are delays, plus one.

    Raises:
        ConvertError: No attempt got to the end, or another one would not help.
    """
    reached = False
    for delay in (*delays, None):
        try:
            return _transfer(url, part, progress, timeout)
        except _InterruptedTransfer as error:
            reached = reached or error.reached
            if not reached:
                raise ConvertError(
                    f"cannot reach {url}: {error}; check the connection and the proxy settings"
                ) from error
            if delay is None:
                raise ConvertError(
                    f"cannot download {url}: {error}; run again to continue where it stopped"
                ) from error
        time.sleep(delay)


def _transfer(
    url: str, part: Path, progress: Callable[[int, int | None], None] | None, timeout: float
) -> None:
    """Requests what `part` lacks, once.

    Raises:
        _InterruptedTransfer: The connection failed or ended early; `part` keeps what came.
        ConvertError: The server refuses.
        OSError: `part` cannot be written.
    """
    done = part.stat().st_size if part.exists() else 0
    # A compressed transfer would be neither resumable nor what the hash is of.
    headers = {"User-Agent": "mobilenets-convert", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with _open(urllib.request.Request(url, headers=headers), part, timeout) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        elif not (response.headers["Content-Range"] or "").startswith(f"bytes {done}-"):
            part.unlink(missing_ok=True)
            raise _InterruptedTransfer("the server answered with another range than asked for")
        total = None if response.length is None else done + response.length
        with part.open("ab" if done else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                done += len(chunk)
                if done > _CEILING:
                    raise ConvertError(f"{url} is larger than 2 GiB: not a MobileNet archive")
                if progress is not None:
                    progress(done, total)
    if total is not None and done < total:
        raise _InterruptedTransfer(f"the connection closed after {done} of {total} bytes")


def _open(request: urllib.request.Request, part: Path, timeout: float) -> http.client.HTTPResponse:
    try:
        # Built anew, since urlopen() keeps the proxies of its first call.
        return urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        status = f"HTTP status {error.code} {_reason(error.reason)}"
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
            # The part is no beginning of this file: it is at least as long, and hashes differ.
            part.unlink()
            raise _InterruptedTransfer(status) from error
        if error.code in {408, 429} or error.code >= 500:
            raise _InterruptedTransfer(status) from error
        raise ConvertError(
            f"cannot download {request.full_url}: {status}; the server no longer offers it, "
            "or a proxy refuses"
        ) from error
    except urllib.error.URLError as error:
        raise _InterruptedTransfer(_reason(error.reason), reached=False) from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedTransfer(_reason(error)) from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _InterruptedTransfer(_reason(error)) from error
        if not chunk:
            return
        yield chunk


def _check(archive: Archive, part: Path) -> None:
    """Deletes a download with another hash than the published one, so that a retry starts clean."""
    found = _sha256(part)
    if found != archive.sha256:
        size = part.stat().st_size
        part.unlink()
        raise ConvertError(
            f"{archive.url}: expected SHA-256 {archive.sha256}, found {found} in {size} bytes; "
            "nothing was unpacked; run again, and if it persists look at what the server sends"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_through(source: Path) -> None:
    """Decompresses everything to nowhere: the checksum at the end is right, the size bounded."""
    try:
        size = 0
        with gzip.open(source) as stream:
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                if size > _CEILING:
                    raise ConvertError(
                        f"{source} unpacks to more than 2 GiB: not a MobileNet checkpoint"
                    )
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise ConvertError(f"cannot read {source}: {_reason(error)}") from error


def _checkpoint_members(
    source: Path, tar: tarfile.TarFile
) -> tuple[str, dict[str, tarfile.TarInfo]]:
    """Returns the one checkpoint's prefix, and its members by file name in the archive's order."""
    found: dict[tuple[PurePosixPath, str], dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        path = PurePosixPath(member.name)
        match = _CHECKPOINT_FILE.fullmatch(path.name)
        # macOS packs a "._<name>" beside every file that has extended attributes.
        if match is None or member.isdir() or path.name.startswith("._"):
            continue
        if path.is_absolute() or ".." in path.parts or Path(path.name).name != path.name:
            raise ConvertError(
                f"{source}: refused, since {member.name!r} leads outside the folder; "
                "pack it again with relative names"
            )
        if not member.isreg():
            raise ConvertError(
                f"{source}: refused, since {member.name!r} is a link or a device; "
                "pack it again with regular files"
            )
        found.setdefault((path.parent, match["prefix"]), {})[path.name] = member
    missing = {key: _first_missing(key[1], files) for key, files in found.items()}
    complete = [key for key, name in missing.items() if name is None]
    if len(complete) == 1:
        return complete[0][1], found[complete[0]]
    if complete:
        names = ", ".join(repr(str(parent / prefix)) for parent, prefix in sorted(complete))
        raise ConvertError(f"{source} holds several checkpoints ({names}); unpack it and name one")
    if found:
        (parent, _), name = next(iter(missing.items()))
        raise ConvertError(
            f"{source} holds an incomplete checkpoint: {str(parent / str(name))!r} is missing"
        )
    raise ConvertError(f"{source} holds no checkpoint (no .index with its .data-NNNNN-of-NNNNN)")


def _first_missing(prefix: str, names: Iterable[str]) -> str | None:
    """Returns the first file that a checkpoint lacks among `names`, or None if it is complete."""
    there: dict[int, set[int]] = {}
    indexed = False
    for name in names:
        match = _CHECKPOINT_FILE.fullmatch(name)
        if match is None or match["prefix"] != prefix:
            continue
        if match["shards"] is None:
            indexed = True
        else:
            there.setdefault(int(match["shards"]), set()).add(int(match["shard"]))
    if not indexed:
        return f"{prefix}.index"
    lacking = [
        next((shard for shard in range(shards) if shard not in have), None)
        for shards, have in there.items()
    ]
    if None in lacking:
        return None
    shard, shards = next(zip(lacking, there, strict=True), (0, 1))
    return f"{prefix}.data-{shard:05}-of-{shards:05}"


def _extract(
    tar: tarfile.TarFile, prefix: str, members: dict[str, tarfile.TarInfo], target: Path
) -> None:
    index = f"{prefix}.index"
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Inside the target: beside it there may be another file system, or no right to write.
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target) as unpacked:
            for name, member in members.items():
                stream = tar.extractfile(member)
                assert stream is not None  # Only regular files come here.
                with stream, Path(unpacked, name).open("xb") as file:
                    shutil.copyfileobj(stream, file)
            # Without its index a checkpoint is none: an old one goes first, the new one comes last.
            (target / index).unlink(missing_ok=True)
            for name in sorted(members, key=lambda name: name == index):
                os.replace(Path(unpacked, name), target / name)
    except OSError as error:
        raise _not_writable(target, error) from error


def _not_writable(path: Path, error: OSError) -> ConvertError:
    advice = (
        "free some space and run again"
        if error.errno in _DISK_FULL
        else "choose a folder that can be written"
    )
    return ConvertError(f"cannot write {path}: {_reason(error)}; {advice}")


def _reason(error: object) -> str:
    """Returns what went wrong as one line, for exceptions whose text is empty, too."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())
