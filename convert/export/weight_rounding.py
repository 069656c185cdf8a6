"""Rounds kernels to 8 bits so that their outputs change least, given the inputs.

Neighbouring inputs are alike, so that the error of one rounded weight can be made up for by the
weights that are rounded after it (Frantar et al., GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers, https://arxiv.org/abs/2210.17323, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .litert_graph import Convolution

__all__ = ["round_kernel", "rounded"]

_LARGEST = 127
# Of the mean diagonal of the moments, added to all of it: few images leave them singular.
_DAMPING = 0.01
# Of all images together; more would hardly change the moments.
_PATCHES = 10_000


def round_kernel(
    convolution: Convolution, exact: np.ndarray, inputs: Iterable[np.ndarray], images: int
) -> None:
    """Stores an 8-bit convolution's exact kernel, rounded for these inputs.

    Args:
      convolution: Keeps the steps of its kernel; it is not the logits.
      exact: The kernel, as `Convolution.kernel` gives it.
      inputs: For each image `[height, width, channels]`, float32.
      images: Their number.
    """
    size, random = exact.shape[1], np.random.default_rng(0)
    # A depthwise kernel has a group of weights for each channel, with one output.
    grouped = _by_channel if convolution.depthwise else _together
    most = -(-_PATCHES // images)
    total, count = np.zeros(()), 0
    for image in inputs:
        patches = grouped(_patches(image, size, convolution.strides, most, random))
        total = total + (patches.transpose(0, 2, 1) @ patches).astype(np.float64)
        count += patches.shape[1]
    kernels = grouped(exact.reshape(len(exact), size * size, -1))
    steps = convolution.steps.reshape(*kernels.shape[:2], 1)
    found = rounded(kernels, steps, total / count)
    convolution.store_kernel((found.T if convolution.depthwise else found).reshape(exact.shape))


def _together(values: np.ndarray) -> np.ndarray:
    """`[first, ...]` as one group, `[1, first, weights]`."""
    return values.reshape(1, len(values), -1)


def _by_channel(values: np.ndarray) -> np.ndarray:
    """`[first, weights, channels]` as `[channels, first, weights]`."""
    return values.transpose(2, 0, 1)


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
