"""The root of every error that the project raises of its own."""

__all__ = ["MobileNetError"]


class MobileNetError(ValueError):
    """Something cannot go on; the message says what is wrong, where, and what to do.

    Every error of the library and of the converter is one. What the operating system refuses and
    mistakes in a program's arguments stay Python's own `OSError`, `ValueError` and `TypeError`.
    """
