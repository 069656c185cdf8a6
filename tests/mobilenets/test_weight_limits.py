"""Channels that switch steeply: flatter, where that leaves the others steps to be rounded to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from tiers import first_fast

from mobilenets import MobileNet, Variant
from mobilenets.weight_limits import limit_weights

SIZE = 64
FAMILIES = ("mobilenet_v1", "mobilenet_v2")
families = pytest.mark.parametrize("family", first_fast(FAMILIES), ids=FAMILIES)


@pytest.fixture
def network(randomise: Callable) -> Callable[..., tuple[MobileNet, MobileNet]]:
    """A network and its quantized form; of the first convolution's channels one is steep."""

    def network(family: str, steepness: float) -> tuple[MobileNet, MobileNet]:
        multiplier = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35}[family]
        variant = Variant(family, multiplier, SIZE)
        exact = randomise(MobileNet(variant), seed=5)
        norm = exact.convolutions[0].batch_norm
        for variable in (norm.gamma, norm.beta):
            values = variable.numpy()
            values[2] *= steepness
            variable.assign(values)
        quantized = MobileNet(Variant(family, multiplier, SIZE, quantized=True))
        for name, variable in exact.slim_variables.items():
            quantized.slim_variables[name].assign(variable.numpy())
        return exact, quantized

    return network


def noise(exact: MobileNet, quantized: MobileNet, images: np.ndarray) -> float:
    """What rounding the weights of the first convolution adds to the first two outputs ahead."""
    first, depthwise, last = quantized.convolutions[:3]
    kernel, offset = first.folded()
    first.weights_quant.fit(kernel)
    rounded = first.weights_quant.rounded(kernel)
    outputs = tf.nn.relu6(first.convolve(images, rounded) + offset)
    expected = exact.convolutions[0](images)

    def ahead(values: tf.Tensor) -> np.ndarray:
        weights, offset = depthwise.folded()
        values = tf.nn.relu6(depthwise.convolve(values, weights) + offset)
        return last.convolve(values, last.folded()[0]).numpy()

    wanted = ahead(expected)
    return np.mean((ahead(outputs) - wanted).var((0, 1, 2)) / wanted.var((0, 1, 2)))


@families
def test_a_steep_channel_leaves_steps_to_the_others(
    family: str, network: Callable, random_images: Callable
) -> None:
    exact, quantized = network(family, steepness=100)
    images = 2 * random_images(4, SIZE) - 1
    before = noise(exact, quantized, images)
    limit_weights(exact.blocks, quantized.convolutions, images)
    assert noise(exact, quantized, images) < 0.3 * before
    slope = quantized.convolutions[0].batch_norm.gamma / exact.convolutions[0].batch_norm.gamma
    assert slope[2] < 0.3
    assert np.delete(slope, 2).min() > 0.9
    # It switches where it did.
    ours, theirs = (
        tf.reduce_mean(each.convolutions[0]._outputs(images, False, 1.0), [0, 1, 2])
        for each in (quantized, exact)
    )
    np.testing.assert_allclose(ours[2], theirs[2], rtol=0.1)


@pytest.mark.slow
def test_what_costs_more_than_it_brings_stays(network: Callable, random_images: Callable) -> None:
    exact, quantized = network("mobilenet_v1", steepness=1)
    first = quantized.convolutions[0]
    limit_weights(exact.blocks, quantized.convolutions, 2 * random_images(4, SIZE) - 1)
    np.testing.assert_array_equal(first.batch_norm.gamma, exact.convolutions[0].batch_norm.gamma)
    np.testing.assert_array_equal(first.batch_norm.beta, exact.convolutions[0].batch_norm.beta)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_linear_outputs_and_the_last_ones_stay(
    family: str, network: Callable, random_images: Callable
) -> None:
    exact, quantized = network(family, steepness=100)
    limit_weights(exact.blocks, quantized.convolutions, 2 * random_images(2, SIZE) - 1)
    for ours, theirs in zip(quantized.convolutions, exact.convolutions, strict=True):
        np.testing.assert_array_equal(ours.kernel, theirs.kernel)
        if not ours.activation or ours is quantized.convolutions[-1]:
            np.testing.assert_array_equal(ours.batch_norm.gamma, theirs.batch_norm.gamma)
            np.testing.assert_array_equal(ours.batch_norm.beta, theirs.batch_norm.beta)
