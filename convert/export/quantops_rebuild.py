"""Rebuilds a quantized network's graph for LiteRT's converter, and converts it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from mobilenets.quantization import IMAGE_RANGE

from ..errors import ConvertError
from ..quiet import held_back
from .litert_graph import LiteGraph
from .quantops_graph import POOLING, ROUNDING, SHAPING, SUMS, WEIGHTED, FrozenGraph
from .quantops_ranges import MEAN, STD, Ranges, containing_zero

__all__ = ["converted"]


def converted(network: FrozenGraph, ranges: Ranges, interface: str) -> bytes:
    """The LiteRT model of a network.

    Args:
      network: The network to convert.
      ranges: Ranges of the values for which the network has none.
      interface: Type of input and output: `"uint8"`, or any of `INTERFACES` for int8.
    """
    return (_int8 if network.int8 else _uint8)(network, ranges, interface)


def _uint8(network: FrozenGraph, ranges: Ranges, interface: str) -> bytes:
    with tf.Graph().as_default() as graph:
        shape = [None, *network.images.shape[1:]]
        images = tf.compat.v1.placeholder(tf.float32, shape, "images")
        output = _rebuilt(network, ranges, images)
    converter = tf.compat.v1.lite.TFLiteConverter(graph.as_graph_def(), [images], [output])
    converter.inference_type = tf.dtypes.as_dtype(interface)
    converter.quantized_input_stats = {images.op.name: (MEAN, STD)}
    with held_back(), _quiet():
        return converter.convert()


def _int8(network: FrozenGraph, ranges: Ranges, interface: str) -> bytes:
    def infer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        rounded = tf.quantization.fake_quant_with_min_max_args
        pixels = rounded(images, 0.0, float(network.white))
        scaled = rounded(pixels * (2 / network.white), 0.0, 2.0)
        normalized = rounded(scaled - 1, *IMAGE_RANGE)
        return {"default": _rebuilt(network, ranges, normalized)}

    shape = [None, *network.images.shape[1:]]
    function = tf.compat.v1.wrap_function(infer, [tf.TensorSpec(shape, tf.float32, "images")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.dtypes.as_dtype(interface)
    converter.inference_output_type = tf.dtypes.as_dtype(interface)
    with held_back(), warnings.catch_warnings(action="ignore", category=UserWarning):
        return _with_steps(network, converter.convert())


def _rebuilt(network: FrozenGraph, ranges: Ranges, images: tf.Tensor) -> tf.Tensor:
    """The output for normalized images, in the current graph."""
    made: dict[str, Any] = {**network.constants, network.images.name: images}
    for operation in network.operations:
        inputs = [made.get(tensor.name) for tensor in operation.inputs]
        result = _remade(network, operation, inputs)
        if operation in ranges:
            result = tf.quantization.fake_quant_with_min_max_args(result, *ranges[operation])
        made[operation.outputs[0].name] = result
    return tf.reshape(made[network.output.name], [-1, *network.output.shape[1:]], name="default")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides TensorFlow's advice to use its newer converter, which cannot do this."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _remade(network: FrozenGraph, operation: tf.Operation, inputs: list[Any]) -> tf.Tensor:
    """The operation in the new graph, where vectors stay images of one pixel."""
    first, name = inputs[0], operation.name.replace("StatefulPartitionedCall/", "")
    if operation.type == ROUNDING:
        return tf.quantization.fake_quant_with_min_max_vars(
            *inputs,
            num_bits=operation.get_attr("num_bits"),
            narrow_range=operation.get_attr("narrow_range"),
            name=name,
        )
    if operation.type in SUMS:
        return tf.add(*inputs, name=name)
    if operation.type == POOLING:
        if list(np.ravel(inputs[1])) != [1, 2]:
            raise ConvertError(f"{name}: only a mean over the image has an integer form")
        if network.int8:
            # XNNPACK has an average pooling for floats alone.
            return tf.reduce_mean(first, [1, 2], keepdims=True, name=name)
        return tf.nn.avg_pool2d(first, first.shape[1:3], 1, "VALID", name=name)
    if operation.type in SHAPING:
        shape = operation.outputs[0].shape[1:]
        if _pixels(first.shape[1:]) == _pixels(shape):
            return first
        return tf.reshape(first, [-1, *shape])
    if operation.type in WEIGHTED:
        return _weighted(network, operation, first, name)
    return getattr(tf.nn, operation.type.lower())(first, name=name)


def _pixels(shape: tf.TensorShape) -> list[int]:
    return [size for size in shape if size != 1]


def _weighted(
    network: FrozenGraph, operation: tf.Operation, first: tf.Tensor, name: str
) -> tf.Tensor:
    kernel = _rounded_kernel(network, operation, name)
    if operation.type == "MatMul":
        if first.shape.rank != 4:
            first = tf.reshape(first, [-1, 1, 1, first.shape[-1]])
        return tf.nn.conv2d(first, kernel, 1, "VALID", name=name)
    arguments = {
        "strides": operation.get_attr("strides"),
        "padding": operation.get_attr("padding").decode(),
        "name": name,
    }
    if operation.type == "Conv2D":
        return tf.nn.conv2d(first, kernel, **arguments)
    return tf.nn.depthwise_conv2d(first, kernel, **arguments)


def _rounded_kernel(network: FrozenGraph, operation: tf.Operation, name: str) -> tf.Tensor:
    kernel = network.kernel(operation)
    if operation.type == "MatMul":
        kernel = (kernel.T if operation.get_attr("transpose_b") else kernel)[None, None]
    if network.int8:
        # The converter has no ranges of channels for depthwise kernels: see `_with_steps`.
        return tf.constant(kernel)
    low, high = network.kernel_range(operation) or containing_zero(kernel, kernel)
    return tf.quantization.fake_quant_with_min_max_args(
        kernel, float(low), float(high), narrow_range=True, name=f"{name}/weights_quant"
    )


def _with_steps(network: FrozenGraph, content: bytes) -> bytes:
    """The int8 model with the module's own steps for its weights.

    The converter takes the channel's largest weight for the range, which may be smaller.
    """
    graph = LiteGraph(content)
    weighted = [each for each in network.operations if each.type in WEIGHTED]
    for operation, convolution in zip(weighted, graph.convolutions, strict=True):
        found = network.kernel_range(operation)
        if found is not None:
            convolution.change_steps(network.kernel(operation), found[1] / 127)
    return graph.packed()
