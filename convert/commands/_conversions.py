"""Prints conversions, for the commands that make or verify them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console

if TYPE_CHECKING:
    from ..conversion import Conversion

__all__ = ["print_conversions"]


def print_conversions(conversions: Sequence[Conversion], as_json: bool) -> None:
    """Prints a row for each conversion, and the references of the comparison."""
    if as_json:
        console.print_json(list(conversions))
        return
    table = console.table("module", "", "equal variables>", "difference>", "of outputs to>")
    for done in conversions:
        parity = done.parity
        table.add_row(
            f"{done.variant}/{Path(done.directory).name}",
            "written" if done.written else "unchanged",
            str(parity["variables"] or "-"),
            console.figure(parity["largest_difference"], ".1e"),
            console.figure(parity["largest_output"], ".3g"),
        )
    console.print_table(table)
    for reference in {done.parity["reference"] for done in conversions}:
        if reference:
            console.say("Outputs compared with {}.", reference)
        else:
            console.say("No other implementation has this network: outputs not compared.")
