"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Traces are many objects that live long: collecting garbage seldom saves an eighth of the time.
gc.set_threshold(50_000, 20, 100)


def pytest_collection_finish() -> None:
    """What the libraries have loaded stays, and need not be looked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference data, which is never committed; without it the test is skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MOBILENETS_REFERENCE_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"reference data absent: {folder} (or set MOBILENETS_REFERENCE_DATA)")
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`command(*arguments)`: what `python -m convert` exits with, prints, and reports as errors."""
    from convert.__main__ import main

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="session")
def randomise() -> Callable[..., Any]:
    """`randomise(layer, seed=0)`: gives every variable a random value that makes a difference.

    Kernels keep the activations' scale through the depth, batch norms are far from the identity,
    and the same seed gives the same values. Ranges of quantization stay as they are.
    """
    import numpy as np

    ranges = {
        "gamma": (0.6, 1.4),
        "beta": (-0.5, 0.8),
        "moving_mean": (-0.5, 0.5),
        "moving_variance": (0.4, 1.6),
        "biases": (-1, 1),
    }

    def randomise(layer: Any, seed: int = 0) -> Any:
        random = np.random.default_rng(seed)
        for variable in layer.variables:
            shape = tuple(variable.shape)
            if variable.name in ("min", "max"):
                continue
            if variable.name in ranges:
                value = random.uniform(*ranges[variable.name], shape)
            else:
                fan_in = np.prod(shape[:2] if "depthwise" in variable.name else shape[:3])
                value = random.normal(0, 1.4 / np.sqrt(fan_in), shape)
            variable.assign(value)
        return layer

    return randomise


@pytest.fixture(scope="session")
def random_images() -> Callable[..., Any]:
    """`random_images(batch, height, width=height)`: float32 in [0, 1], the same at every call."""
    import numpy as np

    def random_images(batch: int, height: int, width: int | None = None) -> np.ndarray:
        random = np.random.default_rng(batch * height)
        return random.uniform(size=(batch, height, width or height, 3)).astype(np.float32)

    return random_images


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory, randomise: Callable) -> Callable[..., Path]:
    """`module(family, num_classes=None)`: the folder of a small saved module, random weights.

    Its image size is 64, its classes have no names. Written once: not to be changed.
    """
    import mobilenets

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The workers share the folder above their own, and what one has written.
        root = root.parent

    def module(family: str, num_classes: int | None = None) -> Path:
        multiplier = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35}[family]
        variant = mobilenets.Variant(family, multiplier, 64)
        folder = root / f"{variant.name}-{num_classes or 'features'}"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                mobilenets.save(randomise(mobilenets.MobileNet(variant, num_classes)), folder)
        return folder

    return module


Context = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _saving(trace: Callable[..., dict]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilenets.saved_model.Writer._signatures", trace)
        yield


@pytest.fixture(scope="session")
def untraced() -> Context:
    """`with untraced():` spares the traces of modules that are saved, where none is called."""
    return functools.partial(_saving, lambda *_: {})


@pytest.fixture(scope="session")
def inference_alone() -> Context:
    """`with inference_alone():` traces of modules that are saved nothing but `module(images)`."""
    import tensorflow as tf

    def trace(writer: Any, call: Any, classes: bool) -> dict:
        call.get_concrete_function(tf.TensorSpec([None, None, None, 3], tf.float32))
        return {}

    return functools.partial(_saving, trace)


@pytest.fixture
def quick_save(untraced: Context) -> Iterator[None]:
    """Spares the traces of modules that are saved, for tests that call none."""
    with untraced():
        yield


@pytest.fixture
def quick_conversion(inference_alone: Context) -> Iterator[None]:
    """Spares the traces of modules that are converted but for the one that verifies them."""
    with inference_alone():
        yield
