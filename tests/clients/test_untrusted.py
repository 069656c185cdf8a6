"""Code in a file does not run when the library loads the file."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from slim_checkpoints import network
from tiers import first_fast
from weight_formats import hub_module

import mobilenets
from mobilenets import MobileNetError


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file that hostile code writes."""
    return tmp_path / "trace"


class _Hostile:
    """What runs a program when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.trace}'",)


def test_what_the_hostile_pickle_does(trace: Path) -> None:
    """What the tests below build on."""
    pickle.loads(pickle.dumps(_Hostile(trace)))
    assert trace.exists()


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.pkl", "pytorch_model.bin"])
def test_a_pickle_is_not_read(name: str, trace: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(_Hostile(trace)))
    with refused("is not a checkpoint; expected", MobileNetError):
        mobilenets.load(tmp_path / name)
    assert not trace.exists()


def test_pytorchs_zip_of_a_pickle_is_not_read(trace: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Hostile(trace)))
    with refused("is not a checkpoint; expected", MobileNetError):
        mobilenets.load(tmp_path / "model.pth")
    assert not trace.exists()


def test_a_repositorys_pickle_is_not_read(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mobilenet_v1"}')
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(_Hostile(trace)))
    with refused("as a pickle .*, which can run any code and is not read", MobileNetError):
        mobilenets.load(tmp_path)
    assert not trace.exists()


def test_an_array_of_objects_is_not_read(trace: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "weights.npy", np.array([_Hostile(trace)], object), allow_pickle=True)
    with refused("is not a checkpoint; expected", MobileNetError):
        mobilenets.load(tmp_path / "weights.npy")
    assert not trace.exists()


@pytest.mark.parametrize("form", first_fast([".keras", ".h5"]))
def test_a_lambda_layer_does_not_run(
    form: str, trace: Path, tmp_path: Path, module: Callable[..., Path]
) -> None:
    network = mobilenets.load(module("mobilenet_v1"))

    def hostile(images, trace=str(trace)):
        open(trace, "w").close()
        return images

    model = keras.Sequential(
        [keras.Input((64, 64, 3)), keras.layers.Lambda(hostile, (64, 64, 3)), network]
    )
    model(np.zeros((1, 64, 64, 3), np.float32))
    model.save(tmp_path / f"model{form}")
    assert trace.exists()
    trace.unlink()
    loaded = mobilenets.load(tmp_path / f"model{form}", variant=network.variant)
    assert not trace.exists()
    for name, variable in network.slim_variables.items():
        np.testing.assert_array_equal(loaded.slim_variables[name].numpy(), variable.numpy())


class _Initialized(tf.saved_model.experimental.TrackableResource):
    """What TensorFlow runs when it loads a SavedModel."""

    def __init__(self, trace: Path, how: str) -> None:
        super().__init__()
        self._trace, self._how = str(trace), how

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.string)

    def _initialize(self) -> None:
        if self._how == "write_file":
            tf.io.write_file(self._trace, "x")
        else:
            tf.py_function(Path(self._trace).touch, [], [])


@pytest.fixture(params=["write_file", "py_function"])
def hostile_module(
    request: pytest.FixtureRequest, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """`hostile_module(values)`: a SavedModel that writes a file when TensorFlow loads it."""

    def hostile_module(values: dict[str, np.ndarray]) -> Path:
        save = tf.saved_model.save

        def with_more(module: tf.train.Checkpoint, folder: str) -> None:
            module.resource = _Initialized(trace, request.param)
            save(module, folder)

        monkeypatch.setattr("tensorflow.saved_model.save", with_more)
        folder = hub_module(tmp_path / "hostile", values, 64)
        trace.unlink(missing_ok=True)
        return folder

    return hostile_module


def test_what_tensorflow_does_with_a_hostile_savedmodel(
    hostile_module: Callable, trace: Path
) -> None:
    """What SECURITY.md warns of, and the tests below build on."""
    tf.saved_model.load(str(hostile_module(network("mobilenet_v1", 0.25))))
    assert trace.exists()


def test_a_savedmodels_functions_do_not_run(hostile_module: Callable, trace: Path) -> None:
    values = network("mobilenet_v1", 0.25)
    model = mobilenets.load(hostile_module(values))
    assert not trace.exists()
    for name, variable in model.slim_variables.items():
        np.testing.assert_array_equal(variable.numpy(), values[name])


def test_a_modules_functions_do_not_run(
    hostile_module: Callable, module: Callable[..., Path], trace: Path, tmp_path: Path
) -> None:
    """A module that says `mobilenets.save` wrote it."""
    model = mobilenets.load(module("mobilenet_v1"))
    values = {name: each.numpy() for name, each in model.slim_variables.items()}
    folder = hostile_module(values)
    shutil.copytree(module("mobilenet_v1") / "assets.extra", folder / "assets.extra")
    loaded = mobilenets.load(folder)
    assert not trace.exists()
    assert loaded.variant == model.variant
