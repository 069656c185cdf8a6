"""A comparison that cannot fail proves nothing: each kind of damage is found."""

import dataclasses
import shutil

import numpy as np
import pytest

from convert import verify
from convert.errors import ConvertError
from mobilenets import MobileNet, Variant, save

VARIANT = Variant("mobilenet_v1", 0.25, 32)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    model = MobileNet(VARIANT, 3)
    random = np.random.default_rng(0)
    for name, variable in model.slim_variables.items():
        if "/BatchNorm/" in name:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    directory = tmp_path_factory.mktemp("module") / "module"
    save(model, directory)
    return directory, {n: v.numpy() for n, v in model.slim_variables.items()}


def test_what_was_written_is_what_was_read(module):
    directory, values = module
    parity = verify.compare(directory, VARIANT, values, 3)
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
        verify.compare(directory, VARIANT, values | {name: changed}, 3)
    assert str(error.value).splitlines()[1:] == [f"  {name}: differs from the checkpoint"]


@pytest.mark.parametrize("what", ["missing", "left over"])
def test_names_must_be_the_same(module, what):
    directory, values = module
    name = next(iter(values))
    if what == "missing":
        values, name = values | {"MobilenetV1/more": np.zeros(1)}, "MobilenetV1/more"
    else:
        values = {n: v for n, v in values.items() if n != name}
    with pytest.raises(ConvertError, match=f"{name}: {what}"):
        verify.compare(directory, VARIANT, values, 3)


def test_a_wrong_computation_is_noticed(module, monkeypatch):
    directory, values = module
    real = verify.applications.reference

    def other(variant, values, num_classes):
        name = "MobilenetV1/Conv2d_13_pointwise/BatchNorm/beta"
        return real(variant, values | {name: values[name] + 0.01}, num_classes)

    monkeypatch.setattr(verify.applications, "reference", other)
    with pytest.raises(ConvertError, match="does not agree with"):
        verify.compare(directory, VARIANT, values, 3)


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_damaged_module_is_one_line(module, tmp_path, file):
    shutil.copytree(module[0], tmp_path / "copy")
    (tmp_path / "copy" / file).write_bytes(b"\x00" * 10)
    with pytest.raises(ConvertError, match="is not a module that can be loaded") as error:
        verify.compare(tmp_path / "copy", VARIANT, module[1], 3)
    assert "\n" not in str(error.value)
