"""Gives the channels of linear bottlenecks similar ranges, for which 8 bits have one step.

A layer's outputs have the same step for all channels, so that rounding costs channels of small
values most. Where no activation follows, a channel may be scaled up if the weights that read it
are scaled down (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias
Correction, https://arxiv.org/abs/1906.04721, section 4.1, for ranges of activations).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mobilenets import MobileNet, architecture
from mobilenets.layers import ConvBatchNorm

__all__ = ["equalize"]

# Of 1 all channels would get the same range, and the weights that read them very different ones.
_EXPONENT = 0.75
_BATCH = 16


def equalize(model: MobileNet, images: np.ndarray) -> None:
    """Gives the channels of a float model's linear outputs similar ranges.

    The model's outputs stay the same. Channels that shortcuts add have a scale in common.

    Args:
      model: V1, in which nothing is linear, or V2; it is changed.
      images: To measure the ranges on, `[number, size, size, 3]`, in [0, 1].
    """
    groups = list(_groups(model))
    largest = _largest(model, images) if groups else []
    for group in groups:
        values = np.max([largest[each] for each in group], axis=0)
        scale = np.where(values > 0, values.max() / np.maximum(values, 1e-6), 1) ** _EXPONENT
        for each in group:
            _scale(model, each, scale.astype(np.float32))


def _convolutions(model: MobileNet, block: int) -> list[ConvBatchNorm]:
    return getattr(model.blocks[block], "convolutions", [model.blocks[block]])


def _groups(model: MobileNet) -> Iterator[list[int]]:
    """The positions of blocks with linear outputs, together where one is added to the next."""
    group: list[int] = []
    channels = 0
    for position, row in enumerate(architecture.rows(model.variant)):
        if group and not row.adds_input(channels):
            yield group
            group = []
        if not _convolutions(model, position)[-1].activation:
            group = [*group, position]
        channels = row.filters
    if group:
        yield group


def _largest(model: MobileNet, images: np.ndarray) -> list[np.ndarray]:
    """The largest magnitude of each block's outputs, by channel."""
    found: list[np.ndarray] = [np.zeros(())] * len(model.blocks)
    for start in range(0, len(images), _BATCH):
        values = tf.constant(2 * images[start : start + _BATCH] - 1)
        for position, block in enumerate(model.blocks):
            values = block(values)
            magnitude = tf.reduce_max(tf.abs(values), [0, 1, 2]).numpy()
            found[position] = np.maximum(found[position], magnitude)
    return found


def _scale(model: MobileNet, block: int, scale: np.ndarray) -> None:
    """Scales a block's outputs up, and the weights that read them down."""
    norm = _convolutions(model, block)[-1].batch_norm
    for variable in (norm.gamma, norm.beta):
        variable.assign(variable.numpy() * scale)
    reader = _convolutions(model, block + 1)[0]
    reader.kernel.assign(reader.kernel.numpy() / scale[:, np.newaxis])
