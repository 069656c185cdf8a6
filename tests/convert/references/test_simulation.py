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

VARIANTS = {
    "MobilenetV1": Variant("mobilenet_v1", 0.25, 64, quantized=True),
    "MobilenetV2": Variant("mobilenet_v2", 0.35, 64, quantized=True),
}


@pytest.fixture(scope="module")
def models(randomise: Callable, random_images: Callable) -> dict[str, MobileNet]:
    """By Slim scope, with ranges that fit."""
    found = {scope: randomise(MobileNet(variant, 7)) for scope, variant in VARIANTS.items()}
    for model in found.values():
        model(random_images(4, 64), training=True, activation_range_momentum=0.0)
    return found


@pytest.mark.parametrize("scope", VARIANTS)
@pytest.mark.parametrize("num_classes", [None, 7], ids=["features", "logits"])
def test_computes_what_the_layers_do(
    scope: str,
    num_classes: int | None,
    models: dict[str, MobileNet],
    random_images: Callable,
) -> None:
    model = models[scope]
    images = random_images(3, 64)
    output = model(images, return_endpoints=True)
    if num_classes is None:
        expected = output[f"{scope}/global_pool"].numpy()[:, 0, 0]
    else:
        expected = output["default"].numpy()
    found = simulation.outputs(model.variant, values_of(model), num_classes, images)
    found = found["feature_vector" if num_classes is None else "classification"]
    step = simulation.step(model.variant, values_of(model), num_classes)
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
        "MobilenetV2/expanded_conv_2/post_activation_bypass_quant/max",
        "MobilenetV2/expanded_conv_4/project/act_quant/min",
        "MobilenetV2/expanded_conv_5/depthwise/weights_quant/max",
    ],
)
def test_every_variable_counts(
    name: str, models: dict[str, MobileNet], random_images: Callable
) -> None:
    model = models[name.partition("/")[0]]
    images = random_images(3, 64)
    expected = simulation.outputs(model.variant, values_of(model), 7, images)["classification"]
    other = values_of(model) | {name: values_of(model)[name] * np.float32(0.8)}
    found = simulation.outputs(model.variant, other, 7, images)["classification"]
    step = simulation.step(model.variant, values_of(model), 7)
    assert np.abs(found - expected).mean() > 0.2 * step
