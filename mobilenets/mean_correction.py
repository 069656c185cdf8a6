"""Corrects a quantized network's offsets, so that its channels have the float network's means.

Rounded kernels shift the means of their outputs, and the shifts of all layers are most of what an
untrained quantized network loses (Nagel et al., Data-Free Quantization Through Weight Equalization
and Bias Correction, https://arxiv.org/abs/1906.04721, section 4.2). Here they are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from mobilenets.channel_scaling import scale_between
from mobilenets.channel_statistics import batches, measured
from mobilenets.quantization import QuantizedConvBatchNorm

__all__ = ["correct_means"]


def correct_means(
    blocks: Sequence[keras.layers.Layer],
    exact: Sequence[keras.layers.Layer],
    inputs: tf.Tensor,
    exact_inputs: tf.Tensor,
    prepare: Callable[[QuantizedConvBatchNorm, Iterator[tf.Tensor]], None] | None = None,
) -> None:
    """Moves each convolution's `beta` by the difference of its mean outputs, one after the other.

    Args:
      blocks: The blocks of the quantized network, which are changed. Their channels may be scaled.
      exact: Those of the float network that it was made of.
      inputs: What the first of `blocks` takes, `[batch, height, width, channels]`.
      exact_inputs: What the first of `exact` takes.
      prepare: What else is to happen to a convolution, before it is corrected; gets the convolution
        and its inputs, of corrected convolutions, in batches.
    """
    count = inputs.shape[0]
    found, wanted = batches(inputs), batches(exact_inputs)
    for block, reference in zip(blocks, exact, strict=True):
        convolutions = getattr(block, "convolutions", [block])
        references = getattr(reference, "convolutions", [reference])
        expected, wanted = measured(reference, wanted, _sums)
        for position, convolution in enumerate(convolutions):
            if prepare is not None:
                prepare(convolution, _inputs(block, position, found))
            scale = scale_between(references[position], convolution)
            sums, _ = measured(block, found, _sums)
            shift = tf.reduce_sum(scale * expected[position] - sums[position], 0) / count
            convolution.batch_norm.beta.assign_add(shift)
        _, found = measured(block, found, _sums)


def _inputs(
    block: keras.layers.Layer, position: int, inputs: Sequence[tf.Tensor]
) -> Iterator[tf.Tensor]:
    """What a block's convolution at a position takes, for each of the block's batches."""
    for batch in inputs:
        if position:
            batch = list(block(batch, return_endpoints=True).values())[position - 1]
        yield batch


def _sums(activation: tf.Tensor) -> tf.Tensor:
    """By channel, over the images, of the means over the pixels."""
    return tf.reduce_sum(tf.reduce_mean(activation, [1, 2]), 0)
