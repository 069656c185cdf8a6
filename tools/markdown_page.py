"""Pages whose table a tool writes, with text by hand around it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from convert.errors import ConvertError
from convert.files import write_text

__all__ = ["END", "after_the_table", "reported", "row", "shown", "write_table"]

END = "<!-- end -->"
"""The line after the table."""


def row(values: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(values)} |"


def shown(lines: Iterable[str]) -> list[str]:
    """The lines; each is printed as soon as it is there."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    return kept


def after_the_table(file: Path) -> str:
    """What is written by hand."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text.partition(f"{END}\n")[2]


def write_table(file: Path, name: str, lines: Sequence[str]) -> None:
    """Replaces the table between `<!-- name: … -->` and `END`.

    Raises:
      ConvertError: The page cannot be read or written, or does not have that one place.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConvertError(f"{file}: {error.strerror}") from error
    fresh, count = re.subn(
        rf"(?s)(<!-- {re.escape(name)}: [^\n]*? -->\n).*?({re.escape(END)})",
        lambda match: "".join((match[1], *(f"{line}\n" for line in lines), match[2])),
        text,
    )
    if count != 1:
        raise ConvertError(
            f"{file}: expected one place for the table, from <!-- {name}: … --> to {END}; "
            f"found {count}"
        )
    write_text(file, fresh)


def reported(make: Callable[[], None]) -> int:
    """Runs a tool; its exit code is 2 after a user's mistake, which is printed."""
    try:
        make()
    except (ConvertError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
