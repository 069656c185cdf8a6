"""The converter's error, and the first line of other errors."""

from __future__ import annotations

__all__ = ["ConvertError", "first_line"]

from mobilenets.errors import MobileNetError


class ConvertError(MobileNetError):
    """A conversion failed; the message is one line: what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type without a message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
