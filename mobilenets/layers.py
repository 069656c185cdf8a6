"""A convolution and its batch norm as one layer.

In inference a single operation computes both, in the graph and from the live variables, so that the
weights stay trainable. The choice of operation depends on the cost: see `ConvBatchNorm._infer`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilenets.parts import (
    Part,
    Split,
    checked,
    default_regularizer,
    endpoint,
    input_channels,
)

__all__ = ["BatchNorm", "ConvBatchNorm"]

WEIGHTS_STDDEV = 0.09
EPSILON = 1e-3
MOMENTUM = 0.99
# Up to this many multiply-adds per image a matrix product beats a 1x1 convolution in inference,
# whose kernel takes longer to start than to run (measured at batch 1; equal at batch 32).
_SMALL = 4_000_000
# Up to this many kernel weights folding costs nothing at batch 1 and saves up to 7 % at batch 32.
_FOLDED = 32_768


def move(averages: Iterable[tuple[keras.Variable, tf.Tensor]], momentum: float | tf.Tensor) -> None:
    """Moves averages by a step: not at all at momentum 1, exactly to the batch's values at 0.

    Args:
      averages: Each with the value of the batch.
      momentum: In [0, 1]: the share that is kept.
    """
    rest = 1 - momentum
    for average, batch in averages:
        average.assign(momentum * average.value + rest * batch)


@keras.saving.register_keras_serializable("mobilenets")
class BatchNorm(Part, keras.layers.Layer):
    """Batch norm's variables, under Slim's names, and the two ways to apply them.

    Unlike `keras.layers.BatchNormalization`, the moving variance follows the Bessel-corrected
    batch variance, as `tf.compat.v1.nn.fused_batch_norm` returns it and Slim records it.
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = (input_shape[-1],)
        self.gamma = self._vector("gamma", channels, "ones", trainable=True)
        self.beta = self._vector("beta", channels, "zeros", trainable=True)
        self.moving_mean = self._vector("moving_mean", channels, "zeros", trainable=False)
        self.moving_variance = self._vector("moving_variance", channels, "ones", trainable=False)
        self.restore_settings()

    def _vector(
        self, name: str, shape: tuple[int | None], initializer: str, trainable: bool
    ) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=trainable,
            autocast=False,
            aggregation="none" if trainable else "mean",
        )

    def call(self, inputs: tf.Tensor, momentum: float | tf.Tensor = MOMENTUM) -> tf.Tensor:
        """Normalizes with the batch's statistics and updates the moving ones.

        Args:
          inputs: `[batch, height, width, channels]`, float32 or a reduced precision.
          momentum: In [0, 1]: the share of the moving statistics that is kept.
        """
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.cast(inputs, self.compute_dtype),
            self.gamma.value,
            self.beta.value,
            epsilon=EPSILON,
            is_training=True,
        )
        move([(self.moving_mean, mean), (self.moving_variance, variance)], momentum)
        return outputs

    def normalize(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalizes `[batch, height, width, channels]` with the moving statistics."""
        outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            self.gamma.value,
            self.beta.value,
            self.moving_mean.value,
            self.moving_variance.value,
            epsilon=EPSILON,
            is_training=False,
        )
        return outputs

    def fold(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Batch norm with the moving statistics as `scale * convolution + offset`.

        Returns:
          `scale` and `offset`, each `[channels]` float32.
        """
        scale = self.gamma.value * tf.math.rsqrt(self.moving_variance.value + EPSILON)
        return scale, self.beta.value - scale * self.moving_mean.value


@keras.saving.register_keras_serializable("mobilenets")
class ConvBatchNorm(Part, keras.layers.Layer):
    """A convolution without bias, batch norm and optional ReLU6; `SAME` padding.

    Input `[batch, height, width, channels]`, output
    `[batch, ceil(height / strides), ceil(width / strides), filters]`, in the layer's compute
    dtype; all variables and the folding are float32.

    Args:
      filters: Output channels; None for a depthwise convolution, which keeps its input channels.
      kernel_size: Height and width of the kernel, in pixels.
      strides: Step in both directions, in pixels.
      activation: Whether ReLU6 follows.
      scope: Name scope of the TensorFlow variables, e.g. `"MobilenetV1/Conv2d_0"`; None takes
        the Keras path.

    Attributes:
      as_product: Whether inference computes a 1x1 convolution as a matrix product, which gives the
        same values. Set when the layer is built, by the cost at its image size.
    """

    def __init__(
        self,
        filters: int | None,
        kernel_size: int = 1,
        strides: int = 1,
        activation: bool = True,
        scope: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.activation = activation
        self.scope = scope
        self.as_product = False
        self._constants: tuple[np.ndarray, np.ndarray] | None = None
        self.batch_norm = BatchNorm(name="BatchNorm", dtype=self.dtype_policy)

    @property
    def depthwise(self) -> bool:
        """Whether each channel is filtered by itself."""
        return self.filters is None

    @property
    def slim_variables(self) -> dict[str, keras.Variable]:
        """The variables by name, in the order in which Slim creates them."""
        norm = self.batch_norm
        variables = [self.kernel, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance]
        scope = self.scope or self.path
        return {scope + variable.path.removeprefix(self.path): variable for variable in variables}

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = input_channels(input_shape, self.name)
        height, width = input_shape[1:3]
        name = "depthwise_weights" if self.depthwise else "weights"
        # A trailing slash makes the scope absolute, whatever encloses the layer.
        with tf.name_scope(f"{self.scope or self.path}/"):
            self.kernel = self.add_weight(
                name=name,
                shape=(self.kernel_size, self.kernel_size, channels, self.filters or 1),
                initializer=keras.initializers.TruncatedNormal(stddev=WEIGHTS_STDDEV),
                regularizer=default_regularizer(name),
                autocast=False,
                aggregation="none",
            )
            self.batch_norm.build((self.filters or channels,))
        if self._pointwise and height and width:
            self.as_product = height * width * math.prod(self.kernel.shape) <= _SMALL
        self.restore_settings()

    def call(
        self,
        inputs: tf.Tensor,
        training: bool = False,
        momentum: float | tf.Tensor = MOMENTUM,
        return_endpoints: bool | Split = False,
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Convolves, normalizes, activates.

        Args:
          inputs: `[batch, height, width, channels]`.
          training: Whether to normalize with the batch's statistics and update the moving ones.
            As in Keras, a layer with `trainable=False` or with a frozen `batch_norm` never does.
          momentum: In [0, 1]: the share of the moving statistics that is kept.
          return_endpoints: Whether to return a dict with the output under the layer's name; or
            a function that splits an activation, see `parts.Split`.
        """
        inputs = checked(inputs, self.kernel.shape[2], self.name)
        outputs = self._outputs(tf.cast(inputs, self.compute_dtype), training, momentum)
        if return_endpoints:
            return {self.name: endpoint(outputs, return_endpoints)[0]}
        return outputs

    def _outputs(self, inputs: tf.Tensor, training: bool, momentum: float | tf.Tensor) -> tf.Tensor:
        if not (training and self.trainable and self.batch_norm.trainable):
            return self._infer(inputs)
        if self._pointwise:
            # The gradients of matrix products are up to 1.2 times as fast as those of convolutions.
            outputs = _unflatten(self._multiply(inputs, self.kernel.value), inputs)
        else:
            outputs = self.convolve(inputs, self.kernel.value)
        return self._activate(self.batch_norm(outputs, momentum=momentum))

    def _activate(self, outputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu6(outputs) if self.activation else outputs

    def _infer(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves, normalizes with the moving statistics and activates.

        TensorFlow's graph optimizer fuses each form into one operation. Folding multiplies the
        kernel at each call; for a large kernel at batch 1 this costs more than it saves. In reduced
        precision folding loses least: normalizing would round before it subtracts the mean.
        """
        product = self._pointwise and self.as_product
        small = self.depthwise or math.prod(self.kernel.shape) <= _FOLDED
        if small or product or self._constants or inputs.dtype != tf.float32:
            kernel, offset = self.folded()
            outputs = (self._multiply if product else self.convolve)(inputs, kernel)
            outputs = tf.nn.bias_add(outputs, tf.cast(offset, outputs.dtype))
            outputs = self._activate(outputs)
            return _unflatten(outputs, inputs) if product else outputs
        outputs = self.convolve(inputs, self.kernel.value)
        return self._activate(self.batch_norm.normalize(outputs))

    @property
    def _pointwise(self) -> bool:
        return self.kernel_size == self.strides == 1 and not self.depthwise

    def make_constant(self) -> None:
        """From now on inference has the values of today as constants, already folded."""
        kernel, offset = self.folded()
        self._constants = kernel.numpy(), offset.numpy()

    def folded(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The kernel and the offset with the batch norm's moving statistics folded in.

        Returns:
          The kernel in its own shape and the offset `[channels]`, float32; of the values of
          `make_constant`, if it was called.
        """
        if self._constants:
            kernel, offset = self._constants
            return tf.constant(kernel), tf.constant(offset)
        scale, offset = self.batch_norm.fold()
        if self.depthwise:
            scale = tf.expand_dims(scale, 1)
        return self.kernel.value * scale, offset

    def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The convolution alone, with another kernel of the same shape.

        Args:
          inputs: `[batch, height, width, channels]`, in any floating dtype, which is computed in.
          kernel: Of the shape of `self.kernel`.
        """
        kernel = tf.cast(kernel, inputs.dtype)
        strides = [1, self.strides, self.strides, 1]
        if self.depthwise:
            return tf.nn.depthwise_conv2d(inputs, kernel, strides, "SAME")
        return tf.nn.conv2d(inputs, kernel, strides, "SAME")

    def _multiply(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The 1x1 convolution as a matrix product: `[batch * height * width, filters]`."""
        rows = tf.reshape(inputs, [-1, inputs.shape[-1]])
        return tf.matmul(rows, tf.cast(tf.squeeze(kernel, [0, 1]), rows.dtype))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, height, width, channels = input_shape
        return (
            batch,
            height and -(-height // self.strides),
            width and -(-width // self.strides),
            self.filters or channels,
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "activation": self.activation,
            "scope": self.scope,
        }


def _unflatten(rows: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Reshapes `[batch * height * width, channels]` to the batch, height and width of images."""
    sizes = images.shape[1:3].as_list()
    if None in sizes:
        given = tf.unstack(tf.shape(images))[1:3]
        sizes = [each if known is None else known for known, each in zip(sizes, given, strict=True)]
    return tf.reshape(rows, [-1, *sizes, rows.shape[-1]])
