"""The building blocks of the two networks: V1's depthwise-separable, V2's inverted residual."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import keras
import tensorflow as tf

from mobilenets.layers import MOMENTUM, ConvBatchNorm
from mobilenets.quantization import QuantizedConvBatchNorm

__all__ = ["DepthwiseSeparable", "InvertedResidual"]


class _Block(keras.layers.Layer):
    """Convolutions in a row. A subclass lists them and names their outputs."""

    def __init__(self, filters: int, strides: int = 1, scope: str | None = None, **kwargs) -> None:
        super().__init__(autocast=False, **kwargs)
        self.filters = filters
        self.strides = strides
        self.scope = scope
        self.convolutions: list[ConvBatchNorm] = []

    @abstractmethod
    def _plan(self, channels: int) -> list[ConvBatchNorm]:
        """The convolutions for so many input channels."""

    @abstractmethod
    def _endpoint(self, convolution: ConvBatchNorm) -> str:
        """What the output of a convolution is called among the endpoints."""

    def _join(self, inputs: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return outputs

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"{self.name}: the number of input channels must be known")
        self.convolutions = self._plan(channels)
        if not self.trainable:
            for convolution in self.convolutions:
                convolution.trainable = False
        shape = tuple(input_shape)
        for convolution in self.convolutions:
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)

    def call(
        self,
        inputs: tf.Tensor,
        training: bool = False,
        batch_norm_momentum: float | tf.Tensor = MOMENTUM,
        return_endpoints: bool = False,
        activation_range_momentum: float | tf.Tensor | None = None,
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Runs the block.

        Args:
          inputs: `[batch, height, width, channels]`.
          training: Whether batch norms use the batch's statistics and move the moving ones.
          batch_norm_momentum: In [0, 1]: the share of the moving statistics that stays.
          return_endpoints: Whether to return every named activation.
          activation_range_momentum: In [0, 1]: the share of the activations' ranges that stays,
            where convolutions are quantized; None takes 0.999.

        Returns:
          `[batch, ceil(height / strides), ceil(width / strides), filters]`, or with
          `return_endpoints` a dict of activations by name, in order; the last is the output.
        """
        arguments = {"training": training, "batch_norm_momentum": batch_norm_momentum}
        if activation_range_momentum is not None:
            arguments["activation_range_momentum"] = activation_range_momentum
        endpoints = {}
        inputs = outputs = tf.cast(inputs, self.compute_dtype)
        for convolution in self.convolutions:
            outputs = convolution(outputs, **arguments)
            if convolution is self.convolutions[-1]:
                outputs = self._join(inputs, outputs)
            endpoints[self._endpoint(convolution)] = outputs
        return endpoints if return_endpoints else outputs

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        height, width = (size and -(-size // self.strides) for size in (height, width))
        return (batch, height, width, self.filters)

    def compute_output_spec(self, *args, **kwargs) -> keras.KerasTensor | dict:
        # Traced: the shape alone does not tell one output from a dict of endpoints.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "scope": self.scope,
        }


@keras.saving.register_keras_serializable("mobilenets")
class DepthwiseSeparable(_Block):
    """MobileNet V1's block: 3x3 depthwise, then 1x1 pointwise convolution.

    Each is followed by batch norm and ReLU6 (paper V1, section 3.1 and figure 3; Slim's
    `mobilenet_v1.DepthSepConv`). Endpoints: `<name>_depthwise` and `<name>_pointwise`.

    Args:
      filters: Output channels.
      strides: Step of the depthwise convolution, in pixels.
      scope: Prefix of the variables' names (`MobilenetV1/Conv2d_1` gives
        `MobilenetV1/Conv2d_1_depthwise/depthwise_weights`); None takes the Keras path.
      quantized: Whether the convolutions simulate 8-bit quantization.
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        scope: str | None = None,
        quantized: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(filters, strides, scope, **kwargs)
        self.quantized = quantized

    def _plan(self, channels: int) -> list[ConvBatchNorm]:
        convolution = QuantizedConvBatchNorm if self.quantized else ConvBatchNorm
        scope = self.scope and f"{self.scope}_"
        return [
            convolution(
                None,
                3,
                self.strides,
                name="depthwise",
                scope=scope and f"{scope}depthwise",
                dtype=self.dtype_policy,
            ),
            convolution(
                self.filters,
                name="pointwise",
                scope=scope and f"{scope}pointwise",
                dtype=self.dtype_policy,
            ),
        ]

    def _endpoint(self, convolution: ConvBatchNorm) -> str:
        return f"{self.name}_{convolution.name}"

    def get_config(self) -> dict:
        return {**super().get_config(), "quantized": self.quantized}


@keras.saving.register_keras_serializable("mobilenets")
class InvertedResidual(_Block):
    """MobileNet V2's block: 1x1 expansion, 3x3 depthwise, linear 1x1 projection.

    Expansion and depthwise are followed by batch norm and ReLU6, the projection by batch norm
    alone; where strides are 1 and input and output are equally wide, the input is added (paper
    V2, section 3.3 and figure 4d; Slim's `conv_blocks.expanded_conv`). Endpoints:
    `expansion_output` (unless the expansion is 1), `depthwise_output`, `output`.

    Args:
      filters: Output channels.
      strides: Step of the depthwise convolution, in pixels.
      expansion: Factor from input channels to expanded ones; 1 builds no expansion.
      scope: Scope of the variables' names, e.g. `MobilenetV2/expanded_conv_1`; None takes the
        Keras path.
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        expansion: int = 6,
        scope: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(filters, strides, scope, **kwargs)
        self.expansion = expansion

    def _plan(self, channels: int) -> list[ConvBatchNorm]:
        def convolution(name: str, filters: int | None, **kwargs) -> ConvBatchNorm:
            scope = self.scope and f"{self.scope}/{name}"
            return ConvBatchNorm(filters, name=name, scope=scope, dtype=self.dtype_policy, **kwargs)

        expanded = channels * self.expansion
        return [
            *([convolution("expand", expanded)] if self.expansion != 1 else []),
            convolution("depthwise", None, kernel_size=3, strides=self.strides),
            convolution("project", self.filters, activation=False),
        ]

    def _endpoint(self, convolution: ConvBatchNorm) -> str:
        return {"expand": "expansion_output", "depthwise": "depthwise_output", "project": "output"}[
            convolution.name
        ]

    def _join(self, inputs: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        fits = self.strides == 1 and inputs.shape[-1] == self.filters
        return inputs + outputs if fits else outputs

    def get_config(self) -> dict:
        return {**super().get_config(), "expansion": self.expansion}
