"""Ranges for the values of a quantized classifier that have no range in the module."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from ..errors import ConvertError
from ..quiet import held_back
from .quantops_graph import POOLING, RECTIFIERS, ROUNDING, SUMS, WEIGHTED, FrozenGraph

__all__ = ["MEAN", "STD", "Ranges", "bounds", "calibrated", "containing_zero", "lacking"]

# The uint8 network takes a pixel p as (p - 128) / 128, like Google's.
MEAN, STD = 128.0, 128.0

Ranges = Mapping[tf.Operation, tuple[float, float]]
"""Lowest and highest value of the outputs of operations."""


def lacking(network: FrozenGraph) -> list[tf.Operation]:
    """The operations whose outputs need a range and have none."""
    return [operation for operation in network.operations if _lacks_range(network, operation)]


def _lacks_range(network: FrozenGraph, operation: tf.Operation) -> bool:
    # uint8 models pool in steps of what is pooled, as Google's do.
    pooling = (POOLING,) if network.int8 else ()
    if operation.type not in (*WEIGHTED, *SUMS, *RECTIFIERS, *pooling):
        return False
    consumers = network.consumers(operation)
    if len(consumers) != 1:
        return True
    # LiteRT makes one operation of a convolution, its bias and its ReLU.
    fused = {
        **dict.fromkeys(WEIGHTED, (*SUMS, *RECTIFIERS, ROUNDING)),
        **dict.fromkeys(SUMS, (*RECTIFIERS, ROUNDING)),
        **dict.fromkeys((*RECTIFIERS, *pooling), (ROUNDING,)),
    }
    return consumers[0].type not in fused[operation.type]


@held_back()
def calibrated(network: FrozenGraph, images: np.ndarray) -> Ranges:
    """Measures the missing ranges on images `[number, size, size, 3]` in [0, 1]."""
    unknown = lacking(network)
    lows, highs = [], []
    with tf.compat.v1.Session(graph=network.graph) as session:
        for image in images:
            pixels = np.round(image * 255)
            normalized = 2 * (pixels / 255) - 1 if network.int8 else (pixels - MEAN) / STD
            found = session.run(
                [operation.outputs[0] for operation in unknown],
                {network.images: normalized[np.newaxis]},
            )
            lows.append([value.min() for value in found])
            highs.append([value.max() for value in found])
    return {
        operation: containing_zero(low, high)
        for operation, low, high in zip(unknown, np.min(lows, 0), np.max(highs, 0), strict=True)
    }


def bounds(network: FrozenGraph) -> Ranges:
    """Ranges that contain all possible values of one layer after the module.

    Bounds on a second layer, computed from the bounds on a first, are too wide to be of use.

    Raises:
      ConvertError: There are several such layers.
    """
    added = [
        operation
        for operation in network.operations
        if operation.type in WEIGHTED and network.kernel_range(operation) is None
    ]
    if len(added) > 1:
        raise ConvertError(
            f"{len(added)} layers after the module ({', '.join(op.name for op in added)}) "
            "have no ranges: pass images to calibrate them",
            "images",
        )
    return {
        operation: containing_zero(*_bounds(network, operation.outputs[0]))
        for operation in lacking(network)
    }


def _bounds(network: FrozenGraph, tensor: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest possible value, of all elements or of each channel."""
    operation = tensor.op
    if tensor.name in network.constants:
        return network.constants[tensor.name], network.constants[tensor.name]
    if operation.type == ROUNDING:
        _, *ends = operation.inputs
        low, high = (network.constants[end.name] for end in ends)
        return low, high
    low, high = _bounds(network, operation.inputs[0])
    if operation.type in RECTIFIERS:
        most = 6.0 if operation.type == "Relu6" else np.inf
        return np.clip(low, 0, most), np.clip(high, 0, most)
    if operation.type in SUMS:
        other_low, other_high = _bounds(network, operation.inputs[1])
        return low + other_low, high + other_high
    if operation.type in WEIGHTED:
        # The inputs are rounded, so their range contains 0 and with it the padding.
        kernel = network.kernel(operation)
        kernel = kernel.reshape(-1, kernel.shape[-1])
        products = kernel * low, kernel * high
        return np.minimum(*products).sum(0), np.maximum(*products).sum(0)
    return low, high


def containing_zero(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """A range for 8 bits: it contains 0 and is not empty."""
    least, most = min(float(np.min(low)), 0.0), max(float(np.max(high)), 0.0)
    return (least, most) if most > least else (-1.0, 1.0)
