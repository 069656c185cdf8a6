"""Limits the channels whose weights stretch the 8-bit range of a layer more than they are worth.

A channel that switches between 0 and ReLU6's 6 within a small part of its inputs has large weights,
and cannot be scaled: ReLU6 clips it. The range of a layer's weights has then few steps for the
other channels. With smaller weights such a channel switches less steeply. How small they should be
is measured: on the outputs of the convolution that reads the channels, or, past a depthwise one, on
those of the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilenets.channel_scaling import scale_between
from mobilenets.quantization import QuantizedConvBatchNorm
from mobilenets.weight_rounding import KernelRounding

__all__ = ["limit_weights"]

# Enough images to measure on.
_IMAGES = 16
_SHARES = 0.85 ** np.arange(20)
# Of ReLU6: where a channel that switches has half of its values above.
_MIDDLE = 3.0
# A shift moves the mean of a clipped channel by less than the shift.
_SHIFTS = 3
_LEAST = 1e-6


def limit_weights(
    blocks: Sequence[keras.layers.Layer],
    convolutions: Sequence[QuantizedConvBatchNorm],
    inputs: tf.Tensor,
) -> None:
    """Limits the weights of each convolution with ReLU6 to what rounds its outputs best.

    Args:
      blocks: The blocks of the float network.
      convolutions: Those of the quantized network that was made of it, in order, which are changed.
        Their channels may be scaled.
      inputs: What the first block takes, `[batch, height, width, channels]`; the first 16 are
        measured.
    """
    inputs = tf.convert_to_tensor(inputs[:_IMAGES])
    remaining = list(convolutions)
    read = np.ones(inputs.shape[-1], np.float32)
    for block in blocks:
        activations = [
            tf.cast(each, tf.float32) for each in block(inputs, return_endpoints=True).values()
        ]
        exact = getattr(block, "convolutions", [block])
        for reference, values, outputs in zip(
            exact, [inputs, *activations], activations, strict=False
        ):
            convolution = remaining.pop(0)
            written = scale_between(reference, convolution)
            if convolution.activation and remaining:
                readers = remaining[: 1 + remaining[0].depthwise]
                _limit(convolution, readers, read * values, written * outputs)
            read = written
        inputs = activations[-1]


def _limit(
    convolution: QuantizedConvBatchNorm,
    readers: Sequence[QuantizedConvBatchNorm],
    inputs: tf.Tensor,
    outputs: tf.Tensor,
) -> None:
    """Limits the weights of a convolution; `outputs` are those that it has without rounding."""
    kernel, offset = (each.numpy() for each in convolution.folded())
    largest = np.abs(kernel).max((0, 1, 3) if convolution.depthwise else (0, 1, 2))
    folded = [(reader, *reader.folded()) for reader in readers]
    wanted = _read(folded, outputs)
    variance = tf.math.reduce_variance(wanted, [0, 1, 2]) + _LEAST
    mean = tf.reduce_mean(outputs, [0, 1, 2])
    limits = _SHARES * largest.max()
    rounding = KernelRounding(convolution, [inputs], len(inputs))
    errors, found = [], []
    # Most channels keep their weights.
    for limit in limits[limits >= np.median(largest)]:
        slope = np.minimum(1, limit / np.maximum(largest, _LEAST))
        slope = slope.astype(np.float32)
        weights = kernel * (slope[:, np.newaxis] if convolution.depthwise else slope)
        convolution.weights_quant.fit(tf.constant(weights))
        products = convolution.convolve(inputs, rounding(weights))
        shifted = slope * (offset - _MIDDLE) + _MIDDLE
        for _ in range(_SHIFTS):
            shifted += mean - tf.reduce_mean(tf.nn.relu6(products + shifted), [0, 1, 2])
        difference = _read(folded, tf.nn.relu6(products + shifted)) - wanted
        # Means are corrected.
        errors.append(tf.reduce_mean(tf.math.reduce_variance(difference, [0, 1, 2]) / variance))
        found.append((slope, shifted))
    best = int(np.argmin(errors))
    if best:
        slope, shifted = found[best]
        norm = convolution.batch_norm
        norm.gamma.assign(norm.gamma * slope)
        norm.beta.assign(shifted + norm.fold()[0] * norm.moving_mean)


def _read(
    readers: Sequence[tuple[QuantizedConvBatchNorm, tf.Tensor, tf.Tensor]], values: tf.Tensor
) -> tf.Tensor:
    """What convolutions without rounding make of values, before the last one's offset.

    Args:
      readers: Each with its folded weights and offset.
      values: What the first one reads.
    """
    *between, (last, last_kernel, _) = readers
    for convolution, kernel, offset in between:
        values = tf.nn.relu6(convolution.convolve(values, kernel) + offset)
    return last.convolve(values, last_kernel)
