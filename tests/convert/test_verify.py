"""A comparison that cannot fail proves nothing: each kind of damage is found."""

import dataclasses
import shutil

import numpy as np
import pytest

from convert import verify
from convert.errors import ConvertError
from mobilenets import MobileNet, Variant, architecture, save

VARIANT = Variant("mobilenet_v1", 0.25, 32)


@pytest.fixture(scope="module")
def module(tmp_path_factory, inference_alone):
    model = MobileNet(VARIANT, 3)
    random = np.random.default_rng(0)
    for name, variable in model.slim_variables.items():
        if "/BatchNorm/" in name:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    directory = tmp_path_factory.mktemp("module") / "module"
    with inference_alone():
        save(model, directory)
    return directory, {n: v.numpy() for n, v in model.slim_variables.items()}


def compare(directory, values):
    return verify.Original(VARIANT, values, 3).compare(directory, "classification")


def test_what_was_written_is_what_was_read(module):
    directory, values = module
    parity = compare(directory, values)
    assert parity.variables == len(values) == 137
    assert parity.reference.startswith("keras.applications.MobileNet (Keras ")
    assert 0 < parity.largest_difference <= parity.tolerance * parity.largest_output
    figures = dataclasses.asdict(parity).values()
    assert all(isinstance(value, int | float | str) for value in figures)


def test_one_bit_is_noticed(module):
    directory, values = module
    name = "MobilenetV1/Conv2d_7_depthwise/BatchNorm/moving_variance"
    changed = values[name].copy()
    changed[3] = np.nextafter(changed[3], np.float32(9))
    with pytest.raises(ConvertError) as error:
        compare(directory, values | {name: changed})
    assert str(error.value).splitlines()[1:] == [f"  {name}: differs from the checkpoint"]


def test_another_networks_variables_are_noticed(module):
    directory, values = module
    with pytest.raises(ConvertError) as error:
        verify.Original(VARIANT, values, 3).compare(directory, "feature_vector")
    assert str(error.value).splitlines()[1:] == [
        "  MobilenetV1/Logits/Conv2d_1c_1x1/weights: left over",
        "  MobilenetV1/Logits/Conv2d_1c_1x1/biases: left over",
    ]
    wider = Variant("mobilenet_v2", 0.35, 32)
    zeros = {
        name: np.zeros(shape, np.float32)
        for name, shape in architecture.variables(wider, 3).items()
    }
    with pytest.raises(ConvertError, match="MobilenetV2/Conv/weights: missing"):
        verify.Original(wider, zeros, 3).compare(directory, "classification")


def test_a_wrong_computation_is_noticed(module, monkeypatch):
    directory, values = module
    real = verify.applications.reference

    def other(variant, values, num_classes):
        name = "MobilenetV1/Conv2d_13_pointwise/BatchNorm/beta"
        return real(variant, values | {name: values[name] + 0.01}, num_classes)

    monkeypatch.setattr(verify.applications, "reference", other)
    with pytest.raises(ConvertError, match="does not agree with"):
        compare(directory, values)


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_damaged_module_is_one_line(module, tmp_path, file):
    shutil.copytree(module[0], tmp_path / "copy")
    (tmp_path / "copy" / file).write_bytes(b"\x00" * 10)
    with pytest.raises(ConvertError, match="is not a module that can be loaded") as error:
        compare(tmp_path / "copy", module[1])
    assert "\n" not in str(error.value)
