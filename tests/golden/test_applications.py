"""All float variants against `keras.applications` with the same weights.

The image size changes no weight: the variants of one depth multiplier share their two networks.

No reference data is needed, and none of our code takes part in the other network: both list their
layers from the image to the logits, and the weights are laid side by side in that order.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from applications import of_any_size
from tiers import slow

from mobilenets import VARIANTS, MobileNet, Variant

WITH_WEIGHTS = (
    keras.layers.BatchNormalization,
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
)


def sizes_by_network() -> dict[tuple[str, float], list[int]]:
    """The image sizes of the float variants, smallest first."""
    found: dict[tuple[str, float], list[int]] = {}
    for variant in VARIANTS:
        if not variant.quantized:
            found.setdefault((variant.family, variant.depth_multiplier), []).append(
                variant.image_size
            )
    return {network: sorted(sizes) for network, sizes in found.items()}


SIZES = sizes_by_network()
FAST = [("mobilenet_v1", 0.25), ("mobilenet_v2", 0.35)]


def application(variant: Variant, num_classes: int) -> keras.Model:
    build = {
        "mobilenet_v1": keras.applications.MobileNet,
        "mobilenet_v2": keras.applications.MobileNetV2,
    }[variant.family]
    return build(
        input_shape=(variant.image_size, variant.image_size, 3),
        alpha=variant.depth_multiplier,
        weights=None,
        classes=num_classes,
        classifier_activation=None,
    )


def test_every_float_variant_is_there() -> None:
    tested = {str(Variant(*network, size)) for network, sizes in SIZES.items() for size in sizes}
    assert tested == {str(variant) for variant in VARIANTS if not variant.quantized}


@pytest.mark.parametrize(
    ("family", "multiplier"),
    [network if network in FAST else slow(*network) for network in SIZES],
)
def test_logits(
    family: str, multiplier: float, randomise: Callable, random_images: Callable
) -> None:
    sizes = SIZES[family, multiplier]
    variant = Variant(family, multiplier, sizes[0])
    ours = randomise(MobileNet(variant, num_classes=1001), seed=int(100 * multiplier))
    theirs = application(variant, 1001)
    assert ours.count_params() == theirs.count_params()

    values = iter([variable.numpy() for variable in ours.slim_variables.values()])
    for layer in theirs.layers:
        if isinstance(layer, WITH_WEIGHTS):
            layer.set_weights(
                [next(values).reshape(weight.shape) for weight in layer.get_weights()]
            )
    assert next(values, None) is None

    theirs = of_any_size(theirs)
    for size in sizes:
        images = random_images(2, size)
        logits = ours(images).numpy()
        expected = theirs(2 * images - 1, training=False).numpy()
        scale = np.abs(expected).max()
        # Not the same for any image, or the comparison would show little.
        assert np.abs(expected[0] - expected[1]).max() > 0.01 * scale
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * scale, err_msg=str(size))
