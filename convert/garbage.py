"""Python's collection of garbage, for processes of our own that build graphs."""

from __future__ import annotations

import gc

__all__ = ["collect_rarely"]


def collect_rarely() -> None:
    """Lets garbage in cycles pile up: it goes with the process.

    TensorFlow keeps most of the many objects of a trace; looking through them again and again takes
    a tenth of a conversion.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
