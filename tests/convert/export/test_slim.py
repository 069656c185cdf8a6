"""A checkpoint becomes a module and a checkpoint again: the same bits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from tiers import first_fast

import mobilenets
from convert.__main__ import main
from convert.errors import ConvertError
from convert.export import slim
from mobilenets import MobileNet, Variant, weights
from mobilenets.weights import mapping
from mobilenets.weights.bundle import Checkpoint

CHECKPOINTS = [
    *(f"checkpoints/mobilenet_v1_0.25_{size}" for size in (128, 160, 192, 224)),
    *(
        f"checkpoints/mobilenet_v1_{name}_quant"
        for name in ("0.25_128", "0.5_160", "0.75_192", "1.0_224")
    ),
    "checkpoints_2018/mobilenet_v1_0.25_224",
    "hub_tf1/mobilenet_v2_035_128_feature_vector_2",
    "slim_random/mobilenet_v1_0.5_160",
    "slim_random/mobilenet_v1_0.25_128_quant",
    "slim_random/mobilenet_v2_0.35_96",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "selection"),
    [
        *((name, "auto") for name in CHECKPOINTS),
        ("slim_random/mobilenet_v1_0.5_160", "averages"),
        ("slim_random/mobilenet_v2_0.35_96", "raw"),
    ],
)
def test_checkpoint_to_module_to_checkpoint(name, selection, quick_save, reference_data, tmp_path):
    with weights.open(reference_data / name, selection) as source:
        model = mobilenets.load(reference_data / name)
        variant = model.variant
        expected = source.values(variant)
        mapping.assign(model, expected)
    mobilenets.save(model, tmp_path / "module")
    slim.export(tmp_path / "module", tmp_path / f"{variant.slim_name}.ckpt")

    written = Checkpoint(tmp_path / f"{variant.slim_name}.ckpt")
    assert set(written.shapes) == {*expected, "global_step"}
    for variable, value in written.read(expected).items():
        assert value.dtype == expected[variable].dtype
        assert value.tobytes() == expected[variable].tobytes(), variable

    with weights.open(tmp_path) as again:
        assert again.variant() == variant
        assert again.keys == {variable: variable for variable in expected}


@pytest.mark.parametrize("classes", first_fast([7, None]), ids=["classification", "feature vector"])
@pytest.mark.parametrize("family", first_fast(["mobilenet_v1", "mobilenet_v2"]))
def test_a_saved_module_gives_its_variables(family, classes, module, tmp_path):
    done = slim.export(module(family, classes), tmp_path / "new" / "model.ckpt")
    assert done.path == str(tmp_path / "new" / "model.ckpt")
    assert done.bytes == sum(file.stat().st_size for file in (tmp_path / "new").iterdir())
    found = Checkpoint(tmp_path / "new" / "model.ckpt")
    variables = mobilenets.load(module(family, classes)).slim_variables
    assert list(done.variables) == list(variables)
    for name, value in found.read(variables).items():
        np.testing.assert_array_equal(value, variables[name].numpy())


def test_tensorflow_1_restores_it_with_a_global_step(module, tmp_path):
    """As Slim's eval_image_classifier does it, which wants a global_step."""
    prefix = tmp_path / "model.ckpt"
    slim.export(module("mobilenet_v1"), prefix)
    name = "MobilenetV1/Conv2d_0/weights"
    expected = mobilenets.load(module("mobilenet_v1")).slim_variables[name].numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable(name, expected.shape)
        step = tf.compat.v1.train.get_or_create_global_step()
        tf.compat.v1.train.Saver([variable, step]).restore(session, str(prefix))
        np.testing.assert_array_equal(session.run(variable), expected)
        assert session.run(step) == 0


@pytest.mark.parametrize(
    ("source", "prefix", "message"),
    [
        ("absent", "model.ckpt", "no file, folder or published variant"),
        ("{tmp}", "model.ckpt", "was not written by mobilenets.save"),
        (None, "", "is a folder"),
        (None, "new/", "is a folder"),
    ],
    ids=["no module", "another folder", "an existing folder", "a folder by its slash"],
)
def test_mistakes(source, prefix, message, tmp_path):
    model = MobileNet(Variant("mobilenet_v1", 0.25, 32))
    with pytest.raises(ConvertError, match=message) as error:
        slim.export(source.format(tmp=tmp_path) if source else model, f"{tmp_path}/{prefix}")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_command(module, tmp_path, capsys):
    prefix = tmp_path / "model.ckpt"
    assert main(["slim", str(module("mobilenet_v1")), "--output", str(prefix), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prefix"] == str(prefix)
    assert {*found["variables"], "global_step"} == set(Checkpoint(prefix).shapes)


def test_a_command_that_fails(tmp_path, capsys):
    assert main(["slim", str(tmp_path / "absent"), "--output", str(tmp_path / "m.ckpt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "no such folder" in error
    assert not any(tmp_path.iterdir())
