"""Kernels rounded for their inputs: on their grid, and with less error than the nearest values."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mobilenets.quantization import QuantizedConvBatchNorm
from mobilenets.weight_rounding import _patches, compensation, round_weights, rounded

GROUPS, OUTPUTS, WEIGHTS = 3, 4, 9


def kernels() -> tuple[np.ndarray, np.ndarray]:
    """Weights and their steps; `OUTPUTS` of each group."""
    random = np.random.default_rng(0)
    values = random.normal(size=(GROUPS * OUTPUTS, WEIGHTS))
    return values, np.abs(values).max(1) / 127


def nearest(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.round(values / steps[:, np.newaxis]) * steps[:, np.newaxis]


def inputs(alike: float) -> np.ndarray:
    """`[groups, number, weights]`; what neighbours have in common is `alike` of them."""
    random = np.random.default_rng(1)
    common = random.normal(1, 1, (GROUPS, 500, 1))
    return alike * common + (1 - alike) * random.normal(size=(GROUPS, 500, WEIGHTS))


def moments(values: np.ndarray) -> np.ndarray:
    return values.transpose(0, 2, 1) @ values / values.shape[1]


def test_unrelated_inputs_get_the_nearest_values() -> None:
    values, steps = kernels()
    found = rounded(values, steps, compensation(np.stack([np.eye(WEIGHTS)] * GROUPS)))
    np.testing.assert_allclose(found, nearest(values, steps), rtol=1e-12)


def test_related_inputs_get_less_error() -> None:
    values, steps = kernels()
    given = inputs(alike=0.8)
    found = rounded(values, steps, compensation(moments(given)))
    by_group = (GROUPS, OUTPUTS, WEIGHTS)
    errors = [
        np.mean((given @ (each - values).reshape(by_group).transpose(0, 2, 1)) ** 2)
        for each in (found, nearest(values, steps))
    ]
    assert errors[0] < 0.3 * errors[1]
    whole = found / steps[:, np.newaxis]
    np.testing.assert_allclose(whole, np.round(whole), rtol=0, atol=1e-9)
    assert np.abs(whole).max() <= 127 + 1e-9


@pytest.mark.parametrize("weights", [1, 63, 64, 65, 150])
def test_weights_far_ahead_make_up_too(weights: int) -> None:
    random = np.random.default_rng(4)
    left, step = random.normal(size=(OUTPUTS, weights)), 0.05
    follow = np.triu(random.uniform(0.5, 1, (1, weights, weights)))
    found = rounded(left, np.full(OUTPUTS, step), follow, -100)
    for i in range(weights):
        expected = np.clip(np.round(left[:, i] / step), -100, 154)
        np.testing.assert_allclose(found[:, i] / step, expected, rtol=1e-9, atol=1e-9)
        error = (left[:, i] - found[:, i]) / follow[0, i, i]
        left[:, i + 1 :] -= error[:, np.newaxis] * follow[0, i, i + 1 :]


def test_inputs_that_are_always_0() -> None:
    values, steps = kernels()
    given = inputs(alike=0.5)
    given[0] = 0
    given[1, :, 2] = 0
    found = rounded(values, steps, compensation(moments(given)))
    first = slice(OUTPUTS)
    np.testing.assert_allclose(found[first], nearest(values, steps)[first], rtol=1e-12)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(6, 6), (7, 5), (2, 1)], ids=str)
def test_patches_are_what_a_kernel_sees(shape: tuple, stride: int, size: int) -> None:
    random = np.random.default_rng(2)
    image = random.normal(size=(*shape, 3)).astype(np.float32)
    kernel = random.normal(size=(size, size, 3, 4)).astype(np.float32)
    found = _patches(image, size, stride, 100, random).reshape(-1, kernel[..., 0].size)
    expected = tf.nn.conv2d(image[np.newaxis], kernel, stride, "SAME")
    np.testing.assert_allclose(
        found @ kernel.reshape(-1, 4), np.reshape(expected, (-1, 4)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("per_channel", [True, False], ids=["channels", "layer"])
@pytest.mark.parametrize("filters", [None, 5], ids=["depthwise", "full"])
def test_a_layer_keeps_values_that_its_rounding_keeps(
    filters: int | None, per_channel: bool
) -> None:
    random = np.random.default_rng(3)
    # Stripes, which lie in two directions in turn.
    images = random.normal(size=(4, 32, 32, 32)).astype(np.float32)
    images[..., ::2] = images[:, :1, :, ::2]
    images[..., 1::2] = images[:, :, :1, 1::2]
    layer = QuantizedConvBatchNorm(filters, 3, per_channel=per_channel, activation=False)
    layer.build(images.shape)
    # Not symmetric, so that 0 is not the middle of a layer's range.
    layer.kernel.assign(random.normal(0.5, 1, layer.kernel.shape))
    layer.batch_norm.gamma.assign([0.0, *random.normal(size=layer.batch_norm.gamma.shape[0] - 1)])
    exact = layer.kernel.numpy(), layer.folded()[0]
    layer.weights_quant.follow(exact[1], 0.0)
    ranges = layer.weights_quant.get_weights()

    def error(kernel: tf.Tensor) -> np.ndarray:
        difference = layer.convolve(images, kernel) - layer.convolve(images, exact[1])
        return tf.reduce_mean(difference**2, [0, 1, 2]).numpy()[1:]

    without = error(layer.weights_quant.rounded(exact[1]))
    round_weights(layer, tf.split(images, 2), len(images))
    for bound, before in zip(layer.weights_quant.get_weights(), ranges, strict=True):
        np.testing.assert_array_equal(bound, before)
    folded = layer.folded()[0]
    np.testing.assert_allclose(layer.weights_quant.rounded(folded), folded, rtol=1e-5, atol=1e-9)
    assert error(folded).mean() < 0.6 * without.mean()
    # A channel that batch norm multiplies by 0 has nothing to round.
    channel = (..., 0, 0) if filters is None else (..., 0)
    np.testing.assert_array_equal(layer.kernel.numpy()[channel], exact[0][channel])
