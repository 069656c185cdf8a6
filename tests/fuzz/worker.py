"""The process that reads hostile files: one case after the other, within limits.

    python -m fuzz.worker FOLDER SEED ROUNDS FIRST ONLY [FILE…]

Prints a JSON line when it begins a case and when it has its outcome, so that whoever started it
knows which case ended it. Its limits are the system's: addresses for memory, a timer for CPU time.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mobilenets
from fuzz import archives, bundles, graphs, hdf5, modules, strangers, tensors
from fuzz.cases import ERROR, Expected, Format, Values
from fuzz.limits import MEMORY, SECONDS
from mobilenets import weights

_SAMPLE = Path(__file__).parents[2] / "sample" / "mobilenet_v1_0.25_64.ckpt"
# So long a message is none.
_LONGEST_LINE = 5_000


@dataclass(frozen=True)
class _Outcome:
    """`error`, `equal`, `as the file says`, or the kind of defect; and what was said."""

    what: str
    detail: str = ""


def _load(format: Format, source: Path) -> tuple[object, Values]:
    """The network and its values."""
    if format.module:
        model = mobilenets.load(source)
        values = {name: each.numpy() for name, each in model.slim_variables.items()}
        variant, classes = model.variant, model.num_classes
    else:
        with weights.open(source) as found:
            variant = found.variant(fallback_image_size=224)
            values, classes = found.values(variant), found.num_classes
    return (variant.family, variant.depth_multiplier, variant.quantized, classes), values


def _judged(format: Format, source: Path, good: tuple, expected: Expected) -> _Outcome:
    try:
        network, values = _load(format, source)
    except (mobilenets.MobileNetError, OSError) as error:
        line = next(iter(str(error).splitlines()), "")
        if not line or len(line) > _LONGEST_LINE:
            return _Outcome("no clear line", line[:200])
        return _Outcome("error", line[:300])
    except BaseException as error:
        return _Outcome("other exception", f"{type(error).__name__}: {error}"[:300])
    if expected == ERROR:
        return _Outcome("not refused")
    if network != good[0] or values.keys() != good[1].keys():
        return _Outcome("wrong network", str(network))
    wrong = [name for name, value in values.items() if not _same(value, good[1][name])]
    if not wrong:
        return _Outcome("equal")
    if isinstance(expected, int):
        if sum(_differing(values[name], good[1][name]) for name in wrong) <= expected:
            return _Outcome("as the file says")
        return _Outcome("wrong values", ", ".join(wrong[:3]))
    held = expected or {}
    if all(name in held and _same(values[name], held[name]) for name in wrong):
        return _Outcome("as the file says")
    return _Outcome("wrong values", ", ".join(wrong[:3]))


def _same(value: np.ndarray, other: np.ndarray) -> bool:
    return value.shape == other.shape and value.tobytes() == np.ascontiguousarray(other).tobytes()


def _differing(value: np.ndarray, other: np.ndarray) -> int:
    """How many numbers differ; all of them if the shapes do."""
    return int(np.sum(value != other)) if value.shape == other.shape else value.size


def _formats(seeds: Path) -> list[Format]:
    with weights.open(_SAMPLE) as found:
        variant = found.variant()
        values = found.values(variant)
    sample = seeds / "sample" / "model.ckpt"
    sample.parent.mkdir(parents=True)
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(f"{_SAMPLE}{suffix}", f"{sample}{suffix}")
    return [
        *bundles.formats(values, sample),
        *modules.formats(values, sample),
        *hdf5.formats(values, sample),
        *graphs.formats(values),
        *tensors.formats(values),
        *archives.formats(values, sample),
    ]


def cases(formats: list[Format], rounds: int) -> Iterator[tuple[Format, str, int]]:
    """All cases in order, every kind in each round."""
    for number, format in itertools.product(range(rounds), formats):
        for kind in format.changes:
            if number == 0 or kind not in format.once:
                yield format, kind, number


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """The CPU time of one case; the signal ends the process."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _addresses() -> int:
    """Bytes of addresses that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(root: Path, seed: int, rounds: int, first: int, only: str, *files: str) -> None:
    # TensorFlow writes to standard output, too.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def report(**entry: object) -> None:
        reports.write(json.dumps(entry) + "\n")

    shutil.rmtree(root, ignore_errors=True)
    seeds, at, temporary = root / "seeds", root / "case", root / "tmp"
    temporary.mkdir(parents=True)
    own, others = _formats(seeds), strangers.formats(map(Path, files))
    formats = own + others
    good: dict[str, tuple] = {}
    for format in formats:
        folder = seeds / format.name
        folder.mkdir()
        format.make(folder)
        good[format.name] = _load(format, folder / format.source)
    reference = good[own[0].name]
    for network, values in (good[format.name] for format in own):
        assert network == reference[0]
        assert all(_same(value, reference[1][name]) for name, value in values.items())

    tempfile.tempdir = str(temporary)
    os.chdir(temporary)
    limit = _addresses() + MEMORY
    chosen = cases(formats, rounds)
    report(ready=sum(len(format.changes) for format in formats))
    for number, (format, kind, turn) in enumerate(chosen):
        if number < first or not fnmatch.fnmatch(f"{format.name}/{kind}", only):
            continue
        shutil.rmtree(at, ignore_errors=True)
        shutil.copytree(seeds / format.name, at, symlinks=True)
        expected = format.changes[kind](random.Random(f"{seed}/{format.name}/{kind}/{turn}"), at)
        report(begin=number, format=format.name, kind=kind, round=turn)
        # The limit holds while the file is read, not while it is made.
        resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
        with _limited():
            outcome = _judged(format, at / format.source, good[format.name], expected)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        strayed = [*temporary.iterdir(), *Path("/").glob("outside*"), *root.glob("outside*")]
        if strayed:
            outcome = _Outcome("files elsewhere", ", ".join(map(str, strayed)))
            for path in strayed:
                shutil.rmtree(path, ignore_errors=True)
        report(end=number, what=outcome.what, detail=outcome.detail)
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
