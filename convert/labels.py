"""Class names from a text file: one name per line, or TF-Slim's `labels.txt`."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from mobilenets import images

from .errors import ConvertError

__all__ = ["read_labels"]

_INDEXED = re.compile(r"\s*(?P<index>\d+)\s*:(?P<name>.*)")
_MOST_NAMED = 5


def read_labels(path: str | os.PathLike[str], num_classes: int) -> tuple[str, ...]:
    """The names of the classes, in the order of the logits.

    Slim's datasets have a `labels.txt` with lines such as `0:daisy`; if every line begins with an
    index and a colon, the indices give the order. A leading byte-order mark and space around a name
    are dropped.

    Args:
      path: A UTF-8 text file with one line per class.
      num_classes: The number of classes.

    Raises:
      ConvertError: The file cannot be read, has another number of lines, an empty line, a repeated
        name (except where ImageNet's own list repeats it), an index on only some lines, or other
        indices than 0 to `num_classes` - 1.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConvertError(f"{path} cannot be read: {error}") from error
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []
    matches = [_INDEXED.fullmatch(line) for line in lines]
    named = [
        match["name"].strip() if match else line for match, line in zip(matches, lines, strict=True)
    ]
    if empty := [number for number, name in enumerate(named, 1) if not name]:
        raise ConvertError(
            f"{path}: {_numbered(empty)} without a name; give every class one, or remove the line"
        )
    if len(lines) != num_classes:
        raise ConvertError(
            f"{path} has {len(lines)} lines, but the checkpoint has {num_classes} classes"
        )
    indexed = [match for match in matches if match]
    if indexed and len(indexed) < len(lines):
        bare = [number for number, match in enumerate(matches, 1) if not match]
        raise ConvertError(
            f"{path}: {_numbered(bare)} without an index, but others have one (such as "
            f"{indexed[0][0]!r}); number every line or none"
        )
    # The number of each class's line.
    order = _order(path, indexed) if indexed else list(range(1, len(lines) + 1))
    names = tuple(named[number - 1] for number in order)
    _refuse_repeated(path, names, order)
    return names


def _order(path: str | os.PathLike[str], lines: list[re.Match[str]]) -> list[int]:
    """The number of each class's line."""
    numbers: dict[int, list[int]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        numbers[int(line["index"])].append(number)
    advice = f"number the classes from 0 to {len(lines) - 1}, each once"
    for index, found in numbers.items():
        if len(found) > 1:
            raise ConvertError(f"{path}: index {index} on {_numbered(found)}; {advice}")
    # There are as many different indices as classes: if one is too high, another is missing.
    for index, found in numbers.items():
        if index >= len(lines):
            missing = next(each for each in range(len(lines)) if each not in numbers)
            raise ConvertError(
                f"{path}: index {index} on {_numbered(found)}, but {missing} is missing; {advice}"
            )
    return [numbers[index][0] for index in range(len(lines))]


def _refuse_repeated(
    path: str | os.PathLike[str], names: tuple[str, ...], order: list[int]
) -> None:
    positions: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        positions[name].append(position)
    imagenet = images.class_names()
    for name, found in positions.items():
        # Two of ImageNet's classes are called crane.
        if len(names) == len(imagenet) and len({imagenet[position] for position in found}) == 1:
            continue
        if len(found) > 1:
            where = _numbered([order[position] for position in found])
            raise ConvertError(f"{path}: {name!r} on {where}; give every class a name of its own")


def _numbered(numbers: list[int]) -> str:
    return f"line{'s' if len(numbers) > 1 else ''} {_listed(numbers)}"


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - _MOST_NAMED} more" if len(numbers) > _MOST_NAMED else ""
    return ", ".join(map(str, numbers[:_MOST_NAMED])) + more
