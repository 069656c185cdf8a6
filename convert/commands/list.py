"""`list`: the published variants."""

from __future__ import annotations

import argparse

from mobilenets.published import archives

from .. import batch, console
from . import _arguments

HELP = "list the published variants"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.only(parser, "mobilenet_v2_*_96")
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    rows = [archives()[name] for name in batch.matching(options.only)]
    if options.json:
        console.print_json(rows)
        return 0
    table = console.table(
        "hub name", "Slim name", "MACs (M)>", "params (M)>", "top-1 %>", "top-5 %>"
    )
    for row in rows:
        table.add_row(
            row.name,
            row.slim_name,
            str(row.million_macs),
            f"{row.million_parameters:.2f}",
            f"{row.top1:.1f}",
            f"{row.top5:.1f}",
        )
    console.print_table(table)
    return 0
