"""A LiteRT model taken apart: its convolutions, and models of parts of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

__all__ = ["Convolution", "LiteGraph", "Part"]

_NUMPY: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT8: np.dtype(np.int8),
}
_FLOAT = schema.TensorType.FLOAT32
_OPERATOR = schema.BuiltinOperator
_KERNEL, _BIAS = 1, 2
_NONE = -1
_WEIGHTED = (_OPERATOR.CONV_2D, _OPERATOR.DEPTHWISE_CONV_2D, _OPERATOR.FULLY_CONNECTED)


class LiteGraph:
    """A LiteRT model, taken apart.

    Attributes:
      convolutions: Everything with a kernel, logits too, in order.
    """

    def __init__(self, content: bytes) -> None:
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        (self.graph,) = self.model.subgraphs
        for operator in self.graph.operators:
            operator.inputs = list(operator.inputs)
        self.convolutions = [
            Convolution(self, operator)
            for operator in self.graph.operators
            if self.kind(operator) in _WEIGHTED
        ]

    def kind(self, operator: Any) -> int:
        return flatbuffer_utils.get_builtin_code_from_operator_code(
            self.model.operatorCodes[operator.opcodeIndex]
        )

    def users(self, tensor: int) -> list[Any]:
        return [op for op in self.graph.operators if tensor in op.inputs]

    def constant(self, tensor: Any) -> np.ndarray:
        """The values of a constant tensor, as floats."""
        data = self.model.buffers[tensor.buffer].data
        kept = np.frombuffer(bytes(data), _NUMPY[tensor.type]).reshape(tensor.shape)
        values = kept.astype(np.float64)
        scale = _scale(tensor)
        return values if scale is None else values * scale

    def quantization(self, tensor: int) -> tuple[np.ndarray, np.ndarray]:
        """The scales and zero points of a tensor's integers."""
        found = self.graph.tensors[tensor].quantization
        return np.asarray(found.scale, np.float32), np.asarray(found.zeroPoint)

    def add_constant(self, like: Any, values: np.ndarray) -> int:
        """A new constant tensor: integers of the same scale as another's, or float32."""
        tensor = copy.copy(like)
        if like.type == _FLOAT:
            kept = values.astype(np.float32)
            tensor.quantization = None
        else:
            limits = np.iinfo(_NUMPY[like.type])
            kept = np.clip(np.round(values / _scale(like)), limits.min, limits.max)
            kept = kept.astype(_NUMPY[like.type])
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(kept.tobytes(), np.uint8)
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def until(self, tensors: Sequence[int]) -> bytes:
        """The model with these tensors as outputs, and without the operators after them."""
        last = max(i for i, op in enumerate(self.graph.operators) if set(tensors) & set(op.outputs))
        model, graph = copy.copy(self.model), copy.copy(self.graph)
        graph.operators = graph.operators[: last + 1]
        graph.outputs = np.array(tensors, np.int32)
        model.subgraphs, model.signatureDefs = [graph], []
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    def position(self, tensor: int) -> int:
        """The position of the operator that makes a tensor."""
        (found,) = (i for i, op in enumerate(self.graph.operators) if tensor in op.outputs)
        return found

    def between(self, start: int, stop: int) -> Part:
        """The operators from one position up to another, as a model of their own."""
        operators = self.graph.operators[start:stop]
        made = [tensor for op in operators for tensor in op.outputs]
        read = dict.fromkeys(tensor for op in operators for tensor in op.inputs)
        inputs = [
            each for each in read if each >= 0 and each not in made and not self._is_constant(each)
        ]
        needed = self.needed(stop)
        outputs = [each for each in made if each in needed]
        tensors = {each for each in (*read, *made) if each >= 0}
        used = {self.graph.tensors[each].buffer for each in tensors}
        model, graph = copy.copy(self.model), copy.copy(self.graph)
        graph.operators = operators
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        # Without what is other parts' alone: to write it for each part would take quadratic time.
        empty, nothing = schema.BufferT(), schema.TensorT()
        graph.tensors = [
            each if position in tensors else nothing
            for position, each in enumerate(self.graph.tensors)
        ]
        model.buffers = [
            each if position in used else empty for position, each in enumerate(self.model.buffers)
        ]
        model.subgraphs, model.signatureDefs, model.metadata = [graph], [], []
        content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
        return Part(content, tuple(inputs), tuple(outputs))

    def needed(self, position: int) -> set[int]:
        """The tensors that the operators from a position on read, and the model's outputs."""
        later = {tensor for op in self.graph.operators[position:] for tensor in op.inputs}
        return later | {*self.graph.outputs}

    def _is_constant(self, tensor: int) -> bool:
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def fix_batch(self) -> None:
        """Gives up the free batch size: each tensor keeps the shape that it has for one image."""
        for tensor in self.graph.tensors:
            tensor.shapeSignature = None

    def packed(self) -> bytes:
        """The model's file; only the names of unused constants stay."""
        used = {*self.graph.inputs, *self.graph.outputs}
        for operator in self.graph.operators:
            used |= {*operator.inputs, *operator.outputs}
        kept = {metadata.buffer for metadata in self.model.metadata or []}
        for position, tensor in enumerate(self.graph.tensors):
            if position in used:
                kept.add(tensor.buffer)
            else:
                # The first buffer is that of all tensors without values.
                tensor.buffer, tensor.quantization = 0, None
        for position, buffer in enumerate(self.model.buffers):
            if position not in kept:
                buffer.data = None
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _scale(tensor: Any) -> np.ndarray | None:
    """The scales of a quantized tensor, to multiply its values with."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    shape = [1] * len(tensor.shape)
    shape[quantization.quantizedDimension] = -1
    return np.asarray(quantization.scale, np.float64).reshape(shape)


def _at_steps(tensor: Any, steps: np.ndarray) -> Any:
    """A tensor like another, with other steps."""
    tensor = copy.copy(tensor)
    tensor.quantization = copy.copy(tensor.quantization)
    tensor.quantization.scale = steps.astype(np.float32)
    return tensor


@dataclass(frozen=True)
class Part:
    """Some of a graph's operators.

    Attributes:
      content: A model of them alone.
      inputs: The input tensors, in order.
      outputs: The output tensors: those that a later operator reads, and the graph's own outputs.
    """

    content: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass
class Convolution:
    """A convolution, or the logits, of a graph."""

    owner: LiteGraph
    operator: Any

    @property
    def depthwise(self) -> bool:
        return self.owner.kind(self.operator) == _OPERATOR.DEPTHWISE_CONV_2D

    @property
    def dense(self) -> bool:
        return self.owner.kind(self.operator) == _OPERATOR.FULLY_CONNECTED

    @property
    def input(self) -> int:
        """The tensor with the inputs."""
        return self.operator.inputs[0]

    @property
    def kernel(self) -> np.ndarray:
        """`[out, height, width, in]`, `[1, height, width, channels]` or `[out, in]`."""
        return self.owner.constant(self._constant(_KERNEL))

    def set_kernel(self, values: np.ndarray) -> None:
        """Stores other weights, in float32."""
        like = copy.copy(self._constant(_KERNEL))
        like.type = _FLOAT
        self.operator.inputs[_KERNEL] = self.owner.add_constant(like, values)

    def store_kernel(self, values: np.ndarray) -> None:
        """Stores other weights, in integers at the same steps."""
        self.operator.inputs[_KERNEL] = self.owner.add_constant(self._constant(_KERNEL), values)

    def change_steps(self, kernel: np.ndarray, steps: np.ndarray) -> None:
        """Stores weights at other steps, and the bias at the steps that follow.

        Args:
          kernel: As TensorFlow has it, `[height, width, in, out]`, `[height, width, channels, 1]`
            or `[in, out]`.
          steps: The distance of two stored weights, by output channel.
        """
        stored = self._constant(_KERNEL)
        values = kernel.reshape(-1, len(steps))
        if not self.depthwise:
            values = values.T
        like = _at_steps(stored, steps)
        inputs = self.operator.inputs
        inputs[_KERNEL] = self.owner.add_constant(like, values.reshape(stored.shape))
        if inputs[_BIAS] != _NONE:
            (step,), _ = self.owner.quantization(self.input)
            bias = self._constant(_BIAS)
            like, values = _at_steps(bias, step * steps), self.owner.constant(bias)
            inputs[_BIAS] = self.owner.add_constant(like, values)

    @property
    def steps(self) -> np.ndarray:
        """The distance of two stored weights, by output channel."""
        return np.asarray(self._constant(_KERNEL).quantization.scale, np.float64)

    @property
    def strides(self) -> int:
        """Step in both directions, in pixels."""
        return self.operator.builtinOptions.strideH

    def shift_bias(self, shift: np.ndarray) -> None:
        """Adds to the bias; it stays in integers, or becomes float32."""
        if self.operator.inputs[_BIAS] == _NONE:
            tensor, values = self._no_bias(), shift
        else:
            tensor = self._constant(_BIAS)
            values = self.owner.constant(tensor) + shift
        self.operator.inputs[_BIAS] = self.owner.add_constant(tensor, values)

    def _no_bias(self) -> Any:
        """A tensor like the missing bias; the converter leaves out a bias of zeros."""
        given, kernel = self.owner.graph.tensors[self.input], self._constant(_KERNEL)
        tensor = copy.copy(kernel)
        tensor.name = f"{_text(kernel.name)}/bias"
        outputs = kernel.shape[-1] if self.depthwise else kernel.shape[0]
        tensor.shape, tensor.shapeSignature = np.array([outputs], np.int32), None
        tensor.type = _FLOAT
        if given.type == schema.TensorType.INT8:
            tensor.type = schema.TensorType.INT32
            tensor.quantization = schema.QuantizationParametersT()
            scale = np.asarray(kernel.quantization.scale) * given.quantization.scale[0]
            tensor.quantization.scale = scale.astype(np.float32)
            tensor.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            tensor.quantization.quantizedDimension = 0
        return tensor

    def _constant(self, index: int) -> Any:
        return self.owner.graph.tensors[self.operator.inputs[index]]

    @property
    def output(self) -> int:
        """The tensor with the outputs, after the shortcut if one is added to them."""
        (output,) = self.operator.outputs
        users = self.owner.users(output)
        if len(users) == 1 and self.owner.kind(users[0]) == _OPERATOR.ADD:
            (output,) = users[0].outputs
        return output
