"""Archives, unpacked within bounds: whatever an archive says, nothing is written elsewhere."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from mobilenets.errors import MobileNetError
from mobilenets.fetching.errors import ArchiveError, FetchError, not_writable, reason
from mobilenets.writing import written_beside

__all__ = ["has_archive_name", "is_archive", "is_whole", "root", "unpack", "unpacked"]

_CHUNK = 1 << 16
# The largest published archive unpacks to about 0.2 GB and ten files; anything near these is no
# MobileNet.
_CEILING = 2 << 30
_MOST_MEMBERS = 10_000
_NAME = re.compile(r".+\.(?:tgz|tar\.gz|tar)", re.IGNORECASE)
_GZIP = b"\x1f\x8b"
_DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
)


def has_archive_name(name: str) -> bool:
    """Whether a path or URL ends as an archive's does."""
    return _NAME.fullmatch(name) is not None


def is_archive(path: Path) -> bool:
    """Whether a file begins as an archive does, whatever its name."""
    return _is_gzip(path) or tarfile.is_tarfile(path)


def is_whole(path: Path) -> bool:
    """Whether an archive can be read to its end."""
    try:
        _read_through(path)
        with tarfile.open(path, "r:gz" if _is_gzip(path) else "r:") as tar:
            return sum(1 for _ in tar) > 0
    except _DAMAGED:
        return False


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
            f"{source} cannot be unpacked ({reason(error)}); download or pack it again"
        ) from error


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
            root(packed).rename(folder / target.name)
            shutil.rmtree(packed, ignore_errors=True)
    except FetchError:
        raise
    except OSError as error:
        raise not_writable(target, error) from error


def root(folder: Path) -> Path:
    """The folder that was packed: archives hold its files, or the folder itself."""
    while True:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]


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
        raise ArchiveError(f"cannot read {source}: {reason(error)}") from error


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
        raise not_writable(target, error) from error
