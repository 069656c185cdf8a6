"""Freezes a model in inference to a graph of constants, without operations that have no effect.

A module's graph takes images of any size and any number, even none. At one size the operations for
this are constant or have no effect (shapes, paddings by 0, slices of everything), but LiteRT would
keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from ..errors import ConvertError
from ..quiet import held_back

__all__ = ["Frozen", "freeze"]

_HANDED_ON = ("EnsureShape", "Identity", "StopGradient", "PreventGradient")
_SLICES = ("StridedSlice", "Slice", "Pad", "PadV2")


@dataclass(frozen=True)
class Frozen:
    """A model in inference as a graph of constants.

    Attributes:
      definition: The graph.
      source: The name of the images' tensor in it.
      output: The name of the output's tensor.
      size: Height and width of the images, in pixels.
      resizable: Whether the model takes any number of images.
    """

    definition: tf.compat.v1.GraphDef
    source: str
    output: str
    size: int
    resizable: bool

    def function(self, batch: int | None) -> Any:
        """A concrete function with one input and one output.

        Args:
          batch: Number of images that the function takes; None leaves it open if the model does.
        """

        def infer(images: tf.Tensor) -> dict[str, tf.Tensor]:
            (result,) = tf.graph_util.import_graph_def(
                self.definition, {self.source: images}, [self.output], name=""
            )
            return {"default": result}

        count = batch if self.resizable else 1
        images = tf.TensorSpec([count, self.size, self.size, 3], tf.float32, name="images")
        return tf.compat.v1.wrap_function(infer, [images])


# TensorFlow 2.20 and earlier report in C++ what they do with graphs.
@held_back()
def freeze(call: Callable[[tf.Tensor], tf.Tensor], size: int) -> Frozen:
    """Traces a model and replaces its variables with constants.

    Args:
      call: The model as a function of images `[batch, size, size, 3]`.
      size: Height and width of the images, in pixels.

    Raises:
      ConvertError: The model has several outputs.
    """
    function, batches = _traced(call, size)
    if len(function.outputs) != 1:
        raise ConvertError(f"expected one output, found {len(function.outputs)}")
    (source,), (output,) = function.inputs, function.outputs
    definition = _simplified(function.graph, source, output, batches)
    return Frozen(definition, source.name, output.name, size, resizable=len(batches) > 1)


def _traced(call: Callable[[tf.Tensor], tf.Tensor], size: int) -> tuple[Any, Sequence[int]]:
    """The function, and the batch sizes to try it with."""
    function = tf.function(call, autograph=False)
    for count, batches in ((None, (1, 2)), (1, (1,))):
        images = tf.TensorSpec([count, size, size, 3], tf.float32)
        try:
            concrete = function.get_concrete_function(images)
        except (TypeError, ValueError):
            # A classifier may take one image only.
            if count == 1:
                raise
            continue
        return convert_variables_to_constants_v2(concrete), batches
    raise AssertionError("the second trace is returned or raises")


def _simplified(
    graph: tf.Graph, source: tf.Tensor, output: tf.Tensor, batches: Sequence[int]
) -> tf.compat.v1.GraphDef:
    """The graph without operations that are the same for every image or have no effect."""
    by_value, by_shape = _dependent(graph, source)
    used = {each.name: each for op in by_value for each in op.inputs if each.op in by_shape}
    known = _equal_at_all(graph, source, batches, list(used.values()))
    nothing = {op.outputs[0].name for op in by_value if op.type in _HANDED_ON}
    nothing |= _whole(graph, source, batches, [op for op in by_value if op.type in _SLICES])

    def origin(tensor: tf.Tensor) -> tf.Tensor:
        while tensor.name in nothing:
            tensor = tensor.op.inputs[0]
        return tensor

    definition = tf.compat.v1.GraphDef()
    definition.versions.CopyFrom(graph.as_graph_def().versions)
    written: set[str] = set()

    def write(tensor: tf.Tensor) -> str:
        """Writes the nodes that compute a tensor, and returns the tensor's name."""
        tensor = origin(tensor)
        if tensor.name in known:
            name = f"{tensor.op.name}/constant_{tensor.value_index}"
            if name not in written:
                value = tf.make_tensor_proto(known[tensor.name])
                node = definition.node.add(name=name, op="Const")
                node.attr["value"].tensor.CopyFrom(value)
                node.attr["dtype"].type = value.dtype
            written.add(name)
            return name
        operation = tensor.op
        if operation.name not in written:
            inputs = [write(each) for each in operation.inputs]
            node = definition.node.add()
            node.CopyFrom(operation.node_def)
            node.input[:] = inputs
            node.attr.pop("_output_shapes", None)
            written.add(operation.name)
        return tensor.name.removesuffix(":0")

    last = write(output)
    if last != output.name.removesuffix(":0"):
        node = definition.node.add(name=output.op.name, op="Identity", input=[last])
        node.attr["T"].type = output.dtype.as_datatype_enum
    return definition


def _dependent(graph: tf.Graph, source: tf.Tensor) -> tuple[list[tf.Operation], set[tf.Operation]]:
    """The operations that depend on the images' values, in order, and only on their shape."""
    by_value, by_shape = [source.op], set()
    for operation in graph.get_operations():
        takes = {tensor.op for tensor in operation.inputs}
        if takes & set(by_value):
            if operation.type in ("Shape", "ShapeN", "Size", "Rank"):
                by_shape.add(operation)
            else:
                by_value.append(operation)
        elif takes & by_shape:
            by_shape.add(operation)
    return by_value[1:], by_shape


def _run(
    graph: tf.Graph, source: tf.Tensor, batches: Sequence[int], tensors: Sequence[tf.Tensor]
) -> list[list[np.ndarray]]:
    """The tensors' values for each batch size, on black images."""
    shape = source.shape.as_list()[1:]
    with tf.compat.v1.Session(graph=graph) as session:
        return [
            session.run(list(tensors), {source.name: np.zeros((count, *shape), np.float32)})
            for count in batches
        ]


def _equal_at_all(
    graph: tf.Graph, source: tf.Tensor, batches: Sequence[int], tensors: Sequence[tf.Tensor]
) -> dict[str, np.ndarray]:
    """The values of the tensors whose value is the same for every batch size."""
    first, *others = _run(graph, source, batches, tensors)
    return {
        tensor.name: value
        for i, (tensor, value) in enumerate(zip(tensors, first, strict=True))
        if all(np.array_equal(value, other[i]) for other in others)
    }


def _whole(
    graph: tf.Graph,
    source: tf.Tensor,
    batches: Sequence[int],
    operations: Sequence[tf.Operation],
) -> set[str]:
    """The outputs of slices that drop nothing and of paddings that add nothing."""
    tensors = [each for op in operations for each in (op.inputs[0], op.outputs[0])]
    values = _run(graph, source, batches, tensors) if tensors else []
    return {
        operation.outputs[0].name
        for i, operation in enumerate(operations)
        if all(np.array_equal(each[2 * i], each[2 * i + 1]) for each in values)
    }
