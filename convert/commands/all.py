"""`all`: every published checkpoint to modules."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress, TaskID

from .. import batch, console
from . import _arguments

HELP = "convert every published checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="folder to search for checkpoints first; missing ones are fetched into the cache "
        "(MOBILENETS_CACHE)",
    )
    _arguments.modules_output(parser)
    parser.add_argument(
        "--jobs",
        type=_arguments.count,
        default=1,
        metavar="N",
        help="number of parallel conversions (default: 1)",
    )
    _arguments.only(parser, "mobilenet_v1_025_*")
    parser.add_argument(
        "--offline", action="store_true", help="fetch nothing (also MOBILENETS_OFFLINE=1)"
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    names = batch.matching(options.only)
    with console.transfers() as progress:
        bars = _Bars(progress, len(names))
        outcomes = batch.convert_all(
            options.checkpoints,
            options.output,
            only=options.only,
            jobs=options.jobs,
            offline=options.offline,
            on_download=bars.download,
            on_outcome=bars.outcome,
        )
    if options.json:
        console.print_json(outcomes)
    else:
        _print(outcomes)
    return 0 if all(outcome.good for outcome in outcomes) else 1


class _Bars:
    """A bar for the checkpoints, and one for each download while it lasts."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress, self._count, self._done = progress, count, 0
        self._overall = progress.add_task("checkpoints", total=count, amount=f"0/{count}")
        self._transfers: dict[str, TaskID] = {}

    def download(self, name: str, done: int, total: int | None) -> None:
        if name not in self._transfers:
            self._transfers[name] = self._progress.add_task(
                f"fetching {name}", total=total, amount=""
            )
        amount = f"{done / 1e6:.1f}" + (f"/{total / 1e6:.1f}" if total else "") + " MB"
        self._progress.update(
            self._transfers[name],
            completed=done,
            total=total,
            amount=amount,
            visible=done != total,
        )

    def outcome(self, outcome: batch.Outcome) -> None:
        if outcome.variant in self._transfers:
            self._progress.update(self._transfers[outcome.variant], visible=False)
        self._done += 1
        self._progress.update(self._overall, advance=1, amount=f"{self._done}/{self._count}")


def _print(outcomes: Sequence[batch.Outcome]) -> None:
    table = console.table("variant", "", "largest difference, or what went wrong", "from")
    for outcome in outcomes:
        table.add_row(
            outcome.variant,
            outcome.status,
            console.plain(outcome.detail),
            console.plain(outcome.origin),
            style="" if outcome.good else "yellow" if outcome.status == "missing" else "red",
        )
    console.print_table(table)
    counts = Counter(outcome.status for outcome in outcomes)
    console.say(", ".join(f"{count} {status}" for status, count in counts.items()))
