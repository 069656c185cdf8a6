"""The plain graph that quantops conversions are compared with, against the layers.

`tests/test_quantization.py` has it against the original graphs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from closeness import values_of

from convert.references import simulation
from mobilenets import MobileNet, Variant

VARIANT = Variant("mobilenet_v1", 0.25, 64, quantized=True)


@pytest.fixture(scope="module")
def model(randomise: Callable, random_images: Callable) -> MobileNet:
    model = randomise(MobileNet(VARIANT, 7))
    model(random_images(4, 64), training=True, activation_range_momentum=0.0)
    return model


@pytest.mark.parametrize("num_classes", [None, 7], ids=["features", "logits"])
def test_computes_what_the_layers_do(
    num_classes: int | None, model: MobileNet, random_images: Callable
) -> None:
    images = random_images(3, 64)
    output = model(images, return_endpoints=True)
    if num_classes is None:
        expected = output["MobilenetV1/global_pool"].numpy()[:, 0, 0]
    else:
        expected = output["default"].numpy()
    found = simulation.outputs(VARIANT, values_of(model), num_classes, images)
    found = found["feature_vector" if num_classes is None else "classification"]
    step = simulation.step(VARIANT, values_of(model), num_classes)
    assert found.shape == expected.shape
    assert expected.std() > 5 * step
    assert np.abs(found - expected).mean() <= 0.2 * step


@pytest.mark.parametrize(
    "name",
    [
        "MobilenetV1/MobilenetV1/Conv2d_4_depthwise/weights_quant/max",
        "MobilenetV1/MobilenetV1/Conv2d_9_pointwise/act_quant/max",
        "MobilenetV1/Conv2d_2_pointwise/BatchNorm/moving_variance",
        "MobilenetV1/Logits/Conv2d_1c_1x1/weights_quant/min",
        "MobilenetV1/Logits/Conv2d_1c_1x1/act_quant/min",
    ],
)
def test_every_variable_counts(name: str, model: MobileNet, random_images: Callable) -> None:
    images = random_images(3, 64)
    expected = simulation.outputs(VARIANT, values_of(model), 7, images)["classification"]
    other = values_of(model) | {name: values_of(model)[name] * np.float32(0.8)}
    found = simulation.outputs(VARIANT, other, 7, images)["classification"]
    step = simulation.step(VARIANT, values_of(model), 7)
    assert np.abs(found - expected).mean() > 0.2 * step
