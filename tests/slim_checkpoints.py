"""Checkpoints as TF-Slim writes them, for the tests that read some."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from convert.export.bundle import write
from mobilenets import architecture
from mobilenets.variants import Variant
from mobilenets.weights.bundle import Checkpoint, find
from mobilenets.weights.slim import Selection, select

AVERAGE = "/ExponentialMovingAverage"
INDEX, DATA = ".index", ".data-00000-of-00001"


def network(
    family: str, multiplier: float, classes: int | None = None, quantized: bool | str = False
) -> dict[str, np.ndarray]:
    """Random variables of a whole network as Slim names and shapes them."""
    random = np.random.default_rng(0)
    variables: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        variables[name] = random.normal(size=shape).astype(np.float32)

    scope = architecture.scope(family)
    channels = 3
    for line in architecture.convolutions(Variant(family, multiplier, 224), classes):
        name, kernel = f"{scope}/{line.scope}", (line.kernel_size, line.kernel_size)
        if line.kind == "depthwise":
            add(f"{name}/depthwise_weights", *kernel, channels, 1)
        else:
            add(f"{name}/weights", *kernel, channels, line.filters)
        if line.kind == "logits":
            add(f"{name}/biases", line.filters)
        else:
            for part in ("gamma", "beta", "moving_mean", "moving_variance"):
                add(f"{name}/BatchNorm/{part}", line.filters)
        if quantized:
            twice = name if line.kind == "logits" else f"{scope}/{name}"
            by_channel = (line.filters,) if quantized == "int8" else ()
            for which, shape in (("weights_quant", by_channel), ("act_quant", ())):
                add(f"{twice}/{which}/min", *shape)
                add(f"{twice}/{which}/max", *shape)
        channels = line.filters
    return variables


def some_values() -> dict[str, np.ndarray]:
    """A few variables, where no whole network is needed."""
    random = np.random.default_rng(1)
    return {
        "MobilenetV1/Conv2d_0/weights": random.normal(size=(3, 3, 3, 8)).astype(np.float32),
        "MobilenetV1/Conv2d_0/BatchNorm/beta": random.normal(size=8).astype(np.float32),
        "MobilenetV1/Logits/Conv2d_1c_1x1/biases": random.normal(size=600).astype(np.float32),
    }


def written(folder: Path, name: str, variables: Mapping[str, np.ndarray]) -> Path:
    """The prefix of a checkpoint that holds the variables."""
    write(folder / name, variables)
    return folder / name


def constants(keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Variables that hold their own position."""
    return {key: np.full((2,), i, np.float32) for i, key in enumerate(keys)}


def packed(archive: Path, *files: Path) -> Path:
    """The archive, with the files at its top."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for file in files:
            tar.add(file, arcname=f"./{file.name}")
    return archive


@contextlib.contextmanager
def opened(source: str | Path) -> Iterator[Checkpoint]:
    """The checkpoint at a path, whatever is in it."""
    yield Checkpoint(find(source), str(source))


def selected(folder: Path, keys: Iterable[str], weights: str = "auto") -> Selection:
    return select(Checkpoint(written(folder, "model.ckpt", constants(keys))), weights)
