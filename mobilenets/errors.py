"""The base class of the project's errors."""

__all__ = ["MobileNetError"]


class MobileNetError(ValueError):
    """Base class of all errors of the library and the converter.

    The message says what is wrong, where, and what to do. Failures of the operating system and
    wrong arguments in a program raise Python's own `OSError`, `ValueError` and `TypeError`.
    """
