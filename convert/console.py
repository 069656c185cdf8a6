"""What the command line prints: tables and JSON to standard output, the rest to standard error."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Table

__all__ = [
    "fail",
    "figure",
    "note",
    "plain",
    "print_json",
    "print_table",
    "progress",
    "say",
    "status",
    "stopped",
    "table",
    "transfers",
]

# Wide if the output is not a terminal, so that no name is cut.
_out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
# Progress and errors leave standard output to the tables and to --json.
_err = Console(stderr=True, highlight=False)


def plain(text: object) -> str:
    """The text, escaped so that rich finds no markup."""
    return str(text).replace("[", r"\[")


def figure(value: float | None, spec: str) -> str:
    """A formatted number; a dash for None."""
    return "-" if value is None else format(value, spec)


def table(*columns: str) -> Table:
    """An empty table; the name of a right-aligned column ends in `>`."""
    made = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        name, marked, _ = column.partition(">")
        made.add_column(name, justify="right" if marked else "left", overflow="fold")
    return made


def print_table(made: Table) -> None:
    """Prints a table."""
    _out.print(made)


def say(text: str, *parts: object) -> None:
    """Prints a line; each `{}` in the text is replaced by a part, printed without markup."""
    _out.print(text.format(*map(plain, parts)), soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints a value for programs; dataclasses become objects."""
    # Not through rich, which would wrap lines.
    print(json.dumps(value, indent=1, ensure_ascii=False, default=dataclasses.asdict))


def note(text: str) -> None:
    """Prints a line to standard error."""
    _err.print(text)


def fail(error: Exception | str, parser: argparse.ArgumentParser | None = None) -> int:
    """Prints an error in one line, followed by the option for its argument.

    Args:
      error: The error or its message.
      parser: The parser of the command that failed.

    Returns:
      The exit code of a user's mistake.
    """
    option = _option(getattr(error, "argument", None), parser)
    message = f"{error} ({option})" if option else str(error)
    _err.print(f"[red]error:[/red] {plain(message)}", soft_wrap=True)
    return 2


def _option(argument: str | None, parser: argparse.ArgumentParser | None) -> str | None:
    """`--images DIR` for `images`; None for a positional argument or one of another command."""
    for action in parser._actions if parser and argument else ():
        if action.dest == argument and action.option_strings:
            value = action.metavar if isinstance(action.metavar, str) else ""
            return f"{action.option_strings[-1]} {value}".rstrip()
    return None


def stopped() -> None:
    """Says that the user has interrupted the command."""
    _err.print("stopped", style="red")


def status(text: str) -> Status:
    """A spinner with a text, printed without markup."""
    return _err.status(plain(text))


def progress() -> Progress:
    """A bar that counts items, with the remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_err,
    )


def transfers() -> Progress:
    """Several bars, each with a field `amount`."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        console=_err,
    )
