"""Corrects a rounded network: undoes the shift of the mean that rounded kernels cause.

Rounding a kernel shifts the mean of its outputs, and the shifts of all layers are most of a
MobileNet's loss in 8 bits. Corrected biases cost nothing at run time. Without images, the shift
follows from the batch norms' statistics (Nagel et al., Data-Free Quantization Through Weight
Equalization and Bias Correction, https://arxiv.org/abs/1906.04721, section 4.2); with images, it
is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mobilenets import MobileNet, architecture

from .litert_graph import Convolution, LiteGraph
from .litert_run import LiteModel, LitePart
from .weight_rounding import round_kernel

__all__ = ["correct", "expected_inputs"]


def correct(
    graph: LiteGraph,
    reference: LiteGraph,
    expected: Sequence[np.ndarray],
    images: np.ndarray | None,
) -> None:
    """Corrects each convolution in turn, so that its mean outputs are the reference's.

    With images, kernels are rounded anew for the inputs that they make; without, and in the logits,
    for which an image has too few features to measure, the biases alone are corrected.

    Args:
      graph: The network to correct.
      reference: The same network in float32.
      expected: The mean of each convolution's inputs, by channel.
      images: `[number, size, size, 3]` to measure on; None takes the expected means.
    """
    measured = None
    if images is not None:
        outputs = [theirs.output for theirs in reference.convolutions if not theirs.dense]
        wanted = iter(_means(reference.until(outputs), images))
        measured = _Walk(graph, images)
    for ours, theirs, mean in zip(
        graph.convolutions, reference.convolutions, expected, strict=True
    ):
        if measured is None or ours.dense:
            ours.shift_bias(_mean_shift(theirs.kernel, ours.kernel, mean, ours.depthwise))
        else:
            inputs = measured.inputs(ours)
            round_kernel(ours, theirs.kernel, inputs, measured.images)
            ours.shift_bias(next(wanted) - measured.mean(ours.output))
            measured.go_past(ours.output)


class _Walk:
    """Walks through a graph with all images at once; runs every operator twice.

    At its position it holds the values of the tensors that later operators read, as they are
    stored: one byte each in an 8-bit model.

    Attributes:
      images: Their number.
    """

    def __init__(self, graph: LiteGraph, images: np.ndarray) -> None:
        self.images = len(images)
        self._graph = graph
        self._position = 0
        model = LiteModel(graph.until([*graph.graph.outputs]))
        (first,) = graph.graph.inputs
        self._values = [{int(first): model.stored(image)} for image in images]

    def mean(self, tensor: int) -> np.ndarray:
        """The mean of a tensor over images and pixels, by channel, with the current biases."""
        part = self._graph.between(self._position, self._graph.position(tensor) + 1)
        model, index = LitePart(part.content), part.outputs.index(tensor)
        total: Any = 0.0
        for values in self._values:
            output = model.run([values[each] for each in part.inputs])[index]
            floats = model.floats(index, output)[0]
            total += floats.mean(tuple(range(floats.ndim - 1)), dtype=np.float64)
        return total / len(self._values)

    def inputs(self, convolution: Convolution) -> Iterator[np.ndarray]:
        """A convolution's inputs for each image, as floats; moves up to the convolution."""
        tensor = convolution.input
        if tensor not in self._values[0]:
            self.go_past(tensor)
        (scale,), (zero_point,) = self._graph.quantization(tensor)
        for values in self._values:
            yield (values[tensor][0].astype(np.float32) - zero_point) * scale

    def go_past(self, tensor: int) -> None:
        """Moves past the operator that computes a tensor; there is no way back."""
        stop = self._graph.position(tensor) + 1
        part = self._graph.between(self._position, stop)
        model, needed = LitePart(part.content), self._graph.needed(stop)
        for values in self._values:
            outputs = model.run([values[each] for each in part.inputs])
            for old in values.keys() - needed:
                del values[old]
            values.update(zip(part.outputs, outputs, strict=True))
        self._position = stop


def _means(content: bytes, images: np.ndarray) -> list[np.ndarray]:
    """The mean of each output of a model over images and pixels, by channel."""
    model = LiteModel(content)
    total: list[Any] = [0.0] * len(model.run(images[0]))
    for image in images:
        for i, values in enumerate(model.run(image)):
            total[i] += values.mean(tuple(range(values.ndim - 1)), dtype=np.float64)
    return [each / len(images) for each in total]


def expected_inputs(model: MobileNet) -> list[np.ndarray]:
    """The mean of each convolution's input, by channel, from the batch norms' statistics.

    After batch norm a channel has mean beta and standard deviation gamma over the training images,
    and is assumed to be normally distributed. The mean of images is assumed to be 0.
    """
    means = [np.zeros(3)]
    for block, row in zip(model.blocks, architecture.rows(model.variant), strict=True):
        start = means[-1]
        for convolution in getattr(block, "convolutions", (block,)):
            norm = convolution.batch_norm
            mean = norm.beta.numpy().astype(np.float64)
            if convolution.activation:
                mean = _relu6_mean(mean, np.abs(norm.gamma.numpy().astype(np.float64)))
            means.append(mean)
        if row.adds_input(len(start)):
            means[-1] = means[-1] + start
    return means if model.logits is not None else means[:-1]


def _relu6_mean(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The mean of a normal distribution that is clipped to [0, 6]."""
    deviation = np.maximum(deviation, 1e-6)
    low, high = -mean / deviation, (6 - mean) / deviation
    below, below_high = _normal(low), _normal(high)
    inside = mean * (below_high - below) + deviation * (_density(low) - _density(high))
    return inside + 6 * (1 - below_high)


def _normal(value: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in value])


def _density(value: np.ndarray) -> np.ndarray:
    return np.exp(-(value**2) / 2) / math.sqrt(2 * math.pi)


def _mean_shift(
    exact: np.ndarray, stored: np.ndarray, inputs: np.ndarray, depthwise: bool
) -> np.ndarray:
    """The amount by which the stored kernel's outputs are too low in the mean, by channel."""
    lost = exact.astype(np.float64) - stored
    if depthwise:
        return lost.sum((0, 1, 2)) * inputs
    return lost.reshape(lost.shape[0], -1, lost.shape[-1]).sum(1) @ inputs
