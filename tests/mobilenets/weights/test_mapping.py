"""One-to-one and strict: every offender is named, with what was expected and what was found."""

import numpy as np
import pytest

from convert.export import bundle
from mobilenets import MobileNet, Variant, weights
from mobilenets.weights import WeightsError, mapping

VARIANT = Variant("mobilenet_v1", 0.25, 32)
SCOPE = "MobilenetV1/Conv2d_3_pointwise"


@pytest.fixture(scope="module")
def values():
    random = np.random.default_rng(0)
    return {
        name: random.uniform(0.5, 1.5, variable.shape).astype(np.float32)
        for name, variable in MobileNet(VARIANT, 5).slim_variables.items()
    }


def read(path, values, variant=VARIANT):
    bundle.write(path / "model.ckpt", values)
    with weights.open(path / "model.ckpt") as found:
        return found.values(variant)


def test_values_arrive_bit_for_bit_in_slims_order(tmp_path, values):
    found = read(tmp_path, values)
    assert list(found) == list(values)
    assert all(found[name].tobytes() == value.tobytes() for name, value in values.items())


def test_training_leftovers_are_no_offence(tmp_path, values):
    leftovers = {
        "global_step": np.int64(7),
        f"{SCOPE}/weights/RMSProp": values[f"{SCOPE}/weights"],
        "total_loss/ExponentialMovingAverage": np.float32(1),
    }
    assert list(read(tmp_path, values | leftovers)) == list(values)


def test_a_feature_vector_takes_its_part(values):
    model = MobileNet(VARIANT)
    mapping.assign(model, values)
    for name, variable in model.slim_variables.items():
        np.testing.assert_array_equal(variable.numpy(), values[name])


def offences():
    gamma, mean = f"{SCOPE}/BatchNorm/gamma", f"{SCOPE}/BatchNorm/moving_mean"
    extra = "MobilenetV1/Conv2d_14_pointwise/weights"
    nan = np.array([np.nan] * 2 + [1.0] * 30, np.float32)
    yield "missing", {gamma: None}, [f"{gamma}: missing, expected [32]"]
    yield (
        "left over",
        {extra: np.zeros((1, 1, 2, 2), np.float32)},
        [f"{extra}: left over, found [1, 1, 2, 2]"],
    )
    yield "unknown", {"my/own": np.zeros(3, np.float32)}, ["my/own: left over, found [3]"]
    yield "shape", {mean: np.zeros(31, np.float32)}, [f"{mean}: expected [32], found [31]"]
    yield (
        "not finite",
        {mean: nan},
        [f"{mean}: expected finite float32, found 2 of 32 values NaN or infinite"],
    )
    yield "dtype", {mean: np.zeros(32)}, [f"{mean}: expected finite float32, found float64"]
    yield (
        "several",
        {gamma: None, mean: np.zeros(31, np.float32)},
        [
            f"{gamma}: missing, expected [32]",
            f"{mean}: expected [32], found [31]",
        ],
    )


@pytest.mark.parametrize(
    ("changes", "lines"), [pytest.param(c, lines, id=name) for name, c, lines in offences()]
)
def test_every_offender_is_named(tmp_path, values, changes, lines):
    changed = {n: v for n, v in (values | changes).items() if v is not None}
    with pytest.raises(WeightsError) as error:
        read(tmp_path, changed)
    headline, *rest = str(error.value).splitlines()
    assert headline.endswith(
        f"does not fit {VARIANT}: {len(lines)} variable" + "s" * (len(lines) > 1)
    )
    assert [line.strip() for line in rest] == lines


def test_another_variant_is_refused(tmp_path, values):
    with pytest.raises(WeightsError, match=r"Conv2d_0/weights: expected \[3, 3, 3, 16\], found"):
        read(tmp_path, values, Variant("mobilenet_v1", 0.5, 32))
