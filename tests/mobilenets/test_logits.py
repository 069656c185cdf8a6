"""The range of quantized logits: that of the least change of probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mobilenets.logits import QuantizedLogits


def ranged(logits: np.ndarray) -> tuple[float, float, QuantizedLogits]:
    """The layer, and the range that it takes for these logits."""
    layer = QuantizedLogits(logits.shape[1], "Logits", per_channel=True)
    layer.build((None, 4))
    layer.fit_range(tf.constant(logits, tf.float32))
    return float(layer.act_quant.min.numpy()), float(layer.act_quant.max.numpy()), layer


def divergence(logits: np.ndarray, layer: QuantizedLogits) -> float:
    exact, found = (
        tf.nn.log_softmax(each)
        for each in (logits, layer.act_quant.rounded(tf.constant(logits, tf.float32)))
    )
    return float(tf.reduce_sum(tf.exp(exact) * (exact - found)))


def test_low_logits_of_many_classes_are_clipped() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (50, 300)).astype(np.float32)
    logits[:, :3] += 15
    lowest, highest, layer = ranged(logits)
    assert highest == logits.max()
    assert logits.min() < 2 * lowest < 0
    chosen = divergence(logits, layer)
    for other in (logits.min(), -0.1):
        layer.act_quant.min.assign(other)
        assert divergence(logits, layer) > 1.05 * chosen


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param([[-5.0], [7.0]], (-5, 7), id="one class"),
        pytest.param([[-5.0], [3.0]], (-6, 6), id="small"),
        pytest.param([[-7.0], [3.0]], (-7, 6), id="small above 0"),
        pytest.param([[-5.0, -2.0], [-4.0, -3.0]], (-6, 6), id="all below 0"),
        pytest.param([[0.0, 0.0]], (-6, 6), id="not trained"),
    ],
)
def test_the_range_contains_0_and_has_room_to_learn(logits: list, expected: tuple) -> None:
    lowest, highest, _ = ranged(np.array(logits, np.float32))
    np.testing.assert_allclose((lowest, highest), expected, rtol=1e-6)
