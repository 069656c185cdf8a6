"""Tries hostile files, and in the long run kills and soaks: `make fuzz [LONG=1]`."""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fuzz import campaign, kills, soak
from fuzz.page import page

# TensorFlow's, in the long run.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_PAGE = Path(__file__).parents[2] / "docs" / "trust.md"


def main() -> int:
    """Returns 1 if there was a defect."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="cases for each kind of change")
    parser.add_argument("--only", default="*", help='a glob over "<format>/<kind>"')
    parser.add_argument(
        "--files",
        type=Path,
        nargs="+",
        default=(),
        metavar="PATH",
        help="weights that other people wrote (files, folders, checkpoint prefixes), changed too",
    )
    parser.add_argument(
        "--kills", type=int, default=0, help="for each command; cheap ones get more"
    )
    parser.add_argument("--soak", type=float, default=0, help="share of the full soak, up to 1")
    parser.add_argument("--page", action="store_true", help="write docs/trust.md")
    options = parser.parse_args()

    counts: Counter[str] = Counter()

    def on_case(case: campaign.Case) -> None:
        counts[case.outcome] += 1
        if case.outcome not in campaign.GOOD:
            print(
                f"{case.format}, {case.kind}, round {case.round}: {case.outcome}: {case.detail}",
                flush=True,
            )

    def on_kill(kill: kills.Kill) -> None:
        if kill.problem:
            print(f"{kill.command}, killed after {kill.seconds:.2f} s: {kill.problem}", flush=True)

    # In a process of its own, meanwhile.
    soaking = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    soaked = soaking.submit(soak.run, options.soak) if options.soak else None
    files = [path.resolve() for path in options.files]
    cases = campaign.run(options.seed, options.rounds, options.only, files, on_case)
    outcomes = ", ".join(f"{number} {what}" for what, number in counts.items())
    print(f"{len(cases)} cases: {outcomes}", flush=True)
    killed: list[kills.Kill] = []
    for name in kills.COMMANDS if options.kills else ():
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            count = options.kills * kills.COMMANDS[name].share
            killed += kills.run(name, count, options.seed, Path(folder, "files"), on_kill)
        print(f"{sum(kill.killed for kill in killed)} kills so far, with {name}", flush=True)
    lines = soaked.result() if soaked else []
    for line in lines:
        print(line)
    if options.page:
        names = ("tensorflow", "keras", "h5py", "numpy")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        names_only = {str(path): path.name for path in options.files}
        arguments = (names_only.get(word, word) for word in sys.argv[1:])
        run = " ".join(("python -m fuzz", *arguments))
        _PAGE.write_text(page(run, cases, killed, lines, versions), encoding="utf-8")
    bad = len(cases) - sum(counts[good] for good in campaign.GOOD)
    bad += sum(bool(kill.problem) for kill in killed)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
