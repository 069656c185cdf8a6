"""Puts a network's dead channels to use: they repeat live ones, a part of an 8-bit step apart.

Training leaves channels in the first layers of MobileNets that are 0 for every image, and it is
there that rounding activations to 8 bits costs most. Two channels with the same value, one of them
shifted by half a step, are rounded at different places, and their mean has steps half as wide. The
model's size, its time and its operations stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from mobilenets.layers import EPSILON, ConvBatchNorm

__all__ = ["STEP", "repeat_channels"]

_RELU6 = (0.0, 6.0)
STEP = _RELU6[1] / 255
"""The distance between two 8-bit values of an activation behind ReLU6."""


def repeat_channels(convolutions: Sequence[ConvBatchNorm], step: float = STEP) -> None:
    """Makes a float network's dead channels repeat live ones.

    The weights that read a repeated channel are divided among its repetitions, and the moving means
    that follow take out what the shifts add. The outputs stay the same, but for a part of a step
    where ReLU6 clips a shifted value and where padding has no shift.

    Args:
      convolutions: Those of V1 or V2, in order; they are changed. Dead channels are those that are
        0 for any image in [0, 1], which the weights tell.
      step: The shifts are parts of it; 0 makes exact repetitions.
    """
    for chain in _chains(convolutions):
        chain.repeat(chain.sources(), step)


@dataclass(frozen=True)
class _Chain:
    """A depthwise convolution between two full ones.

    Attributes:
      bounds: Of the inputs of the first.
    """

    first: ConvBatchNorm
    depthwise: ConvBatchNorm
    last: ConvBatchNorm
    bounds: tuple[float, float]

    def sources(self) -> np.ndarray:
        """For each channel the one that it is to repeat: itself, unless it is dead.

        A dead channel goes to the live one whose rounding does most harm at the time: the noise
        that it adds to the last convolution's outputs, relative to their variances. With n
        repetitions the variance of the noise is 1 / n ** 2 of that of one.
        """
        kernel, offset = (each.numpy() for each in self.first.folded())
        lowest, highest = (bound * kernel for bound in self.bounds)
        dead = offset + np.maximum(lowest, highest).sum((0, 1, 2)) <= 0
        variance = self.last.batch_norm.moving_variance.numpy() + EPSILON
        read = (self.last.kernel.numpy()[0, 0] ** 2 / variance).sum(1)
        harm = np.where(dead, 0, (self.depthwise.folded()[0].numpy() ** 2).sum((0, 1, 3)) * read)
        sources, repetitions = np.arange(len(dead)), np.ones(len(dead))
        if harm.any():
            for channel in np.flatnonzero(dead):
                sources[channel] = np.argmax(harm / repetitions**2)
                repetitions[sources[channel]] += 1
        return sources

    def repeat(self, sources: np.ndarray, step: float) -> None:
        """Makes each channel a repetition of its source."""
        count = np.bincount(sources, minlength=len(sources))[sources]
        turn = [np.count_nonzero(sources[:i] == source) for i, source in enumerate(sources)]
        # The source itself may come after channels that repeat it: any one may be without a shift.
        shift = (np.array(turn) / count * step).astype(np.float32)
        dead = sources != np.arange(len(sources))
        # What a dead channel adds to the last convolution's outputs.
        constant = np.where(dead, np.clip(self.depthwise.batch_norm.fold()[1], *_RELU6), 0)
        kernel = self.last.kernel.numpy()[0, 0]
        _add(self.last.batch_norm.moving_mean, -constant @ kernel)

        _take(self.first, sources)
        _add(self.first.batch_norm.beta, shift)
        _take(self.depthwise, sources)
        norm = self.depthwise.batch_norm
        _add(norm.moving_mean, shift * self.depthwise.kernel.numpy().sum((0, 1, 3)))
        _add(norm.beta, shift)
        shared = kernel[sources] / count[:, np.newaxis].astype(np.float32)
        self.last.kernel.assign(shared[np.newaxis, np.newaxis])
        _add(self.last.batch_norm.moving_mean, shift @ shared)


def _chains(convolutions: Sequence[ConvBatchNorm]) -> Iterator[_Chain]:
    """The chains whose inputs are bounded: images in [-1, 1], or what ReLU6 has clipped."""
    before: ConvBatchNorm | None = None
    for first, depthwise, last in zip(
        convolutions, convolutions[1:], convolutions[2:], strict=False
    ):
        if depthwise.depthwise and (before is None or before.activation):
            yield _Chain(first, depthwise, last, (-1.0, 1.0) if before is None else _RELU6)
        before = first


def _take(convolution: ConvBatchNorm, channels: np.ndarray) -> None:
    """Replaces each output channel of a convolution by another."""
    axis = 2 if convolution.depthwise else 3
    convolution.kernel.assign(convolution.kernel.numpy().take(channels, axis))
    for variable in convolution.batch_norm.variables:
        variable.assign(variable.numpy()[channels])


def _add(variable: keras.Variable, values: np.ndarray) -> None:
    variable.assign(variable.numpy() + values)
