"""The base class of the project's errors, and TensorFlow's words in them."""

import re

__all__ = ["MobileNetError", "not_written", "without_operation"]


class MobileNetError(ValueError):
    """Base class of all errors of the library and the converter.

    The message says what is wrong, where, and what to do. Failures of the operating system and
    wrong arguments in a program raise Python's own `OSError`, `ValueError` and `TypeError`.

    Attributes:
      argument: The function's argument that is at fault or would help. The command line appends
        its option of that name to the message; None appends nothing.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


def without_operation(message: str) -> str:
    """A message of TensorFlow's on one line, without the operation that failed."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", message, flags=re.DOTALL)
    # The operation has no name.
    return " ".join(text.split()).removesuffix(" name:").rstrip(".")


def not_written(message: str) -> str:
    """Why TensorFlow could not write a file: "<temporary path>; No space left on device"."""
    return without_operation(message).rpartition("; ")[2]
