"""What cannot be read ends in exit code 2 and one line, in `inspect` and `checkpoint` alike."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from slim_checkpoints import constants, network, packed, written
from weight_formats import frozen_graph, hub_module, hugging_face

import mobilenets
from mobilenets.weights import WeightsError

V3 = "this is MobileNet V3; only V1 and V2 are supported"
VALUES_OF_V3 = constants(["MobilenetV3/Conv/weights", "MobilenetV3/Conv/BatchNorm/gamma"])


def no_kind(folder: Path) -> Path:
    (folder / "notes.bin").write_bytes(b"of something else")
    return folder / "notes.bin"


def no_graph(folder: Path) -> Path:
    (folder / "graph.pb").write_bytes(b"\x0a\xff no graph")
    return folder / "graph.pb"


def truncated(folder: Path) -> Path:
    with h5py.File(folder / "model.h5", "w") as file:
        file["conv1/kernel:0"] = np.zeros(100_000, np.float32)
    content = (folder / "model.h5").read_bytes()
    (folder / "model.h5").write_bytes(content[: len(content) // 2])
    return folder / "model.h5"


def forged(folder: Path) -> Path:
    made = hugging_face(folder / "made", network("mobilenet_v1", 0.25))
    file = made / "model.safetensors"
    file.write_bytes((1 << 40).to_bytes(8, "little") + file.read_bytes()[8:])
    return made


def transformers_v3(folder: Path) -> Path:
    return hugging_face(folder / "m", network("mobilenet_v2", 0.35), model_type="mobilenet_v3")


def archive_of_v3(folder: Path) -> Path:
    written(folder / "run", "model.ckpt", VALUES_OF_V3)
    return packed(folder / "model.tgz", folder / "run")


def objects_of_v3(folder: Path) -> str:
    variables = [tf.Variable(value, name=name) for name, value in VALUES_OF_V3.items()]
    return tf.train.Checkpoint(net=variables).write(str(folder / "ckpt"))


@functools.cache
def v3() -> keras.Model:
    return keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3), alpha=0.75, weights=None, include_top=False
    )


def keras_v3(name: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        model = v3()
        (model.save_weights if "weights" in name else model.save)(folder / name)
        return folder / name

    return save


CASES: dict[str, tuple[str | Callable[[Path], str | Path], str]] = {
    "size": ("mobilenet_v2_035_69", "was never published; nearest: mobilenet_v2_035_96"),
    "spelling": ("mobilnet_v2_035_96", "variant has this name; nearest: mobilenet_v2_035_96"),
    "quantized": ("mobilenet_v2_035_96/quantops", "has no quantized form; nearest: "),
    "no kind": (no_kind, "notes.bin is not a checkpoint; expected"),
    "no graph": (no_graph, "graph.pb is (damaged or not a GraphDef|not a checkpoint)"),
    "truncated": (truncated, r"model\.h5.* (damaged|truncated|incomplete)"),
    "forged": (forged, "its header is longer than the file"),
    "slim, V3": (lambda folder: written(folder, "m.ckpt", VALUES_OF_V3), V3),
    "archive, V3": (archive_of_v3, V3),
    "TF2 module, V3": (lambda folder: hub_module(folder / "m", VALUES_OF_V3), V3),
    "Checkpoint, V3": (objects_of_v3, V3),
    "frozen graph, V3": (lambda folder: frozen_graph(folder / "m.pb", VALUES_OF_V3), V3),
    "Hugging Face, V3": (transformers_v3, V3),
    "Keras 3, V3": (keras_v3("m.keras"), V3),
    "Keras 3's weights, V3": (keras_v3("m.weights.h5"), V3),
    "h5, V3": (keras_v3("m.h5"), V3),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_written(
    case: str,
    command: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    made, message = CASES[case]
    source = made if isinstance(made, str) else made(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for arguments in (("inspect", source), ("checkpoint", source, "--output", tmp_path / "models")):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert re.search(message, err)
    assert sorted(tmp_path.rglob("*")) == before


def test_load_says_it_once(tmp_path: Path) -> None:
    """Where a reader knows what a folder is, its own error suffices."""
    folder = hub_module(tmp_path / "m", VALUES_OF_V3)
    with pytest.raises(WeightsError) as caught:
        mobilenets.load(folder)
    assert str(caught.value) == f"{folder}: {V3}"
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(WeightsError) as caught:
        mobilenets.load(tmp_path / "other")
    assert str(caught.value).count(str(tmp_path / "other")) == 1
