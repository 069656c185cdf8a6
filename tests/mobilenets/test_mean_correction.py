"""What else happens to a convolution while means are corrected, and with which inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorflow as tf
from tiers import first_fast

from mobilenets import MobileNet, Variant
from mobilenets.mean_correction import correct_means
from mobilenets.quantization import QuantizedConvBatchNorm

FAMILIES = ("mobilenet_v1", "mobilenet_v2")


@pytest.mark.parametrize("family", first_fast(FAMILIES), ids=FAMILIES)
def test_a_convolution_is_prepared_for_the_inputs_that_it_gets_afterwards(
    family: str, randomise: Callable, random_images: Callable
) -> None:
    variant = Variant(family, {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35}[family], 32)
    exact = randomise(MobileNet(variant))
    changed = MobileNet(Variant(family, variant.depth_multiplier, 32, quantized="int8"))
    for name, variable in exact.slim_variables.items():
        changed.slim_variables[name].assign(variable.numpy())
    images = tf.constant(2 * random_images(2, 32) - 1)
    found: list[tuple[QuantizedConvBatchNorm, np.ndarray]] = []

    def prepare(convolution: QuantizedConvBatchNorm, inputs: Iterator[tf.Tensor]) -> None:
        found.append((convolution, tf.concat(list(inputs), 0).numpy()))
        convolution.batch_norm.beta.assign_add(tf.ones_like(convolution.batch_norm.beta))

    correct_means(changed.blocks, exact.blocks, images, images, prepare)
    assert [convolution for convolution, _ in found] == changed.convolutions
    remaining, values = iter(found), images
    for block in changed.blocks:
        activations = list(block(values, return_endpoints=True).values())
        for inputs in (values, *activations[:-1]):
            np.testing.assert_array_equal(next(remaining)[1], inputs)
        values = activations[-1]
