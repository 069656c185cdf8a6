"""The command line in a process of its own: as users start it, and several commands in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

__all__ = ["ROOT", "SAMPLE", "as_program", "in_turn", "writers"]

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt"
_IN_TURN = """
import json, sys
from convert.__main__ import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    for stream in (sys.stdout, sys.stderr):
        print(f"<end {code}>", file=stream, end="", flush=True)
"""


def as_program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What `python -m convert` prints and exits with."""
    return subprocess.run(
        [sys.executable, "-m", "convert", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def in_turn(
    commands: Iterable[Sequence[object]],
    before: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """What commands print one after the other; both outputs say where one ends, `<end 0>`.

    Importing TensorFlow for each would take most of the time.

    Args:
      commands: Arguments of each.
      before: Called in the process before it begins.
      environment: Variables in addition to those of this process.
    """
    given = [[str(argument) for argument in arguments] for arguments in commands]
    return subprocess.run(
        [sys.executable, "-c", _IN_TURN, json.dumps(given)],
        cwd=ROOT,
        env={**os.environ, **environment},
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
    )


def writers(models: Path, photos: Path, output: Path) -> dict[str, tuple]:
    """The arguments of every command that writes files, but for `all`.

    Args:
      models: What `checkpoint` wrote for the sample, with class names.
      photos: Images, in a folder for each class.
      output: The folder of all that they write.
    """
    images = ("--images", photos)
    arguments = {
        "slim": (SAMPLE, "m.ckpt"),
        "keras-weights": (SAMPLE, "w.h5"),
        "keras-weights for Keras 3": (SAMPLE, "w.weights.h5"),
        "lite": (SAMPLE, "m.tflite"),
        "features": (SAMPLE, "f.npz", *images),
        "features as Parquet": (SAMPLE, "f.parquet", *images),
        "checkpoint": (SAMPLE, "made"),
        "publish": (models, "site"),
    }
    found = {
        name: (name.partition(" ")[0], source, "--output", output / file, *more)
        for name, (source, file, *more) in arguments.items()
    }
    module = models / "mobilenet_v1_025_64" / "classification"
    return found | {"evaluate": ("evaluate", module, *images, "--csv", output / "p.csv")}
