"""The error of everything that reads weights, and a phrase that its messages share."""

from collections.abc import Sequence

from mobilenets.errors import MobileNetError

__all__ = ["WeightsError", "first_few"]


class WeightsError(MobileNetError):
    """Weights cannot be used; the message says what is wrong, where, and what to do."""


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Names for a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
