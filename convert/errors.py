"""The converter's error, and how other errors are told in one line."""

from __future__ import annotations

__all__ = ["ConvertError", "first_line"]

from mobilenets.errors import MobileNetError


class ConvertError(MobileNetError):
    """A conversion cannot go on; the message is one line: what is wrong, where, and what to do.

    Attributes:
      argument: The function's argument that would help or is at fault. The command line names its
        own option of that name after the message; None names none.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name where there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
