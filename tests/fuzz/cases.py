"""What a case of the fuzzing is: a real file, one change to it, and what may come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

__all__ = [
    "ERROR",
    "Change",
    "Expected",
    "Format",
    "Values",
    "cut",
    "flipped",
    "flips",
    "grown",
    "zeroed",
]

Values = Mapping[str, np.ndarray]
ERROR: Literal["error"] = "error"
"""What a change expects that must be refused."""

Expected = Literal["error"] | Values | int | None
"""`ERROR`; or the values that the changed file holds now, by Slim name, where they differ from the
original's; or how many numbers may differ from them; or None, if only the original's values may be
loaded. An error is always right."""

Change = Callable[[random.Random, Path], Expected]
"""Changes the copy of a seed in a folder; the random numbers decide what and where."""


@dataclass(frozen=True)
class Format:
    """A format's seed and its changes.

    Attributes:
      name: In the report.
      make: Writes the seed to an empty folder; called once.
      source: What is loaded: a path relative to the folder of the seed.
      changes: By kind.
      module: Whether `mobilenets.load` reads it as a module; else weights are opened.
      once: Kinds that a run tries once, because chance decides nothing.
    """

    name: str
    make: Callable[[Path], None]
    source: str
    changes: Mapping[str, Change]
    module: bool = False
    once: frozenset[str] = frozenset()


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """The content with one bit flipped."""
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def flips(path: str) -> Change:
    """Flips one to four bits of a file whose format has checksums."""

    def change(chance: random.Random, folder: Path) -> None:
        content = (folder / path).read_bytes()
        for _ in range(chance.choice((1, 1, 2, 4))):
            content = flipped(content, chance.randrange(len(content)), chance.randrange(8))
        (folder / path).write_bytes(content)

    return change


def cut(path: str) -> Change:
    """Cuts a file anywhere, sometimes to nothing."""

    def change(chance: random.Random, folder: Path) -> None:
        content = (folder / path).read_bytes()
        length = chance.choice((0, 1, 7, 8, 9, 63, 64, len(content) // 2, len(content) - 1, None))
        length = chance.randrange(len(content)) if length is None else length
        (folder / path).write_bytes(content[:length])

    return change


def grown(path: str) -> Change:
    """Appends bytes to a file."""

    def change(chance: random.Random, folder: Path) -> None:
        with (folder / path).open("ab") as file:
            file.write(chance.choice((b"\0", b"\0" * 4096, chance.randbytes(100))))

    return change


def zeroed(path: str) -> Change:
    """Overwrites a stretch with zeros, as a disk does that lost a block."""

    def change(chance: random.Random, folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        start = chance.randrange(len(content))
        stop = min(len(content), start + chance.choice((16, 512, 4096)))
        content[start:stop] = bytes(stop - start)
        (folder / path).write_bytes(content)

    return change
