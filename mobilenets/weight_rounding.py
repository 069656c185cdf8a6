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

__all__ = ["KernelRounding", "compensation", "moments", "round_weights", "rounded"]

# Steps of the largest weight.
_LARGEST = 127
# Of the mean diagonal of the moments, added to all of it: few images leave them singular.
_DAMPING = 0.01
# Of all images together; more would hardly change the moments.
_PATCHES = 10_000
# Weights whose errors reach the weights far ahead in one product, which takes less time.
_TOGETHER = 64


class KernelRounding:
    """Rounds kernels for the inputs of a convolution.

    Args:
      convolution: With simulated quantization.
      inputs: What it takes, in batches `[batch, height, width, channels]`.
      images: Their number.
    """

    def __init__(
        self, convolution: QuantizedConvBatchNorm, inputs: Iterable[tf.Tensor], images: int
    ) -> None:
        self._convolution = convolution
        each = (image for batch in inputs for image in batch.numpy())
        size, strides = convolution.kernel_size, convolution.strides
        self._compensation = compensation(
            moments(each, images, size, strides, convolution.depthwise)
        )

    def __call__(self, kernel: np.ndarray) -> np.ndarray:
        """Rounds a folded kernel to values that the ranges of today keep.

        Args:
          kernel: `[height, width, inputs, channels]` or, depthwise, `[height, width, channels, 1]`,
            within the ranges.
        """
        outputs = kernel.shape[2 if self._convolution.depthwise else 3]
        quantization = self._convolution.weights_quant
        low, high = (
            np.broadcast_to(bound.numpy().astype(np.float64), outputs)
            for bound in (quantization.min, quantization.max)
        )
        steps = (high - low) / (2 * _LARGEST)
        kernels = kernel.reshape(-1, outputs).T
        values = rounded(kernels, steps, self._compensation, np.round(low / steps))
        return values.T.reshape(kernel.shape)


def round_weights(
    convolution: QuantizedConvBatchNorm, inputs: Iterable[tf.Tensor], images: int
) -> None:
    """Rounds a convolution's kernel for its inputs, to values that simulated rounding keeps.

    Args:
      convolution: Keeps the range of its weights, or those of its channels.
      inputs: What it takes, in batches `[batch, height, width, channels]`.
      images: Their number.
    """
    kernel, scale = convolution.folded()[0].numpy(), convolution.batch_norm.fold()[0].numpy()
    if convolution.depthwise:
        scale = scale[:, np.newaxis]
    # A channel with a scale of 0 has no weights, whatever its kernel.
    live = scale != 0
    values = KernelRounding(convolution, inputs, images)(kernel) / np.where(live, scale, 1)
    convolution.kernel.assign(np.where(live, values, convolution.kernel.numpy()))


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


def compensation(moments: np.ndarray) -> np.ndarray:
    """How the weights from each one on make up for its error, one row for each weight.

    Args:
      moments: Of each group's inputs, the mean of `x x^T`: `[groups, weights, weights]`.

    Returns:
      `[groups, weights, weights]`.
    """
    diagonal = np.einsum("gii->gi", moments).mean(1)[:, np.newaxis, np.newaxis]
    damping = _DAMPING * np.where(diagonal > 0, diagonal, 1) * np.eye(moments.shape[-1])
    return np.swapaxes(np.linalg.cholesky(np.linalg.inv(moments + damping)), 1, 2)


def rounded(
    kernels: np.ndarray,
    steps: np.ndarray,
    compensation: np.ndarray,
    lowest: np.ndarray | float = -_LARGEST,
) -> np.ndarray:
    """Kernels as multiples of their steps.

    Args:
      kernels: `[outputs, weights]`, the weights ordered as those of the moments.
      steps: `[outputs]`.
      compensation: As of `compensation`. Its groups, one or one for each output, have as many
        outputs each, in order.
      lowest: Of the 255 multiples the lowest one: `[outputs]`, or one for all.
    """
    groups, _, weights = compensation.shape
    steps, lowest = (
        np.broadcast_to(each, len(kernels)).reshape(groups, -1, 1) for each in (steps, lowest)
    )
    left = kernels.astype(np.float64).reshape(groups, -1, weights)
    found, errors = np.empty(left.shape), np.empty(left.shape)
    for start in range(0, weights, _TOGETHER):
        stop = min(start + _TOGETHER, weights)
        for i in range(start, stop):
            value = left[..., i, np.newaxis]
            nearest = np.clip(np.round(value / steps), lowest, lowest + 2 * _LARGEST) * steps
            found[..., i] = nearest[..., 0]
            error = (value - nearest) / compensation[:, i, i, np.newaxis, np.newaxis]
            errors[..., i] = error[..., 0]
            left[..., i + 1 : stop] -= error * compensation[:, np.newaxis, i, i + 1 : stop]
        left[..., stop:] -= errors[..., start:stop] @ compensation[:, start:stop, stop:]
    return found.reshape(kernels.shape)


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
