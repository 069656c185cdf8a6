"""TensorFlow's thread pools: a module's time under each setting, in a process of its own.

The pools cannot be changed once TensorFlow has started. The processes stand by and take turns.

    python -m benchmarks.threads MODULE SIZE INTRA INTER

runs one of them: each line of standard input says how many images to call the module with, and how
often; it answers when that is done.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

__all__ = ["SETTINGS", "contenders"]

SETTINGS: Mapping[str, tuple[int, int]] = {
    "default": (0, 0),
    "1 intra, 1 inter": (1, 1),
    "1 intra, 2 inter": (1, 2),
    "2 intra, 1 inter": (2, 1),
}
"""Threads within an operation, and operations at a time; 0 leaves it to TensorFlow."""


@contextlib.contextmanager
def contenders(module: Path, size: int) -> Iterator[dict[str, Callable[[int, int], None]]]:
    """For each setting a function that has its process call the module.

    The function takes the number of images and of calls, one after the other: the first ones find
    the processor's caches full of another process's data.

    Args:
      module: A module's folder.
      size: Height and width of the images, in pixels.
    """
    with contextlib.ExitStack() as stack:
        yield {
            name: _asking(stack.enter_context(_process(module, size, *threads)))
            for name, threads in SETTINGS.items()
        }


def _process(module: Path, size: int, intra: int, inter: int) -> subprocess.Popen[str]:
    numbers = map(str, (size, intra, inter))
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.threads", str(module), *numbers],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _asking(process: subprocess.Popen[str]) -> Callable[[int, int], None]:
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(batch: int, calls: int) -> None:
        stdin.write(f"{batch} {calls}\n")
        stdin.flush()
        if not stdout.readline():
            raise RuntimeError(f"{process.args} ended with {process.wait()}")

    return ask


def _serve(module: str, size: int, intra: int, inter: int) -> None:
    from convert import quiet  # noqa: F401  # before anything loads TensorFlow

    # isort: split
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(intra)
    tf.config.threading.set_inter_op_parallelism_threads(inter)
    loaded = tf.saved_model.load(module)
    call = tf.function(lambda images: loaded(images))
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        images = tf.random.stateless_uniform([batch, size, size, 3], [0, 0])
        for _ in range(calls):
            call(images).numpy()
        print(flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], *map(int, sys.argv[2:]))
