"""Equal models give equal modules: in any process, folder and order, on any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

import mobilenets
from mobilenets import MobileNet
from mobilenets.canonical import canonicalize
from mobilenets.saved_model import Writer

ROOT = Path(__file__).parents[2]
VARIANTS = ("mobilenet_v1_025_64", "mobilenet_v2_035_64", "mobilenet_v1_025_64/quantops")
KINDS = {"feature_vector": {}, "classification": {"class_names": ["background", "cat"]}}
# Saves the models of the arguments after the number of threads, and the folder.
PROGRAM = f"""
import sys
import tensorflow as tf
threads, folder, *names = sys.argv[1:]
tf.config.threading.set_intra_op_parallelism_threads(int(threads))
tf.config.threading.set_inter_op_parallelism_threads(int(threads))
import keras, mobilenets
for name in names:
    variant, _, kind = name.rpartition("/")
    keras.utils.set_random_seed(0)
    model = mobilenets.MobileNet(variant, **{KINDS!r}[kind])
    mobilenets.save(model, f"{{folder}}/{{name}}")
"""


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_process_saves_the_same_again(quick_save: None, tmp_path: Path) -> None:
    """Another model, whose variables have other shapes, gives another file."""
    model = MobileNet("mobilenet_v1_025_64", class_names=["background", "cat"])
    for name in ("one", "other/folder"):
        mobilenets.save(model, tmp_path / name)
    found = files(tmp_path / "one")
    assert found == files(tmp_path / "other" / "folder")
    third = MobileNet("mobilenet_v1_025_64", class_names=["background", "cat", "dog"])
    mobilenets.save(third, tmp_path / "third")
    assert found["saved_model.pb"] != files(tmp_path / "third")["saved_model.pb"]
    assert sorted(found) == [
        "assets.extra/mobilenet.json",
        "assets/class_names.txt",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [True, False], ids=["trainable", "for serving"])
def test_modules_of_one_writer_are_those_of_writers_of_their_own(
    trainable: bool, tmp_path: Path
) -> None:
    """The first one's traces serve the second, in which they are older than all others."""
    model = MobileNet("mobilenet_v1_025_32", class_names=["background", "cat"])
    values = {name: variable.numpy() for name, variable in model.slim_variables.items()}
    arguments = {"variant": model.variant, "class_names": model.class_names}
    writer = Writer(arguments, values, trainable=trainable)
    for name, classes in (("features", False), ("classes", True), ("features again", False)):
        writer.write(tmp_path / name, classes=classes)
    copy = MobileNet(model.variant)
    copy.set_weights(model.get_weights()[:-2])
    mobilenets.save(copy, tmp_path / "features alone", trainable=trainable)
    mobilenets.save(model, tmp_path / "classes alone", trainable=trainable)
    assert files(tmp_path / "classes") == files(tmp_path / "classes alone")
    assert files(tmp_path / "features") == files(tmp_path / "features alone")
    assert files(tmp_path / "features again") == files(tmp_path / "features")


@pytest.mark.parametrize("setting", ["seed", "bfloat16", "XLA", "placement"])
def test_settings_of_the_process_are_not_written(setting: str, tmp_path: Path) -> None:
    switch = "auto_mixed_precision_onednn_bfloat16"
    change, undo = {
        "seed": (lambda: tf.random.set_seed(1), lambda: tf.random.set_seed(None)),
        "bfloat16": (
            lambda: tf.config.optimizer.set_experimental_options({switch: True}),
            lambda: tf.config.optimizer.set_experimental_options({switch: False}),
        ),
        "XLA": (
            lambda: tf.config.optimizer.set_jit("autoclustering"),
            lambda: tf.config.optimizer.set_jit(False),
        ),
        "placement": (
            lambda: tf.config.set_soft_device_placement(False),
            lambda: tf.config.set_soft_device_placement(True),
        ),
    }[setting]

    def save(name: str) -> bytes:
        @tf.function(input_signature=[tf.TensorSpec([None])], autograph=False)
        def inner(x: tf.Tensor) -> tf.Tensor:
            return tf.nn.dropout(x, 0.5)

        module = tf.Module()
        module.outer = tf.function(
            lambda x: inner(x), input_signature=[tf.TensorSpec([None])], autograph=False
        )
        tf.saved_model.save(module, str(tmp_path / name))
        canonicalize(tmp_path / name)
        return (tmp_path / name / "saved_model.pb").read_bytes()

    without = save("without")
    change()
    try:
        assert save("with") == without
    finally:
        undo()


def test_the_functions_compute_the_same(tmp_path: Path) -> None:
    """Calls within calls, of functions that TensorFlow traced in another order than their names."""

    @tf.function(input_signature=[tf.TensorSpec([None])], autograph=False)
    def inner(x: tf.Tensor) -> tf.Tensor:
        return x * module.scale

    @tf.function(input_signature=[tf.TensorSpec([None])], autograph=False)
    def outer(x: tf.Tensor) -> tf.Tensor:
        return inner(inner(x)) + 1.0

    module = tf.Module()
    module.scale = tf.Variable(3.0)
    module.outer, module.inner = outer, inner
    tf.saved_model.save(module, str(tmp_path))
    canonicalize(tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.outer(tf.constant([2.0])).numpy() == [19.0]
    assert loaded.inner(tf.constant([2.0])).numpy() == [6.0]


@pytest.mark.slow
def test_processes_folders_orders_and_threads_do_not_matter(tmp_path: Path) -> None:
    # The signatures of features are the same for every variant.
    names = [f"{VARIANTS[0]}/feature_vector", *(f"{each}/classification" for each in VARIANTS)]
    for threads, folder, order in ((1, "one", names), (3, "the/other", names[::-1])):
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(threads), str(tmp_path / folder), *order],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(threads)},
            check=True,
        )
    one, other = files(tmp_path / "one"), files(tmp_path / "the" / "other")
    assert [name for name in one if one[name] != other.get(name)] == []
    assert len(one) == len(other)
