"""Gives the channels of a network weights of similar ranges, for layers with one 8-bit range each.

A channel may be scaled by any positive factor if the weights that read it are divided by the
factor: ReLU6 passes factors on, unless it clips at 6 with them or without. So the largest weights
of a channel can be made like those that read it, and like those of other channels (Nagel et al.,
Data-Free Quantization Through Weight Equalization and Bias Correction,
https://arxiv.org/abs/1906.04721, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilenets.channel_statistics import batches, measured
from mobilenets.layers import EPSILON, ConvBatchNorm

__all__ = ["factors", "scale_between", "scale_channels"]

_HIGHEST = 6.0
_WIDEST = 100.0
# No channel is scaled to less: it would have few of the 255 steps up to ReLU6's 6.
_COARSEST = 1.0
# Further ones change the factors by less than 1 %.
_SWEEPS = 20
_LEAST = 1e-6


def factors(
    blocks: Sequence[keras.layers.Layer],
    convolutions: Sequence[ConvBatchNorm],
    inputs: tf.Tensor,
) -> list[np.ndarray]:
    """A factor for each output channel of each convolution.

    It is 1 behind a convolution without ReLU6, behind the last one, and for channels that ReLU6
    clips on these inputs. With it, no other channel reaches more than 6.

    Args:
      blocks: The blocks of a float network, to measure the activations on.
      convolutions: Those of the network that is to be scaled, in order.
      inputs: What the first block takes, `[batch, height, width, channels]`.
    """
    bounds = list(map(_bounds, convolutions, _largest(blocks, inputs)))
    weights = [_magnitudes(convolution) for convolution in convolutions]
    # Those of the images, and of each convolution's outputs.
    scales = [
        np.ones(convolutions[0].kernel.shape[2]),
        *(np.ones(len(least)) for least, _ in bounds),
    ]
    for _ in range(_SWEEPS):
        for i, (least, most) in enumerate(bounds[:-1]):
            written = _written(weights[i], scales[i], scales[i + 1])
            read = _read(weights[i + 1], scales[i + 1], scales[i + 2])
            live = (written > _LEAST) & (read > _LEAST)
            if not live.any():
                continue
            step = np.sqrt(np.where(live, read, 1) / np.where(live, written, 1))
            # What is clipped keeps its scale, and so do the others on the whole.
            step[live] /= np.exp(np.log(step[live]).mean())
            scales[i + 1] = np.clip(scales[i + 1] * step, least, most)
    return [scale.astype(np.float32) for scale in scales[1:]]


def scale_channels(convolutions: Sequence[ConvBatchNorm], scales: Sequence[np.ndarray]) -> None:
    """Multiplies the output channels of each convolution by factors.

    The moving variance takes the factor, and the kernel of the next convolution its inverse:
    training a quantized network leaves the moving variance as it is, so that `scale_between` finds
    the factor again, and `gamma` keeps a size that training can change.

    Args:
      convolutions: Of a network with simulated quantization, in order; they are changed.
      scales: As of `factors`.
    """
    for convolution, scale in zip(convolutions, scales, strict=True):
        norm = convolution.batch_norm
        variance = norm.moving_variance.numpy()
        scaled = (variance.astype(np.float64) + EPSILON) / scale**2 - EPSILON
        norm.moving_variance.assign(np.where(scale == 1, variance, np.maximum(scaled, 0)))
        norm.beta.assign(norm.beta.numpy() * scale)
    for reader, scale in zip(convolutions[1:], scales, strict=False):
        reader.kernel.assign(reader.kernel.numpy() / scale[:, np.newaxis])


def scale_between(exact: ConvBatchNorm, scaled: ConvBatchNorm) -> np.ndarray:
    """The factors that make a quantized network's convolution of the float network's.

    Returns:
      `[channels]` float32; exactly 1 where no channel was scaled.
    """
    variances = [each.batch_norm.moving_variance.numpy() for each in (exact, scaled)]
    before, after = (each.astype(np.float64) + EPSILON for each in variances)
    return np.sqrt(before / after).astype(np.float32)


def _largest(blocks: Sequence[keras.layers.Layer], inputs: tf.Tensor) -> list[np.ndarray]:
    """The largest output of each convolution, by channel."""
    found: list[np.ndarray] = []
    values = batches(inputs)
    for block in blocks:
        measures, values = measured(block, values, lambda x: tf.reduce_max(x, [0, 1, 2]))
        found += [each.numpy().max(0) for each in measures]
    return found


def _bounds(convolution: ConvBatchNorm, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest factor of each channel."""
    kept = (largest >= _HIGHEST) | (not convolution.activation)
    most = np.minimum(_HIGHEST / np.maximum(largest, _LEAST), _WIDEST)
    # The moving variance holds the factor, and cannot be negative.
    variance = convolution.batch_norm.moving_variance.numpy()
    most = np.minimum(most, np.sqrt((variance + EPSILON) / EPSILON))
    least = np.minimum(np.minimum(_COARSEST / np.maximum(largest, _LEAST), 1), most)
    return np.where(kept, 1, least), np.where(kept, 1, most)


def _magnitudes(convolution: ConvBatchNorm) -> np.ndarray:
    """The largest folded weights, `[inputs, outputs]`; `[channels]` of a depthwise convolution."""
    kernel = np.abs(convolution.folded()[0].numpy().astype(np.float64))
    return kernel.max((0, 1, 3) if convolution.depthwise else (0, 1))


def _written(weights: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The largest weight of each output channel, with inputs and outputs scaled."""
    if weights.ndim == 1:
        return weights / before * after
    return (weights / before[:, np.newaxis]).max(0) * after


def _read(weights: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The largest weight that reads each input channel, with inputs and outputs scaled."""
    if weights.ndim == 1:
        return weights / before * after
    return (weights * after).max(1) / before
