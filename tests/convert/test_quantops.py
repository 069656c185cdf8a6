"""A quantized checkpoint becomes quantops modules; one that does not fit says which variable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_hub as hub

from convert.conversion import convert, verify_module
from convert.export import bundle
from convert.references import simulation
from mobilenets import MobileNet, MobileNetError, Variant

QUANTIZED = Variant("mobilenet_v1", 0.25, 64, quantized=True)
FIRST = "MobilenetV1/MobilenetV1/Conv2d_0"


@pytest.fixture(scope="module")
def values(randomise: Callable, random_images: Callable) -> dict[str, np.ndarray]:
    model = randomise(MobileNet(QUANTIZED, 7))
    model(random_images(4, 64), training=True, activation_range_momentum=0.0)
    return {name: variable.numpy() for name, variable in model.slim_variables.items()}


def written(folder: Path, variant: Variant, values: dict[str, np.ndarray]) -> Path:
    path = folder / f"{variant.slim_name}.ckpt"
    bundle.write(path, values | {"global_step": np.int64(5)})
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds", [["classification"], ["feature_vector", "classification"]], ids="-".join
)
def test_conversion(
    kinds: list[str],
    values: dict[str, np.ndarray],
    quick_conversion: None,
    tmp_path: Path,
    random_images: Callable,
) -> None:
    source = written(tmp_path, QUANTIZED, values)
    done = convert(source, tmp_path / "models", kinds=kinds)
    folder = tmp_path / "models" / "mobilenet_v1_025_64" / "quantops"
    assert sorted(path.name for path in folder.iterdir()) == sorted(kinds)
    images = random_images(3, 64)
    for conversion, kind in zip(done, kinds, strict=True):
        classes = 7 if kind == "classification" else None
        assert conversion.parity["variables"] == 243 + 6 * (classes is not None)
        assert "contrib.quantize" in conversion.parity["reference"]
        assert conversion.parity["largest_output"] > 1
        module = hub.load(str(folder / conversion.kind))
        expected = simulation.outputs(QUANTIZED, values, classes, images)[kind]
        step = simulation.step(QUANTIZED, values, classes)
        assert np.abs(module(images) - expected).mean() <= 0.2 * step
        assert verify_module(folder / conversion.kind).parity == conversion.parity


@pytest.mark.slow
def test_conversion_of_int8(
    randomise: Callable, random_images: Callable, quick_conversion: None, tmp_path: Path
) -> None:
    images = random_images(4, 64)
    model = randomise(MobileNet(QUANTIZED.unquantized, 7)).quantized([images], scheme="int8")
    values = {name: variable.numpy() for name, variable in model.slim_variables.items()}
    source = written(tmp_path, model.variant, values)
    (conversion,) = convert(source, tmp_path / "models", kinds=["classification"])
    folder = tmp_path / "models" / "mobilenet_v1_025_64" / "int8" / "classification"
    assert conversion.parity["variables"] == 243 + 2 + 6
    assert verify_module(folder).parity == conversion.parity
    np.testing.assert_array_equal(hub.load(str(folder))(images), model(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{FIRST}/act_quant/min": None}, rf"{FIRST}/act_quant/min: missing, expected \[\]"),
        ({f"{FIRST}/weights_quant/max": -9}, f"{FIRST}/weights_quant/min: .* is not below .*max"),
        ({f"{FIRST}/weights_quant/min": 0.01}, f"{FIRST}/weights_quant/min: 0.01 is above 0"),
        (
            {f"{FIRST}/weights_quant/min": -2, f"{FIRST}/weights_quant/max": -1},
            f"{FIRST}/weights_quant/max: -1 is below 0",
        ),
        ({f"{FIRST}/act_quant/max": np.inf}, f"{FIRST}/act_quant/max: expected finite"),
        ({f"{FIRST}x/act_quant/max": 1}, f"{FIRST}x/act_quant/max: left over"),
    ],
    ids=["missing", "reversed", "above-zero", "below-zero", "infinite", "left-over"],
)
def test_a_wrong_range(
    change: dict, message: str, values: dict[str, np.ndarray], tmp_path: Path
) -> None:
    kept = {name: value for name, value in values.items() if change.get(name, 0) is not None}
    kept |= {name: np.float32(value) for name, value in change.items() if value is not None}
    source = written(tmp_path, QUANTIZED, kept)
    with pytest.raises(MobileNetError, match=message):
        convert(source, tmp_path / "models")
    assert not list(tmp_path.glob("models/**/*"))


@pytest.mark.parametrize("said", ["--variant", "name"])
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_one_given_as_the_other(
    said: str, quantized: bool, values: dict[str, np.ndarray], tmp_path: Path
) -> None:
    kept = {name: value for name, value in values.items() if quantized or "_quant/" not in name}
    right, wrong = (QUANTIZED, QUANTIZED.unquantized)[:: 1 if quantized else -1]
    source = written(tmp_path, wrong if said == "name" else right, kept)
    states = ("quantization .MobilenetV1/.*_quant/.*, found none", "found MobilenetV1/.*_quant/")
    message = f"simulated {states[0]}" if not quantized else f"no ranges .*{states[1]}"
    with pytest.raises(MobileNetError, match=message):
        convert(source, tmp_path / "models", variant=wrong.name if said != "name" else None)
    assert not list(tmp_path.glob("models/**/*"))
