"""Time and memory of the converter, measured on whole processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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


def _run(*arguments: str | Path) -> tuple[float, float]:
    """Seconds of a `python -m convert …`, and the largest process's memory in GB."""
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    start, largest = time.perf_counter(), 0
    # A session of its own, to find the processes that it starts.
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            largest = max(largest, *_memory_of_session(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}")
    return time.perf_counter() - start, largest / 1e6


def _memory_of_session(leader: int) -> Iterator[int]:
    """The most that each process of a session has had resident so far, in kB."""
    yield 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader:
                status = (folder / "status").read_text()
                yield int(status.partition("VmHWM:")[2].split()[0])
        except (OSError, IndexError):
            pass  # It has ended.


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
