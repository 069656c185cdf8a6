"""docs/trust.md: what was tried, within which limits, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fuzz.campaign import GOOD, Case
from fuzz.found import DEFECTS
from fuzz.kills import Kill
from fuzz.limits import MEMORY, SECONDS, WALL_SECONDS

__all__ = ["page"]

_ROOT = Path(__file__).parents[2]

_HEAD = """# Hostile files, killed processes

What is written is whole, what is loaded is right or refused, and a bad input is an error.
`make fuzz LONG=1` tries that and writes this page; every number on it was counted in one run.
What TensorFlow does not protect from is in [SECURITY.md](../SECURITY.md).
"""


def page(
    run: str, cases: Sequence[Case], kills: Sequence[Kill], soak: Sequence[str], versions: str
) -> str:
    """The page, as Markdown."""
    parts = [
        _HEAD,
        f"This run was `{run}`, with {versions}.\n",
        "## Damaged and forged files\n",
        f"{len(cases):,} cases: a real file of each format, all with the weights of the sample "
        "checkpoint, and the files of others that the run names, changed in one way each. Each was "
        f"read in a process that had {MEMORY >> 30} GiB of addresses beyond what it used before, "
        f"{SECONDS} s of CPU time and {WALL_SECONDS} s of any kind.\n",
        "- error: refused by a `MobileNetError` or an `OSError` with a message.",
        "- equal: loaded, and every value equals the unchanged file's, bit for bit.",
        "- as the file says: loaded, and the values are those that stand in the changed file. "
        "HDF5, frozen graphs and safetensors have no checksums, so a flipped bit of a value is a "
        "value; the SHA-256 of what is fetched tells it. Of a file of others: no more numbers "
        "differ than bytes were changed.",
        "- defect: anything else: other values, another exception, a hang, too much memory, the "
        "end of the process, a file elsewhere.\n",
        _table("format", ((case.format, case) for case in cases)),
        "### By kind of change\n",
        _table("change", ((case.kind, case) for case in cases), by_name=True),
    ]
    if kills:
        parts += [
            "## Killed processes\n",
            "`kill -9` at a random moment of the run, of the process alone; then the command runs "
            "again. Left: hidden folders that lay there after the kills. Problem: a half module or "
            "file under its own name, a worker that went on, a failed next run, or hidden folders "
            "that were there after it.\n",
            _kills(kills),
        ]
    if soak:
        parts += ["## Long runs\n", *(f"- {line}" for line in soak), ""]
    parts += [
        "## What is not caught\n",
        "Single pixels outside of [0, 1], and bright images in [-1, 1] that are a batch of their "
        "own. The networks look at one sum, the mean square of 2 x - 1 over the batch, which tells "
        "pixels in 0 to 255, in [-1, 1], standardised ones, NaN and infinity from images that "
        "resizing or noise took a little beyond [0, 1]. XLA leaves such checks out: Keras 3 "
        "compiles with it on GPUs, unless a model is compiled with `jit_compile=False`.\n",
        "## What this found\n",
        "In the runs, or while their cases were written. All are mended; the test named with each "
        "fails without.\n",
    ]
    parts += [
        f"- {text}: [{test.rpartition('::')[2]}](../{test.partition('::')[0]})"
        for text, test in DEFECTS
    ]
    return "\n".join(parts) + "\n"


def _table(title: str, found: Iterable[tuple[str, Case]], by_name: bool = False) -> str:
    counts: dict[str, Counter[str]] = {}
    for name, case in found:
        counts.setdefault(name, Counter())[case.outcome if case.outcome in GOOD else "defect"] += 1
    columns = (*GOOD, "defect")
    rows = [f"| {title} | cases | {' | '.join(columns)} |", "| --- |" + " ---: |" * 5]
    names = sorted(counts) if by_name else list(counts)
    for name in names:
        numbers = [counts[name].total(), *(counts[name][column] for column in columns)]
        rows.append(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    if not by_name:
        total = sum(counts.values(), Counter())
        numbers = [total.total(), *(total[column] for column in columns)]
        rows.append(f"| all | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(rows) + "\n"


def _kills(kills: Sequence[Kill]) -> str:
    rows = ["| command | kills | ended before | left | problems |", "| --- |" + " ---: |" * 4]
    for command in dict.fromkeys(kill.command for kill in kills):
        these = [kill for kill in kills if kill.command == command]
        numbers = (
            sum(kill.killed for kill in these),
            sum(not kill.killed for kill in these),
            sum(kill.left for kill in these),
            sum(bool(kill.problem) for kill in these),
        )
        rows.append(f"| {command} | {' | '.join(map(str, numbers))} |")
    return "\n".join(rows) + "\n"
