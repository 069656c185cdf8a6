"""The layer of logits, as in Slim's networks, and its form with simulated 8-bit quantization."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilenets.layers import MOMENTUM, WEIGHTS_STDDEV
from mobilenets.parts import Part, default_regularizer
from mobilenets.quantization import (
    INITIAL,
    RANGE_MOMENTUM,
    quantize_activations,
    quantize_weights,
    quantizers,
    range_variables,
)

__all__ = ["Logits", "QuantizedLogits"]

# Of the lowest logit; the whole range comes first, and is kept if none is better.
_SHARES = np.linspace(1, 0, 21, dtype=np.float32)


# The names in .keras files that exist.
@keras.saving.register_keras_serializable("mobilenets", name="_Logits")
class Logits(Part, keras.layers.Layer):
    """Slim's `Logits/Conv2d_1c_1x1` on pooled features: `[batch, features]` to logits."""

    def __init__(self, num_classes: int, scope: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.scope = scope
        self._constants: tuple[np.ndarray, np.ndarray] | None = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        with tf.name_scope(f"{self.scope}/"):
            self.kernel = self.add_weight(
                name="weights",
                shape=(1, 1, input_shape[-1], self.num_classes),
                initializer=keras.initializers.TruncatedNormal(stddev=WEIGHTS_STDDEV),
                regularizer=default_regularizer("weights"),
                aggregation="none",
            )
            self.biases = self.add_weight(
                name="biases", shape=(self.num_classes,), initializer="zeros", aggregation="none"
            )

    @property
    def slim_variables(self) -> dict[str, keras.Variable]:
        return {f"{self.scope}/weights": self.kernel, f"{self.scope}/biases": self.biases}

    def call(
        self, inputs: tf.Tensor, training: bool = False, momentum: float | tf.Tensor = MOMENTUM
    ) -> tf.Tensor:
        return self._logits(inputs, self.kernel.value)

    def make_constant(self) -> None:
        """From now on inference has the values of today as constants."""
        self._constants = self.kernel.numpy(), self.biases.numpy()

    def _logits(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        values = self._constants or (kernel, self.biases.value)
        kernel, biases = (tf.cast(each, inputs.dtype) for each in values)
        return tf.nn.bias_add(tf.matmul(inputs, kernel[0, 0]), biases)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict:
        return {**super().get_config(), "num_classes": self.num_classes, "scope": self.scope}


@keras.saving.register_keras_serializable("mobilenets", name="_QuantizedLogits")
class QuantizedLogits(Logits):
    """`Logits` with simulated 8-bit weights and outputs; the biases stay as they are."""

    def __init__(self, *args, per_channel: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.per_channel = per_channel
        self.weights_quant, self.act_quant = quantizers(per_channel)

    def build(self, input_shape: Sequence[int | None]) -> None:
        super().build(input_shape)
        with tf.name_scope(f"{self.scope}/"):
            self.weights_quant.build((None, self.num_classes))
            self.act_quant.build()

    @property
    def slim_variables(self) -> dict[str, keras.Variable]:
        ranges = range_variables(self.scope, (self.weights_quant, self.act_quant))
        return super().slim_variables | ranges

    def fit_range(self, logits: tf.Tensor) -> None:
        """Takes the range of outputs whose rounding changes the probabilities least.

        It reaches the largest logit. Low logits make hardly any difference to a softmax: where they
        are clipped, the others have finer steps. It is at least the range of a new layer if all
        logits are below its end: those of a head that has yet to learn leave no room for training,
        which has no gradient outside of the range.

        Args:
          logits: `[images, classes]` as they are without rounding, float32.
        """
        rounding, exact = self.act_quant, tf.nn.log_softmax(logits)
        rounding.fit(logits)
        lowest = rounding.min.numpy()
        divergences = []
        for share in _SHARES:
            rounding.min.assign(share * lowest)
            found = tf.nn.log_softmax(rounding.rounded(logits))
            divergences.append(float(tf.reduce_sum(tf.exp(exact) * (exact - found))))
        rounding.min.assign(_SHARES[int(np.argmin(divergences))] * lowest)
        if rounding.max < INITIAL:
            rounding.min.assign(min(rounding.min.numpy(), -INITIAL))
            rounding.max.assign(INITIAL)

    def make_constant(self) -> None:
        kernel = quantize_weights(self.weights_quant, self.kernel.value, adapt=False)
        self._constants = kernel.numpy(), self.biases.numpy()
        self.act_quant.make_constant()

    def call(
        self,
        inputs: tf.Tensor,
        training: bool = False,
        momentum: float | tf.Tensor = RANGE_MOMENTUM,
    ) -> tf.Tensor:
        adapt = training and self.trainable
        kernel = self.kernel.value
        if not self._constants:
            kernel = quantize_weights(self.weights_quant, kernel, adapt)
        outputs = self._logits(inputs, kernel)
        return quantize_activations(self.act_quant, outputs, adapt, momentum)

    def get_config(self) -> dict:
        return {**super().get_config(), "per_channel": self.per_channel}
