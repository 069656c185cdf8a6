"""What a network's convolutions give for some images, measured channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

__all__ = ["MOST_IMAGES", "batches", "measured"]

MOST_IMAGES = 64
"""Enough images to measure on; more would take memory."""
_BATCH = 16


def batches(images: tf.Tensor) -> list[tf.Tensor]:
    """The images in batches that fit into memory."""
    count = images.shape[0]
    return tf.split(images, [min(_BATCH, count - start) for start in range(0, count, _BATCH)])


def measured(
    block: keras.layers.Layer,
    inputs: Sequence[tf.Tensor],
    measure: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Runs a block on each batch, and keeps of its inner activations what is measured alone.

    Args:
      block: A convolution or several, with `return_endpoints`.
      inputs: The batches, `[batch, height, width, channels]`.
      measure: What to keep of an activation, which it gets in float32: a tensor of the same shape
        for every batch.

    Returns:
      For each of the block's activations the measures `[batches, …]`, and the block's outputs for
      each batch.
    """
    found, outputs = [], []
    for batch in inputs:
        activations = list(block(batch, return_endpoints=True).values())
        found.append([measure(tf.cast(each, tf.float32)) for each in activations])
        outputs.append(activations[-1])
    return [tf.stack(each) for each in zip(*found, strict=True)], outputs
