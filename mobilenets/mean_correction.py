"""Corrects a quantized network's offsets, so that its channels have the float network's means.

Rounded kernels shift the means of their outputs, and the shifts of all layers are most of what an
untrained quantized network loses (Nagel et al., Data-Free Quantization Through Weight Equalization
and Bias Correction, https://arxiv.org/abs/1906.04721, section 4.2). Here they are measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

__all__ = ["MOST_IMAGES", "correct_means"]

MOST_IMAGES = 64
"""Enough images to measure on; more would take memory."""
_BATCH = 16


def correct_means(
    blocks: Sequence[keras.layers.Layer],
    exact: Sequence[keras.layers.Layer],
    inputs: tf.Tensor,
    exact_inputs: tf.Tensor,
) -> None:
    """Moves each convolution's `beta` by the difference of its mean outputs, one after the other.

    Args:
      blocks: The blocks of the quantized network, which are changed.
      exact: Those of the float network with the same weights.
      inputs: What the first of `blocks` takes, `[batch, height, width, channels]`.
      exact_inputs: What the first of `exact` takes.
    """
    found, wanted = (tf.split(each, _parts(each)) for each in (inputs, exact_inputs))
    for block, reference in zip(blocks, exact, strict=True):
        convolutions = getattr(block, "convolutions", [block])
        expected, wanted = _run(reference, wanted)
        for position, convolution in enumerate(convolutions):
            means, _ = _run(block, found)
            convolution.batch_norm.beta.assign_add(expected[position] - means[position])
        _, found = _run(block, found)


def _parts(images: tf.Tensor) -> list[int]:
    count = images.shape[0]
    return [min(_BATCH, count - start) for start in range(0, count, _BATCH)]


def _run(
    block: keras.layers.Layer, batches: Sequence[tf.Tensor]
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The mean outputs of each convolution by channel, and the block's outputs for each batch."""
    total, outputs, count = None, [], 0
    for batch in batches:
        activations = list(block(batch, return_endpoints=True).values())
        sums = [
            tf.reduce_sum(tf.reduce_mean(tf.cast(each, tf.float32), [1, 2]), 0)
            for each in activations
        ]
        total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
        count += batch.shape[0]
        outputs.append(activations[-1])
    assert total is not None
    return [each / count for each in total], outputs
