"""The building blocks of the two networks: V1's depthwise-separable, V2's inverted residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mobilenets.architecture import (
    SUM_QUANT,
    ConvolutionRow,
    InvertedResidualRow,
    Row,
    SeparableRow,
)
from mobilenets.layers import ConvBatchNorm
from mobilenets.parts import Part, Split, checked, endpoint, input_channels
from mobilenets.quantization import (
    RANGE_MOMENTUM,
    FakeQuantization,
    QuantizedConvBatchNorm,
    quantize_activations,
    range_variables,
)

__all__ = ["DepthwiseSeparable", "InvertedResidual", "block"]


def block(row: Row, scope: str, quantized: bool | str, dtype: Any) -> keras.layers.Layer:
    """The layer for a row.

    Args:
      row: What to build.
      scope: Slim scope of the network.
      quantized: Whether the convolutions simulate 8-bit quantization; as in `Variant`.
      dtype: A dtype or policy.
    """
    common = {"name": row.name, "scope": f"{scope}/{row.name}", "dtype": dtype}
    match row:
        case ConvolutionRow():
            return _convolution(quantized, row.filters, row.kernel_size, row.strides, **common)
        case SeparableRow():
            return DepthwiseSeparable(row.filters, row.strides, quantized=quantized, **common)
        case InvertedResidualRow():
            return InvertedResidual(
                row.filters, row.strides, row.expansion, quantized=quantized, **common
            )
    raise TypeError(f"no layer for {row!r}")


def _convolution(quantized: bool | str, *args, **kwargs) -> ConvBatchNorm:
    if not quantized:
        return ConvBatchNorm(*args, **kwargs)
    return QuantizedConvBatchNorm(*args, per_channel=quantized == "int8", **kwargs)


class _Block(Part, keras.layers.Layer):
    """The convolutions of a row; adds the input to the output where the row has a residual."""

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        scope: str | None = None,
        quantized: bool | str = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides
        self.scope = scope
        self.quantized = quantized
        self.convolutions: list[ConvBatchNorm] = []
        self.sum_quant: FakeQuantization | None = None

    @property
    def _row(self) -> Row:
        raise NotImplementedError

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = input_channels(input_shape, self.name)
        planned = self._row.convolutions(channels)
        self._endpoints = [each.endpoint for each in planned]
        self._adds_input = self._row.adds_input(channels)
        self._channels = channels
        self.convolutions = [
            _convolution(
                self.quantized,
                each.filters,
                each.kernel_size,
                each.strides,
                each.activation,
                name=each.name,
                scope=self.scope and self.scope + each.scope.removeprefix(self.name),
                dtype=self.dtype_policy,
            )
            for each in planned
        ]
        if self.quantized and self._adds_input:
            self.sum_quant = FakeQuantization(name=SUM_QUANT, dtype="float32")
            with tf.name_scope(f"{self.scope or self.path}/"):
                self.sum_quant.build()
        if not self.trainable:
            for inner in (*self.convolutions, self.sum_quant):
                if inner is not None:
                    inner.trainable = False
        shape = tuple(input_shape)
        for convolution in self.convolutions:
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
        self.restore_settings()

    @property
    def slim_variables(self) -> dict[str, keras.Variable]:
        """The variables by name, in the order in which Slim creates them."""
        named: dict[str, keras.Variable] = {}
        for convolution in self.convolutions:
            named |= convolution.slim_variables
        if self.sum_quant:
            named |= range_variables(self.scope or self.path, [self.sum_quant])
        return named

    def make_constant(self) -> None:
        """From now on inference has the values of today as constants, already folded."""
        for convolution in self.convolutions:
            convolution.make_constant()
        if self.sum_quant:
            self.sum_quant.make_constant()

    def call(
        self,
        inputs: tf.Tensor,
        training: bool = False,
        momentum: float | tf.Tensor | None = None,
        return_endpoints: bool | Split = False,
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Runs the block.

        Args:
          inputs: `[batch, height, width, channels]`.
          training: Whether batch norms use the batch's statistics and update the moving ones;
            quantized convolutions update their ranges instead.
          momentum: In [0, 1]: the share of the moving statistics that is kept (of the activation
            ranges in quantized convolutions); None takes 0.99 (0.999).
          return_endpoints: Whether to return every named activation; or a function that splits
            one, see `parts.Split`.

        Returns:
          `[batch, ceil(height / strides), ceil(width / strides), filters]`, or with
          `return_endpoints` a dict of activations by name, in order; the last is the output.
        """
        arguments = {"training": training} | ({} if momentum is None else {"momentum": momentum})
        inputs = checked(inputs, self._channels, self.name)
        inputs = outputs = tf.cast(inputs, self.compute_dtype)
        endpoints = {}
        for name, convolution in zip(self._endpoints, self.convolutions, strict=True):
            outputs = convolution(outputs, **arguments)
            if self._adds_input and convolution is self.convolutions[-1]:
                outputs = self._rounded(inputs + outputs, training, momentum)
            if return_endpoints:
                endpoints[name], outputs = endpoint(outputs, return_endpoints)
        return endpoints if return_endpoints else outputs

    def _rounded(
        self, outputs: tf.Tensor, training: bool, momentum: float | tf.Tensor | None
    ) -> tf.Tensor:
        if self.sum_quant is None:
            return outputs
        adapt = training and self.trainable
        momentum = RANGE_MOMENTUM if momentum is None else momentum
        return quantize_activations(self.sum_quant, outputs, adapt, momentum)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        height, width = (size and -(-size // self.strides) for size in (height, width))
        return (batch, height, width, self.filters)

    def compute_output_spec(self, *args, **kwargs) -> keras.KerasTensor | dict:
        # Traced: the shape does not tell whether the result is an output or a dict of endpoints.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "scope": self.scope,
            "quantized": self.quantized,
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
      quantized: Whether the convolutions simulate 8-bit quantization; as in `Variant`.
    """

    @property
    def _row(self) -> Row:
        return SeparableRow(self.name, self.filters, self.strides)


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
      quantized: Whether convolutions and sum simulate 8-bit quantization; as in `Variant`.
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        expansion: int = 6,
        scope: str | None = None,
        quantized: bool | str = False,
        **kwargs,
    ) -> None:
        super().__init__(filters, strides, scope, quantized, **kwargs)
        self.expansion = expansion

    @property
    def _row(self) -> Row:
        return InvertedResidualRow(self.name, self.expansion, self.filters, self.strides)

    def get_config(self) -> dict:
        return {**super().get_config(), "expansion": self.expansion}
