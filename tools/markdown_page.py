"""Pages whose table a tool writes, with text by hand behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["END", "after_the_table", "row"]

END = "<!-- end -->"
"""The line after the table."""


def row(values: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(values)} |"


def after_the_table(file: Path) -> str:
    """What is written by hand."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text.partition(f"{END}\n")[2]
