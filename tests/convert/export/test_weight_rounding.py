"""Kernels in LiteRT's layouts: rounded as those of a module with simulated rounding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from convert.export.weight_rounding import round_kernel
from mobilenets.quantization import QuantizedConvBatchNorm
from mobilenets.weight_rounding import round_weights


@pytest.mark.parametrize(
    ("filters", "size"), [(None, 3), (5, 3), (5, 1)], ids=["depthwise", "full", "pointwise"]
)
def test_as_in_a_module(filters: int | None, size: int) -> None:
    random = np.random.default_rng(0)
    images = np.abs(random.normal(size=(3, 8, 8, 4))).cumsum(1).cumsum(2).astype(np.float32)
    layer = QuantizedConvBatchNorm(filters, size, strides=2, per_channel=True)
    layer.build(images.shape)
    layer.kernel.assign(random.normal(size=layer.kernel.shape))
    exact = layer.folded()[0]
    layer.weights_quant.follow(exact, 0.0)

    def lite(kernel: tf.Tensor) -> np.ndarray:
        return kernel.numpy().transpose(3, 0, 1, 2)

    stored: list[np.ndarray] = []
    convolution = SimpleNamespace(
        depthwise=filters is None,
        strides=2,
        steps=layer.weights_quant.max.numpy().astype(np.float64) / 127,
        store_kernel=stored.append,
    )
    round_kernel(convolution, lite(exact), images, len(images))
    round_weights(layer, [tf.constant(images)], len(images))
    (found,) = stored
    expected = lite(layer.folded()[0])
    assert np.abs(found - lite(exact)).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
