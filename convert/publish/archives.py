"""Archives that depend on the packed files alone: equal files give equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mobilenets import fetching

__all__ = ["bytes_of", "pack", "sha256"]

_CHUNK = 1 << 20
# Weights hardly get smaller; the graphs do at any level.
_LEVEL = 6

Contents = Mapping[str, "Path | bytes"]
"""The files of an archive by their path in it: a file to read, or the bytes themselves."""


def pack(contents: Contents, target: str | os.PathLike[str]) -> None:
    """Writes a `.tar.gz` of files, sorted, with fixed modes and times, owned by nobody.

    Args:
      contents: The files; folders are added.
      target: The archive.

    Raises:
      OSError: A file cannot be read, or the archive cannot be written.
    """
    folders = {
        str(folder) for name in contents for folder in PurePosixPath(name).parents if folder.name
    }
    with (
        open(target, "wb") as file,
        # Neither a name nor a time in the header.
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted({*folders, *contents}):
            # A new member has time 0 and owner and group 0 without names.
            member = tarfile.TarInfo(name)
            if name in folders:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                member.mode = 0o644
                content = bytes_of(contents[name])
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def bytes_of(content: Path | bytes) -> bytes:
    """The bytes of a file in `Contents`."""
    return content if isinstance(content, bytes) else content.read_bytes()


def sha256(content: Path | bytes) -> str:
    """The hash of a file in `Contents`, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return fetching.sha256(content)
