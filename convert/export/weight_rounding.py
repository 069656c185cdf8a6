"""Rounds the kernels of LiteRT models to 8 bits so that their outputs change least."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mobilenets.weight_rounding import compensation, moments, rounded

from .litert_graph import Convolution

__all__ = ["round_kernel"]


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
    depthwise = convolution.depthwise
    found = moments(inputs, images, exact.shape[1], convolution.strides, depthwise)
    outputs = exact.shape[-1 if depthwise else 0]
    # LiteRT has the channels of a depthwise kernel last.
    kernels = exact.reshape(-1, outputs).T if depthwise else exact.reshape(outputs, -1)
    values = rounded(kernels, convolution.steps, compensation(found))
    convolution.store_kernel((values.T if depthwise else values).reshape(exact.shape))
