"""Long runs in one process: memory and file descriptors stay bounded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["run"]

_SAMPLE = Path(__file__).parents[2] / "sample" / "mobilenet_v1_0.25_64.ckpt"
_STEPS, _LOADS, _CONVERSIONS = 300, 1000, 200


def _memory() -> float:
    """Resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def run(share: float) -> list[str]:
    """Runs each kind of work, and says how memory and descriptors grew.

    Args:
      share: Of the full number of repetitions, up to 1.

    Returns:
      A line for each kind.
    """
    import numpy as np
    import tensorflow as tf

    import mobilenets
    from convert.conversion import convert

    lines = []

    def soaked(what: str, count: int, work: Callable[[int], object]) -> None:
        quarter = max(4, round(count * share / 4))
        memory, descriptors = [], []
        for turn in range(4 * quarter):
            work(turn)
            memory.append(_memory())
            descriptors.append(_descriptors())
        # Memory rises and falls with the collector: peaks are compared. The first quarter fills
        # caches and pools.
        early, late = slice(quarter, 2 * quarter), slice(3 * quarter, None)
        lines.append(
            f"{4 * quarter} {what}: at most {max(memory[early]):.0f} MiB and "
            f"{max(descriptors[early])} file descriptors in the second quarter, "
            f"{max(memory[late]):.0f} MiB and {max(descriptors[late])} in the last"
        )

    with tempfile.TemporaryDirectory() as folder:
        model = mobilenets.load(_SAMPLE)
        module = Path(folder, "module")
        mobilenets.save(model, module)
        loaded = tf.saved_model.load(str(module))
        images = tf.constant(np.random.default_rng(0).uniform(size=(8, 64, 64, 3)), tf.float32)
        optimizer = tf.keras.optimizers.SGD(1e-3)

        @tf.function
        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(loaded(images, training=True)))
            variables = loaded.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        soaked("steps of fine-tuning a module", _STEPS, lambda turn: step())
        soaked("loads of a native model", _LOADS, lambda turn: mobilenets.load(module))
        soaked("loads of a module", _LOADS, lambda turn: tf.saved_model.load(str(module)))
        soaked(
            "conversions",
            _CONVERSIONS,
            lambda turn: convert(_SAMPLE, Path(folder, str(turn)), kinds=["feature_vector"]),
        )
    return lines
