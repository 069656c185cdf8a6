"""Runs the cases in a worker, and starts another one after a case that ended it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz.limits import WALL_SECONDS

__all__ = ["GOOD", "Case", "run"]

_TESTS = Path(__file__).parents[1]
_WORKER = (sys.executable, "-m", "fuzz.worker")
GOOD = ("error", "equal", "as the file says")
"""The outcomes that are no defects."""


@dataclass(frozen=True)
class Case:
    """A case that was tried.

    Attributes:
      number: In the order of the cases.
      format: Its name.
      kind: Of the change.
      round: With the seed, the format and the kind it decides the change.
      outcome: One of `GOOD`, or the kind of defect.
      detail: What was said.
    """

    number: int
    format: str
    kind: str
    round: int
    outcome: str
    detail: str


def run(
    seed: int,
    rounds: int,
    only: str = "*",
    files: Sequence[Path] = (),
    on_case: Callable[[Case], None] = lambda case: None,
) -> list[Case]:
    """Tries every kind of change of every format, and of the files of others, once a round."""
    found: list[Case] = []
    first = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while first is not None:
            last = None
            for case in _until_it_ends(Path(folder, "files"), seed, rounds, first, only, files):
                found.append(case)
                on_case(case)
                last = case
            first = last.number + 1 if last and last.outcome in _ENDED else None
    return found


_ENDED = ("abort", "hang")


def _until_it_ends(
    folder: Path, seed: int, rounds: int, first: int, only: str, files: Sequence[Path]
) -> Iterator[Case]:
    """The cases of one worker; the last is the one that ended it, if one did."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(_TESTS), str(_TESTS.parent))),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with tempfile.TemporaryFile() as said:
        worker = subprocess.Popen(
            [*_WORKER, folder, str(seed), str(rounds), str(first), only, *files],
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
        )
        begun, ready, waited = None, False, False
        try:
            for line in _lines(worker):
                if line is None:
                    waited = True
                    break
                entry = json.loads(line)
                ready = ready or "ready" in entry
                if "begin" in entry:
                    begun = entry
                elif "end" in entry:
                    yield _case(begun, entry["what"], entry["detail"])
                    begun = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            code = worker.wait()
        said.seek(0, os.SEEK_END)
        said.seek(max(0, said.tell() - 2000))
        last_words = said.read().decode(errors="replace").strip()
    if begun is not None:
        hung = waited or code == -signal.SIGPROF
        ending = "hang" if hung else "abort"
        yield _case(begun, ending, f"exit {code}: {last_words[-300:]}")
    elif not ready or (code not in (0, -signal.SIGKILL)):
        raise RuntimeError(f"the worker failed between cases, exit {code}: {last_words}")


def _lines(worker: subprocess.Popen) -> Iterator[bytes | None]:
    """What it prints; None if it prints nothing for too long."""
    assert worker.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        rest = b""
        while True:
            if not selector.select(WALL_SECONDS):
                yield None
                return
            chunk = os.read(worker.stdout.fileno(), 1 << 16)
            if not chunk:
                # So that its exit code is its own.
                worker.wait(WALL_SECONDS)
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines


def _case(begun: dict, outcome: str, detail: str) -> Case:
    return Case(begun["begin"], begun["format"], begun["kind"], begun["round"], outcome, detail)
