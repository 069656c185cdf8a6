"""The error of all weights readers, and helpers for its messages."""

from collections.abc import Sequence

from mobilenets.errors import MobileNetError

__all__ = ["NoMobileNetError", "WeightsError", "first_few", "shape_text"]


class WeightsError(MobileNetError):
    """Weights cannot be used; the message says what is wrong, where, and what to do."""


class NoMobileNetError(WeightsError):
    """There is nothing of a MobileNet: no format is recognised, or its variables are others'."""


def first_few(names: Sequence[str], most: int = 5) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shape_text(shape: Sequence[int], most: int = 8) -> str:
    """A shape as a list; of a forged one with many dimensions the first."""
    more = f", … of {len(shape)}" if len(shape) > most else ""
    return f"[{', '.join(map(str, shape[:most]))}{more}]"
