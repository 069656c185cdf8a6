"""Simulated 8-bit quantization: float32 values rounded to the 8-bit values of a range.

The published quantops checkpoints were trained with `tf.contrib.quantize`; the numerics here are
the same as after its freeze of the batch norms. Batch norm is folded into the convolution with the
moving statistics; the folded weights are quantized in their own range (narrow: 255 values), the
activations in theirs (256 values). In the int8 scheme, which is LiteRT's, each output channel of
the weights has a symmetric range of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mobilenets import architecture
from mobilenets.layers import EPSILON, ConvBatchNorm, move
from mobilenets.parts import Part, Split

__all__ = [
    "ChannelQuantization",
    "FakeQuantization",
    "QuantizedConvBatchNorm",
    "quantize_images",
    "range_problems",
]

# contrib.quantize's ema_decay, and the ranges it starts from.
RANGE_MOMENTUM = 0.999
INITIAL = 6.0
# The published quantops modules widen the images' range of [-1, 1] by 0.05 %.
IMAGE_RANGE = (-1.0005, 1.0005)
# A channel of zeros needs a range too. LiteRT's biases are int32, in steps of the weights' step
# times the inputs'; with this range they reach 40 behind ReLU6.
_LEAST = 1e-4


def quantize_images(images: tf.Tensor) -> tf.Tensor:
    """Images in [-1, 1] as the quantops networks see them: rounded to 8 bits."""
    images = tf.cast(images, tf.float32)
    return tf.quantization.fake_quant_with_min_max_args(images, *IMAGE_RANGE)


def range_problems(values: Mapping[str, np.ndarray]) -> list[str]:
    """Problems with the ranges among a network's variables.

    Args:
      values: Slim variable name to value; only names that end in `/min` or `/max` are checked.

    Returns:
      One line for each range that 8 bits cannot quantize, naming its variable.
    """
    problems = []
    for name, value in values.items():
        scope, _, bound = name.rpartition("/")
        if bound not in ("min", "max"):
            continue
        other = f"{scope}/{'max' if bound == 'min' else 'min'}"
        if other not in values:
            problems.append(f"{other}: missing, but there is {name}")
        elif bound == "min":
            problems += _problem(name, value, other, values[other])
    return problems


def _problem(name: str, lows: np.ndarray, other: str, highs: np.ndarray) -> list[str]:
    """What is wrong with a range, or with the first wrong one of a layer's channels, if any."""
    by_channel = np.ndim(lows) > 0
    for channel, (low, high) in enumerate(
        zip(np.ravel(lows).tolist(), np.ravel(highs).tolist(), strict=True)
    ):
        at = f" (channel {channel})" if by_channel else ""
        if low >= high:
            return [f"{name}{at}: {low:g} is not below {other}, which is {high:g}"]
        if low > 0:
            return [f"{name}{at}: {low:g} is above 0; a range must contain 0"]
        if high < 0:
            return [f"{other}{at}: {high:g} is below 0; a range must contain 0"]
        if by_channel and low != -high:
            return [
                f"{name}{at}: {low:g} is not the negative of {other}, which is {high:g}; "
                "a channel's range must be symmetric"
            ]
    return []


@keras.saving.register_keras_serializable("mobilenets")
class FakeQuantization(Part, keras.layers.Layer):
    """Rounds float32 to 8 bits in the range of the variables `min` and `max`.

    The range is shifted slightly so that 0 is one of the values (gemmlowp's nudging). Gradients
    pass straight through the rounding.

    Args:
      minimum: Lower end of the range to start from, at most 0.
      narrow_range: Whether to use 255 of the 256 values, as integer kernels require of weights.
    """

    def __init__(self, minimum: float = -INITIAL, narrow_range: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.minimum = minimum
        self.narrow_range = narrow_range
        self._constants: tuple[np.ndarray, np.ndarray] | None = None

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        shape = self._range_shape(input_shape)
        self.min = self._bound("min", shape, self.minimum)
        self.max = self._bound("max", shape, INITIAL)
        self.restore_settings()

    def _range_shape(self, input_shape: Sequence[int | None] | None) -> tuple[int | None, ...]:
        return ()

    def _bound(self, name: str, shape: tuple[int | None, ...], value: float) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def rounded(self, inputs: tf.Tensor) -> tf.Tensor:
        """Rounds to the range; values outside of it are clipped and have no gradient.

        Args:
          inputs: Of any shape, float32.
        """
        return tf.quantization.fake_quant_with_min_max_vars(
            inputs, *self._bounds, num_bits=8, narrow_range=self.narrow_range
        )

    @property
    def _bounds(self) -> tuple[Any, Any]:
        return self._constants or (self.min.value, self.max.value)

    def make_constant(self) -> None:
        """From now on `rounded` has the range of today as constants."""
        self._constants = self.min.numpy(), self.max.numpy()

    def fit(self, inputs: tf.Tensor) -> None:
        """Sets the range to that of the inputs, widened to contain 0.

        Args:
          inputs: Of any shape, float32.
        """
        low, high = self._measured(tf.stop_gradient(inputs))
        self.min.assign(low)
        self.max.assign(high)

    def follow(self, inputs: tf.Tensor, momentum: float | tf.Tensor) -> None:
        """Moves the range towards that of the inputs, widened to contain 0.

        Args:
          inputs: Of any shape, float32.
          momentum: In [0, 1]: the share of the range that is kept.
        """
        low, high = self._measured(tf.stop_gradient(inputs))
        move([(self.min, low), (self.max, high)], momentum)

    def _measured(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        low, high = tf.minimum(tf.reduce_min(inputs), 0.0), tf.maximum(tf.reduce_max(inputs), 0.0)
        # New logits are zeros, and a range must not be empty.
        return low, tf.where(low < high, high, _LEAST)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "minimum": self.minimum,
            "narrow_range": self.narrow_range,
        }


@keras.saving.register_keras_serializable("mobilenets")
class ChannelQuantization(FakeQuantization):
    """Rounds each output channel of weights to 255 values of a symmetric range of its own.

    `min` and `max` are `[channels]`, and `min` is `-max`; 0 is the middle one of the values. The
    weights are `[height, width, inputs, channels]` or, depthwise, `[height, width, channels, 1]`.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**kwargs, "minimum": -INITIAL, "narrow_range": True})

    def _range_shape(self, input_shape: Sequence[int | None] | None) -> tuple[int | None, ...]:
        """`input_shape` is `[…, channels]`."""
        return () if input_shape is None else (input_shape[-1],)

    def rounded(self, inputs: tf.Tensor) -> tf.Tensor:
        rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            self._by_channel(inputs), *self._bounds, num_bits=8, narrow_range=True
        )
        return tf.reshape(rounded, inputs.shape)

    def _measured(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        widest = tf.reduce_max(tf.abs(self._by_channel(inputs)), 0)
        high = tf.maximum(widest, _LEAST)
        return -high, high

    def _by_channel(self, weights: tf.Tensor) -> tf.Tensor:
        # In both kinds of kernels neighbours in memory belong to different output channels.
        return tf.reshape(weights, [-1, self.min.shape[0]])


def quantize_weights(quantization: FakeQuantization, weights: tf.Tensor, adapt: bool) -> tf.Tensor:
    """Weights rounded to their range; with `adapt` the range is first set to the weights' own.

    With `adapt` no weight lies outside the range, and all have a gradient, even if nudging clips.
    """
    if not adapt:
        return quantization.rounded(weights)
    quantization.fit(weights)
    # `weights - fixed(weights)` is exactly 0 and carries the gradient.
    fixed = tf.stop_gradient
    return fixed(quantization.rounded(weights)) + (weights - fixed(weights))


def quantize_activations(
    quantization: FakeQuantization,
    activations: tf.Tensor,
    adapt: bool,
    momentum: float | tf.Tensor,
) -> tf.Tensor:
    """Activations rounded to their range; with `adapt` the range first follows the batch's."""
    if adapt:
        quantization.follow(activations, momentum)
    return quantization.rounded(activations)


def quantizers(
    per_channel: bool, minimum: float = -INITIAL
) -> tuple[FakeQuantization, FakeQuantization]:
    """The quantizers of a layer's weights and activations, under contrib.quantize's names.

    Args:
      per_channel: Whether each output channel of the weights has a range of its own.
      minimum: Lower end of the activations' range to start from, at most 0.
    """
    common: dict[str, Any] = {"name": "weights_quant", "dtype": "float32"}
    return (
        ChannelQuantization(**common)
        if per_channel
        else FakeQuantization(narrow_range=True, **common),
        FakeQuantization(minimum, name="act_quant", dtype="float32"),
    )


def range_variables(
    scope: str, quantizations: Iterable[FakeQuantization]
) -> dict[str, keras.Variable]:
    """The ranges' variables by Slim name."""
    return {
        f"{scope}/{quantization.name}/{variable.name}": variable
        for quantization in quantizations
        for variable in (quantization.min, quantization.max)
    }


def silence(convolution: ConvBatchNorm) -> None:
    """Sets to 0 the weights of channels whose output is a constant within half a rounding step.

    Training leaves such channels behind, with moving variances down to 1e-35. Batch norm divides by
    the root of the variance, so their folded weights are the largest of the layer, and a range
    for all channels would have no steps left for the others. Their output stays the constant.
    """
    norm = convolution.batch_norm
    variance = norm.moving_variance.numpy()
    deviation = np.abs(norm.gamma.numpy()) * np.sqrt(variance / (variance + EPSILON))
    # Three deviations below half of ReLU6's step.
    constant = 3 * deviation < INITIAL / 255 / 2
    kernel, mean = convolution.kernel.numpy(), norm.moving_mean.numpy()
    if convolution.depthwise:
        kernel[:, :, constant] = 0
    else:
        kernel[..., constant] = 0
    mean[constant] = 0
    convolution.kernel.assign(kernel)
    norm.moving_mean.assign(mean)


@keras.saving.register_keras_serializable("mobilenets")
class QuantizedConvBatchNorm(ConvBatchNorm):
    """`ConvBatchNorm` with simulated 8-bit weights and activations; float32 only.

    Inference uses the ranges in the variables. In training the batch norm stays folded with its
    moving statistics, which are not updated (as in contrib.quantize after its freeze delay); the
    weights' range is that of the current folded weights, the activations' range is a moving average
    over the batches.

    Args:
      per_channel: Whether each output channel of the weights has a range of its own.
    """

    def __init__(self, *args, per_channel: bool = False, dtype: Any = None, **kwargs) -> None:
        super().__init__(*args, dtype=dtype or "float32", **kwargs)
        self.per_channel = per_channel
        self.weights_quant, self.act_quant = quantizers(
            per_channel, 0.0 if self.activation else -INITIAL
        )

    @property
    def _range_scope(self) -> str:
        return architecture.range_scope(self.scope) if self.scope else self.path

    @property
    def slim_variables(self) -> dict[str, keras.Variable]:
        """The variables by name; the ranges come after the batch norm's."""
        ranges = range_variables(self._range_scope, (self.weights_quant, self.act_quant))
        return super().slim_variables | ranges

    def build(self, input_shape: Sequence[int | None]) -> None:
        with tf.name_scope(f"{self._range_scope}/"):
            self.weights_quant.build((None, self.filters or input_shape[-1]))
            self.act_quant.build()
        super().build(input_shape)

    def call(
        self,
        inputs: tf.Tensor,
        training: bool = False,
        momentum: float | tf.Tensor = RANGE_MOMENTUM,
        return_endpoints: bool | Split = False,
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Convolves, normalizes, activates; rounds the weights and the result.

        Args:
          inputs: `[batch, height, width, channels]`.
          training: Whether to update the ranges. A frozen layer (`trainable=False`) never does.
          momentum: In [0, 1]: the share of the activations' range that is kept.
          return_endpoints: As in `ConvBatchNorm`.
        """
        return super().call(inputs, training, momentum, return_endpoints)

    def make_constant(self) -> None:
        kernel, offset = self.folded()
        kernel = quantize_weights(self.weights_quant, kernel, adapt=False)
        self._constants = kernel.numpy(), offset.numpy()
        self.act_quant.make_constant()

    def _outputs(self, inputs: tf.Tensor, training: bool, momentum: float | tf.Tensor) -> tf.Tensor:
        adapt = training and self.trainable
        kernel, offset = self.folded()
        if not self._constants:
            kernel = quantize_weights(self.weights_quant, kernel, adapt)
        outputs = self.convolve(inputs, kernel)
        outputs = self._activate(tf.nn.bias_add(outputs, offset))
        return quantize_activations(self.act_quant, outputs, adapt, momentum)

    def get_config(self) -> dict:
        return {**super().get_config(), "per_channel": self.per_channel}
