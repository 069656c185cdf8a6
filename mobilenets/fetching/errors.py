"""What can go wrong with what comes from elsewhere, and how one line says it."""

from __future__ import annotations

import errno
from pathlib import Path

from mobilenets.errors import MobileNetError

__all__ = ["ArchiveError", "FetchError", "not_writable", "reason"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class FetchError(MobileNetError, OSError):
    """Something cannot be fetched or put into place; also an OSError, for callers that catch it."""


class ArchiveError(MobileNetError):
    """An archive cannot be unpacked: it is damaged, or unsafe."""


def not_writable(path: Path, error: OSError) -> FetchError:
    """The error of a file or folder that the system refuses to write."""
    advice = (
        "free some space and run again"
        if error.errno in _DISK_FULL
        else "choose a folder that can be written"
    )
    return FetchError(f"cannot write {path}: {reason(error)}; {advice}")


def reason(error: object) -> str:
    """What went wrong as one line, for exceptions whose text is empty, too."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())
