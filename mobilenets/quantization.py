"""Simulated 8-bit quantization: float32 values rounded to the 8-bit values of a range.

The published quantops checkpoints were trained with `tf.contrib.quantize`; the numerics here are
the same as after its freeze of the batch norms. Batch norm is folded into the convolution with the
moving statistics; the folded weights are quantized in their own range (narrow: 255 values), the
activations in theirs (256 values).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mobilenets import architecture
from mobilenets.layers import EPSILON, ConvBatchNorm, moved
from mobilenets.parts import Part, Split

__all__ = ["FakeQuantization", "QuantizedConvBatchNorm", "quantize_images", "range_problems"]

# contrib.quantize's ema_decay, and the ranges it starts from.
RANGE_MOMENTUM = 0.999
_INITIAL = 6.0
# The published quantops modules widen the images' range of [-1, 1] by 0.05 %.
_IMAGE_RANGE = 1.0005


def quantize_images(images: tf.Tensor) -> tf.Tensor:
    """Images in [-1, 1] as the quantops networks see them: rounded to 8 bits."""
    images = tf.cast(images, tf.float32)
    return tf.quantization.fake_quant_with_min_max_args(images, -_IMAGE_RANGE, _IMAGE_RANGE)


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
            low, high = float(value), float(values[other])
            if low >= high:
                problems.append(f"{name}: {low:g} is not below {other}, which is {high:g}")
            elif low > 0:
                problems.append(f"{name}: {low:g} is above 0; a range must contain 0")
            elif high < 0:
                problems.append(f"{other}: {high:g} is below 0; a range must contain 0")
    return problems


@keras.saving.register_keras_serializable("mobilenets")
class FakeQuantization(Part, keras.layers.Layer):
    """Rounds float32 to 8 bits in the range of the variables `min` and `max`.

    The range is shifted slightly so that 0 is one of the values (gemmlowp's nudging). Gradients
    pass straight through the rounding.

    Args:
      minimum: Lower end of the range to start from, at most 0.
      narrow_range: Whether to use 255 of the 256 values, as integer kernels require of weights.
    """

    def __init__(self, minimum: float = -_INITIAL, narrow_range: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.minimum = minimum
        self.narrow_range = narrow_range
        self._constants: tuple[float, float] | None = None

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        self.min = self._bound("min", self.minimum)
        self.max = self._bound("max", _INITIAL)
        self.restore_settings()

    def _bound(self, name: str, value: float) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(),
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
        low, high = self._constants or (self.min.value, self.max.value)
        return tf.quantization.fake_quant_with_min_max_vars(
            inputs, low, high, num_bits=8, narrow_range=self.narrow_range
        )

    def make_constant(self) -> None:
        """From now on `rounded` has the range of today as constants."""
        self._constants = float(self.min.value), float(self.max.value)

    def follow(self, inputs: tf.Tensor, momentum: float | tf.Tensor) -> None:
        """Moves the range towards that of the inputs, widened to contain 0.

        Args:
          inputs: Of any shape, float32.
          momentum: In [0, 1]: the share of the range that is kept.
        """
        inputs = tf.stop_gradient(inputs)
        low = tf.minimum(tf.reduce_min(inputs), 0.0)
        high = tf.maximum(tf.reduce_max(inputs), 0.0)
        for bound, batch in ((self.min, low), (self.max, high)):
            bound.assign(moved(bound.value, batch, momentum))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "minimum": self.minimum,
            "narrow_range": self.narrow_range,
        }


def quantize_weights(quantization: FakeQuantization, weights: tf.Tensor, adapt: bool) -> tf.Tensor:
    """Weights rounded to their range; with `adapt` the range is first set to the weights' own.

    With `adapt` no weight lies outside the range, and all have a gradient, even if nudging clips.
    """
    if not adapt:
        return quantization.rounded(weights)
    quantization.follow(weights, momentum=0.0)
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


def quantizers(minimum: float = -_INITIAL) -> tuple[FakeQuantization, FakeQuantization]:
    """The quantizers of a layer's weights and activations, under contrib.quantize's names.

    Args:
      minimum: Lower end of the activations' range to start from, at most 0.
    """
    return (
        FakeQuantization(narrow_range=True, name="weights_quant", dtype="float32"),
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
    constant = 3 * deviation < _INITIAL / 255 / 2
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
    """

    def __init__(self, *args, dtype: Any = None, **kwargs) -> None:
        super().__init__(*args, dtype=dtype or "float32", **kwargs)
        self.weights_quant, self.act_quant = quantizers(0.0 if self.activation else -_INITIAL)

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
            self.weights_quant.build()
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
        kernel, offset = self._folded()
        kernel = quantize_weights(self.weights_quant, kernel, adapt=False)
        self._constants = kernel.numpy(), offset.numpy()
        self.act_quant.make_constant()

    def _outputs(self, inputs: tf.Tensor, training: bool, momentum: float | tf.Tensor) -> tf.Tensor:
        adapt = training and self.trainable
        kernel, offset = self._folded()
        if not self._constants:
            kernel = quantize_weights(self.weights_quant, kernel, adapt)
        outputs = self._convolve(inputs, kernel)
        outputs = self._activate(tf.nn.bias_add(outputs, offset))
        return quantize_activations(self.act_quant, outputs, adapt, momentum)
