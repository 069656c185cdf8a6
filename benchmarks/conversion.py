"""Time and memory of the converter, measured on whole processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import mobilenets
from convert.export import bundle

__all__ = ["all_of", "one", "random_checkpoint"]

_ROOT = Path(__file__).resolve().parents[1]


def random_checkpoint(name: str, folder: Path) -> Path:
    """A Slim checkpoint of a published variant with random weights and 1001 classes."""
    variant = mobilenets.Variant.parse(name)
    model = mobilenets.MobileNet(variant, 1001)
    prefix = folder / variant.slim_name / f"{variant.slim_name}.ckpt"
    prefix.parent.mkdir(parents=True, exist_ok=True)
    values = {name: np.asarray(value) for name, value in model.slim_variables.items()}
    bundle.write(prefix, values)
    return prefix


# A forked process starts with its parent's peak memory, so a small process does the measuring.
_MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(
    sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
).returncode
seconds = time.perf_counter() - start
print(code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6)
"""


def _run(*arguments: str | Path) -> tuple[float, float]:
    """Seconds of a `python -m convert …`, and the largest process's memory in GB."""
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    if measured[0] != "0":
        raise RuntimeError(f"{' '.join(command)} failed with {measured[0]}")
    return float(measured[1]), float(measured[2])


def one(name: str) -> tuple[float, float]:
    """`convert checkpoint`, both kinds, verified: seconds and GB."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = random_checkpoint(name, Path(folder))
        return _run("checkpoint", prefix, "--output", Path(folder) / "models")


def all_of(glob: str, names: list[str], jobs: int) -> tuple[float, float]:
    """`convert all` of the named checkpoints: seconds, and the largest process's GB."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        for name in names:
            random_checkpoint(name, checkpoints)
        return _run(
            "all",
            "--checkpoints",
            checkpoints,
            "--output",
            Path(folder) / "models",
            "--only",
            glob,
            "--jobs",
            str(jobs),
            "--offline",
        )
