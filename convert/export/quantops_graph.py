"""The inference graph of a quantized module or classifier, read from the normalized image on."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ..errors import ConvertError
from ..quiet import held_back
from .litert_source import BY_CHANNEL, IMAGE_ROUNDING, Inference, white

__all__ = [
    "FIXED",
    "POOLING",
    "RECTIFIERS",
    "ROUNDING",
    "SHAPING",
    "SUMS",
    "WEIGHTED",
    "FrozenGraph",
]

# The kinds of TensorFlow operations in an inference graph.
ROUNDING = "FakeQuantWithMinMaxVars"
WEIGHTED = ("MatMul", "Conv2D", "DepthwiseConv2dNative")
SUMS = ("BiasAdd", "AddV2", "Add")
RECTIFIERS = ("Relu", "Relu6")
POOLING = "Mean"
SHAPING = ("Identity", "StopGradient", "Reshape", "Squeeze", "ExpandDims")
# LiteRT knows the output ranges of these.
FIXED = ("Softmax", "Sigmoid", "Tanh")
_INDEXING = ("StridedSlice", "Transpose")
_KNOWN = {ROUNDING, POOLING, *WEIGHTED, *SUMS, *RECTIFIERS, *SHAPING, *FIXED}


class FrozenGraph:
    """An inference graph with constants for variables, from the normalized image to the output.

    Attributes:
      graph: The TensorFlow graph.
      images: Its input, `[1, size, size, 3]` in [-1, 1].
      output: Its output.
      operations: The operations between them, in order.
      constants: The tensors that do not depend on the image, by name.
      white: The value of the model's brightest pixel, 1 or 255.
      int8: Whether each output channel of the module's weights has a range of its own.
    """

    def __init__(self, source: Inference) -> None:
        function = source.frozen
        starts = [op for op in function.graph.get_operations() if op.type == IMAGE_ROUNDING]
        if not starts:
            raise ConvertError("the model is not quantized: only quantized modules have ranges")
        if len(starts) > 1:
            raise ConvertError(f"expected one quantops module in the model, found {len(starts)}")
        self.white = white(function, starts[0])
        self.int8 = source.scheme == "int8"
        definition = function.graph.as_graph_def()
        for node in definition.node:
            # In inlined calls constants have a control dependency on the image, which is cut off.
            node.input[:] = [name for name in node.input if not name.startswith("^")]
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.images = tf.compat.v1.placeholder(tf.float32, function.inputs[0].shape)
            (self.output,) = tf.import_graph_def(
                definition,
                {starts[0].outputs[0].name: self.images},
                [function.outputs[0].name],
                name="",
            )
        self.operations = self._between()
        self.constants = self._evaluated()

    def _between(self) -> list[tf.Operation]:
        """The operations from the image to the output, in order; without the image's own."""
        dependent = {self.images.op}
        for operation in self.graph.get_operations():
            if any(tensor.op in dependent for tensor in operation.inputs):
                dependent.add(operation)
        needed: set[tf.Operation] = set()
        pending = [self.output.op]
        while pending:
            operation = pending.pop()
            if operation in dependent and operation not in needed:
                needed.add(operation)
                pending += [tensor.op for tensor in operation.inputs]
        needed.discard(self.images.op)
        for operation in needed:
            if operation.type not in _KNOWN:
                raise ConvertError(
                    f"{operation.name}: no integer form of {operation.type}; a classifier may add "
                    "dense layers, convolutions, ReLU, pooling over the image, softmax, sigmoid"
                )
        return [operation for operation in self.graph.get_operations() if operation in needed]

    @held_back()
    def _evaluated(self) -> dict[str, np.ndarray]:
        computed = {self.images.op, *self.operations}
        wanted = {
            tensor.name: tensor
            for operation in self.operations
            for tensor in operation.inputs
            if tensor.op not in computed
        }
        rounding = [rounding_of(tensor) for tensor in wanted.values()]
        wanted |= {t.name: t for found in rounding if found for t in list(found.inputs)[1:]}
        with tf.compat.v1.Session(graph=self.graph) as session:
            return session.run(wanted)

    def consumers(self, operation: tf.Operation) -> list[tf.Operation]:
        """The operations that take the output of another."""
        wanted = set(self.operations)
        return [other for other in operation.outputs[0].consumers() if other in wanted]

    def kernel(self, operation: tf.Operation) -> np.ndarray:
        """The weights of one of `WEIGHTED`, as TensorFlow has them.

        Raises:
          ConvertError: They depend on the image.
        """
        name = operation.inputs[1].name
        if name not in self.constants:
            raise ConvertError(f"{operation.name}: no integer form of a product of two activations")
        return self.constants[name]

    def kernel_range(self, operation: tf.Operation) -> tuple[np.ndarray, np.ndarray] | None:
        """The range in which the module rounds the weights; None for an added layer's weights.

        In int8 both ends are `[channels]`.
        """
        rounding = rounding_of(operation.inputs[1])
        if rounding is None:
            return None
        low, high = (self.constants[t.name] for t in list(rounding.inputs)[1:])
        return low, high


def rounding_of(weights: tf.Tensor) -> tf.Operation | None:
    """The operation that rounds constant weights, before changes of their shape."""
    operation = weights.op
    while operation.type in (*SHAPING, *_INDEXING):
        operation = operation.inputs[0].op
    return operation if operation.type in (ROUNDING, BY_CHANNEL) else None
