"""Files that other people wrote, of any format that can be read: flipped, cut, grown and zeroed.

What lies where in them is not known, so a change says at most how many values it can have changed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from fuzz.cases import Change, Expected, Format, cut, flipped, grown, zeroed

__all__ = ["formats"]


def _some_file(chance: random.Random, folder: Path) -> Path:
    """Any of the files; of large ones as often as of small ones."""
    return chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _flipped(chance: random.Random, folder: Path) -> Expected:
    path = _some_file(chance, folder)
    content, flips = path.read_bytes(), chance.choice((1, 1, 2, 4))
    for _ in range(flips):
        content = flipped(content, chance.randrange(len(content)), chance.randrange(8))
    path.write_bytes(content)
    return flips


def _flipped_early(chance: random.Random, folder: Path) -> Expected:
    """Among the first bytes, where most formats keep their structure."""
    path = _some_file(chance, folder)
    content = path.read_bytes()
    path.write_bytes(
        flipped(content, chance.randrange(min(len(content), 4096)), chance.randrange(8))
    )
    return 1


def _zeroed(chance: random.Random, folder: Path) -> Expected:
    path = _some_file(chance, folder)
    before = path.read_bytes()
    zeroed(path.name)(chance, path.parent)
    return sum(a != b for a, b in zip(before, path.read_bytes(), strict=True))


def _of_some_file(change: Callable[[str], Change]) -> Change:
    def changed(chance: random.Random, folder: Path) -> Expected:
        path = _some_file(chance, folder)
        return change(path.name)(chance, path.parent)

    return changed


_CHANGES = {
    "flipped bits": _flipped,
    "flipped bits at the beginning": _flipped_early,
    "cut": _of_some_file(cut),
    "bytes appended": _of_some_file(grown),
    "zeroed block": _zeroed,
}


def formats(paths: Iterable[Path]) -> list[Format]:
    """A format for each path: a file, a folder, or the prefix of a checkpoint's files."""

    def format(path: Path) -> Format:
        def make(folder: Path) -> None:
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            else:
                for file in [path] if path.exists() else path.parent.glob(f"{path.name}.*"):
                    shutil.copy(file, folder / file.name)
            # The copies of read-only files are to be changed.
            for each in folder.rglob("*"):
                each.chmod(0o700)

        return Format(f"of others: {path.name}", make, path.name, _CHANGES)

    return [format(path) for path in paths]
