"""Whether a file is what it should be: by its hash, or by its first bytes."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from pathlib import Path

from mobilenets.fetching import archives
from mobilenets.fetching.errors import FetchError

__all__ = ["check_content", "sha256"]

_ARCHIVES = (".tgz", ".tar.gz", ".tar")
_HDF5 = b"\x89HDF\r\n\x1a\n"


def sha256(path: Path) -> str:
    """A file's hash, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_content(url: str, path: Path) -> None:
    """Refuses what is clearly something else than the URL speaks of, such as a page or a part."""
    with path.open("rb") as file:
        start = file.read(512)
    if re.search(r"\.(?:h5|hdf5)$", urllib.parse.urlsplit(url).path):
        right = start.startswith(_HDF5)
    elif path.name.endswith(_ARCHIVES):
        right = archives.is_archive(path)
    else:
        right = not start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
    if right and path.name.endswith(_ARCHIVES) and not archives.is_whole(path):
        raise FetchError(
            f"{url}: the answer is an archive that is damaged or incomplete; run again"
        )
    if not right:
        raise FetchError(
            f"{url}: the answer is no such file but begins with {start[:20]!r}, perhaps a page "
            "that asks to sign in"
        )
