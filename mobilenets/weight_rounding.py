"""Rounds kernels to 8 bits so that their outputs change least, given the inputs.

Neighbouring inputs are alike, so that the error of one rounded weight can be made up for by the
weights that are rounded after it (Frantar et al., GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers, https://arxiv.org/abs/2210.17323, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from mobilenets.quantization import QuantizedConvBatchNorm

__all__ = ["moments", "round_weights", "rounded"]

# Steps of the largest weight.
_LARGEST = 127
# Of the mean diagonal of the moments, added to all of it: few images leave them singular.
_DAMPING = 0.01
# Of all images together; more would hardly change the moments.
_PATCHES = 10_000


def round_weights(
    convolution: QuantizedConvBatchNorm, inputs: Iterable[tf.Tensor], images: int
) -> None:
    """Rounds a convolution's kernel for these inputs, to values that simulated rounding keeps.

    Args:
      convolution: Has a range for each output channel, which it keeps.
      inputs: What it takes, in batches `[batch, height, width, channels]`.
      images: Their number.
    """
    kernel, scale = convolution.folded()[0].numpy(), convolution.batch_norm.fold()[0].numpy()
    size, outputs = len(kernel), len(scale)
    each = (image for batch in inputs for image in batch.numpy())
    found = moments(each, images, size, convolution.strides, convolution.depthwise)
    # As many groups as moments: one, or one for each channel.
    kernels = kernel.reshape(-1, outputs).T.reshape(len(found), -1, found.shape[-1])
    steps = convolution.weights_quant.max.numpy().astype(np.float64) / _LARGEST
    values = rounded(kernels, steps.reshape(*kernels.shape[:2], 1), found)
    # A channel with a scale of 0 has no weights, whatever its kernel.
    live = scale != 0
    unfolded = values.reshape(outputs, -1).T / np.where(live, scale, 1)
    kept = convolution.kernel.numpy()
    unfolded = np.where(live, unfolded, kept.reshape(-1, outputs))
    convolution.kernel.assign(unfolded.reshape(kept.shape))


def moments(
    inputs: Iterable[np.ndarray], images: int, size: int, strides: int, depthwise: bool
) -> np.ndarray:
    """The moments of what a kernel sees: the mean of `x x^T`, `[groups, weights, weights]`.

    A depthwise kernel has a group of weights for each channel, another one has one group; a group's
    weights are ordered by height, width, input channel.

    Args:
      inputs: For each image `[height, width, channels]`, float32.
      images: Their number.
      size: Height and width of the kernel.
      strides: Step in both directions, in pixels.
      depthwise: Whether each channel is filtered by itself.
    """
    random = np.random.default_rng(0)
    most = -(-_PATCHES // images)
    total, count = np.zeros(()), 0
    for image in inputs:
        patches = _patches(image, size, strides, most, random)
        # The groups first.
        patches = patches.transpose(2, 0, 1) if depthwise else patches.reshape(1, len(patches), -1)
        total = total + (patches.transpose(0, 2, 1) @ patches).astype(np.float64)
        count += patches.shape[1]
    return total / count


def rounded(kernels: np.ndarray, steps: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Kernels as multiples of their steps, -127 to 127 of them.

    Args:
      kernels: `[groups, outputs, weights]`.
      steps: `[groups, outputs, 1]`.
      moments: Of each group's inputs, the mean of `x x^T`: `[groups, weights, weights]`.
    """
    weights = kernels.shape[-1]
    diagonal = np.einsum("gii->gi", moments).mean(1)[:, np.newaxis, np.newaxis]
    damping = _DAMPING * np.where(diagonal > 0, diagonal, 1) * np.eye(weights)
    # Row i: how the weights from i on make up for an error of weight i.
    follow = np.swapaxes(np.linalg.cholesky(np.linalg.inv(moments + damping)), 1, 2)
    left, found = kernels.astype(np.float64), np.empty(kernels.shape)
    for i in range(weights):
        value = left[..., i, np.newaxis]
        nearest = np.clip(np.round(value / steps), -_LARGEST, _LARGEST) * steps
        found[..., i] = nearest[..., 0]
        error = (value - nearest) / follow[:, i, i, np.newaxis, np.newaxis]
        left[..., i + 1 :] -= error * follow[:, np.newaxis, i, i + 1 :]
    return found


def _patches(
    image: np.ndarray, size: int, stride: int, most: int, random: np.random.Generator
) -> np.ndarray:
    """What a kernel sees at some places of an image: `[places, size * size, channels]`."""
    counts = [-(-length // stride) for length in image.shape[:2]]
    missing = [
        max((count - 1) * stride + size - length, 0)
        for count, length in zip(counts, image.shape[:2], strict=True)
    ]
    padded = np.pad(image, [*((each // 2, each - each // 2) for each in missing), (0, 0)])
    places = np.arange(counts[0] * counts[1])
    if len(places) > most:
        places = random.choice(places, most, replace=False)
    top, left = (stride * each for each in np.divmod(places, counts[1]))
    down, across = np.divmod(np.arange(size * size), size)
    return padded[top[:, np.newaxis] + down, left[:, np.newaxis] + across]
