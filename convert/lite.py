"""LiteRT models of quantops modules, and of classifiers built on them, in integers alone.

The integer graph is that of Google's published uint8 models: it starts at the normalized image,
in place of the module's `2x - 1` and rounding of the input, and pools with an average pooling.
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from convert.errors import ConvertError
from convert.files import write_model
from convert.lite_run import Comparison, compare
from convert.verify import sample_images
from mobilenets import MobileNet
from mobilenets.images import load_batch

__all__ = ["Export", "export", "integer_model"]

# Pixels p are (p - 128) / 128 to the integer network, as to Google's.
_MEAN, _STD = 128.0, 128.0

# The kinds of TensorFlow operations in an inference graph.
_IMAGE = "FakeQuantWithMinMaxArgs"
_ROUNDING = "FakeQuantWithMinMaxVars"
_WEIGHTED = ("MatMul", "Conv2D", "DepthwiseConv2dNative")
_SUMS = ("BiasAdd", "AddV2", "Add")
_RECTIFIERS = ("Relu", "Relu6")
_POOLING = "Mean"
_SHAPING = ("Identity", "StopGradient", "Reshape", "Squeeze", "ExpandDims")
# LiteRT knows the range of what these return.
_FIXED = ("Softmax", "Sigmoid", "Tanh")
_PREPROCESSING = ("Placeholder", "Identity", "Cast", "Mul", "Sub", "AddV2", "RealDiv")
_INDEXING = ("StridedSlice", "Transpose")

_Ranges = Mapping[tf.Operation, tuple[float, float]]


def integer_model(
    source: str | os.PathLike[str] | keras.Model | tf_keras.Model,
    *,
    images: np.ndarray | Sequence[str | os.PathLike[str]] | None = None,
    image_size: int | None = None,
) -> bytes:
    """A LiteRT model of nothing but integers: uint8 pixels in, uint8 out.

    Args:
      source: A quantized `MobileNet`, or a Keras 3 or tf_keras classifier that starts with one,
        natively or as a `hub.KerasLayer`; or where such a one is saved (a SavedModel's folder or a
        `.keras` file).
      images: `[number, image_size, image_size, 3]`, RGB in [0, 1], or the image files to make
        that of. A module has the ranges of all its values, but the layers that a classifier adds
        have none: they get those that these images show. Without images, one added layer gets
        bounds that no image exceeds, which are coarser.
      image_size: In pixels; None takes the model's.

    Returns:
      The file's contents. Input: `[1, image_size, image_size, 3]` uint8 pixels. Output: uint8,
      which `scale * (output - zero_point)` makes the model's.

    Raises:
      ConvertError: The source is no quantops model, has layers without an integer form, or needs
        images; or the images are not such.
    """
    infer, size = _inference(source, image_size)
    return _integer(_Network(infer, size), _images(images, size))


@dataclass(frozen=True)
class Export:
    """An integer model that was written, and how it compares with its source.

    Attributes:
      path: The file.
      bytes: Its size.
      image_size: Of the input, in pixels.
      scale: What one step of the output is worth.
      zero_point: The output that stands for 0.
      ranges: Where those of the layers after the module come from: `"module"` if there are no such
        layers, else `"images"` or `"bounds"`.
      images: Number of images compared.
      agreement: The share of them whose largest output is at the same place.
      difference: Of the outputs on average, in steps.
      labels: The file of class names, a name a line; None where the source names none.
      comparison: As for float modules; None if not asked for.
    """

    path: str
    bytes: int
    image_size: int
    scale: float
    zero_point: int
    ranges: str
    images: int
    agreement: float
    difference: float
    labels: str | None
    comparison: Comparison | None


def export(
    source: str | os.PathLike[str] | keras.Model | tf_keras.Model,
    output: str | os.PathLike[str],
    *,
    images: np.ndarray | Sequence[str | os.PathLike[str]] | None = None,
    image_size: int | None = None,
    compared: Sequence[str | os.PathLike[str]] | None = None,
) -> Export:
    """Writes `integer_model` to a file, and compares what LiteRT makes of it with the source.

    The names of a `MobileNet`'s classes go to `<output>.labels.txt`.

    Args:
      source: As for `integer_model`.
      output: The file; an older one is replaced.
      images: As for `integer_model`; they are also what is compared. None compares some patterns.
      image_size: As for `integer_model`.
      compared: Image files for `comparison`; None does without.

    Raises:
      ConvertError: As for `integer_model`, or the file cannot be written; nothing is left of it.
    """
    infer, size = _inference(source, image_size)
    given = _images(images, size)
    network = _Network(infer, size)
    model = _integer(network, given)
    checked = sample_images(size) if given is None else given
    pixels = np.round(checked * 255).astype(np.uint8)
    integers, scale, zero_point = _run(model, pixels)
    given_as = network.white * (pixels / np.float32(255))
    floats = np.concatenate([infer(tf.constant(image[np.newaxis])) for image in given_as])

    def classifier(image: np.ndarray) -> tf.Tensor:
        return infer(tf.constant(network.white * image))

    comparison = None
    if (photos := _images(compared, size)) is not None:
        whole = source if isinstance(source, MobileNet) else classifier
        comparison = compare(model, whole, photos)
    labels = write_model(output, model, getattr(source, "class_names", None))
    added = "bounds" if given is None else "images"
    return Export(
        path=os.fspath(output),
        bytes=len(model),
        image_size=size,
        scale=scale,
        zero_point=zero_point,
        ranges=added if network.unknown else "module",
        images=len(pixels),
        agreement=float(np.mean(integers.argmax(1) == floats.argmax(1))),
        difference=float(np.abs(integers - zero_point - floats / scale).mean()),
        labels=labels,
        comparison=comparison,
    )


def _images(
    images: np.ndarray | Sequence[str | os.PathLike[str]] | None, size: int
) -> np.ndarray | None:
    if images is None:
        return None
    if not isinstance(images, np.ndarray):
        try:
            images = np.asarray(load_batch(images, size))
        except ValueError as error:
            raise ConvertError(str(error)) from error
    if images.ndim != 4 or images.shape[1:] != (size, size, 3) or not len(images):
        raise ConvertError(f"images must be [number, {size}, {size}, 3], got {list(images.shape)}")
    return images


def _integer(network: _Network, images: np.ndarray | None) -> bytes:
    ranges: _Ranges = {}
    if network.unknown:
        ranges = network.bounds() if images is None else network.calibrated(images)
    model = _converted(*network.rebuilt(ranges))
    kinds = {detail["dtype"].__name__ for detail in _interpreter(model).get_tensor_details()}
    if kinds - {"uint8", "int32"}:
        raise ConvertError(
            f"the model did not become one of integers: it has {', '.join(sorted(kinds))}"
        )
    return model


def _interpreter(model: bytes) -> Interpreter:
    # Plain kernels: all of these give the same integers, and XNNPACK says hello.
    return Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )


def _run(model: bytes, pixels: np.ndarray) -> tuple[np.ndarray, float, int]:
    """What LiteRT makes of images: outputs, what a step of them is worth, which stands for 0."""
    interpreter = _interpreter(model)
    interpreter.allocate_tensors()
    (first,), (last,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for image in pixels:
        interpreter.set_tensor(first["index"], image[np.newaxis])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(last["index"])[0].astype(np.int64))
    return np.array(outputs), *last["quantization"]


def _inference(source: Any, image_size: int | None) -> tuple[Callable, int]:
    """The model as a function of a batch of images in inference, and the image size."""
    if isinstance(source, str | os.PathLike):
        source = _loaded(Path(source))
    shape: Any
    if isinstance(source, keras.Model | tf_keras.Model):
        model = source
        shape = getattr(model, "input_shape", None) or (None, None, None, 3)
        if isinstance(model, MobileNet):
            shape = (None, model.variant.image_size, model.variant.image_size, 3)

        def infer(images: tf.Tensor) -> tf.Tensor:
            return model(images, training=False)
    elif isinstance(source, tuple):
        signature, shape = source
        (argument,) = signature.structured_input_signature[1]

        def infer(images: tf.Tensor) -> tf.Tensor:
            (output,) = signature(**{argument: images}).values()
            return output

    else:
        raise ConvertError(f"expected a model or where one is saved, got {type(source).__name__}")
    sizes = {*list(shape)[1:3]} - {None}
    if len(shape) != 4 or len(sizes) > 1:
        raise ConvertError(f"expected a model of square images, found one of {list(shape)}")
    if not sizes and not image_size:
        raise ConvertError("the model does not say its image size: pass it (--image-size)")
    (size,) = sizes or {image_size}
    if not isinstance(source, MobileNet) and image_size not in (None, size):
        raise ConvertError(f"the model is of {size} pixels, not --image-size {image_size}")
    return infer, image_size or size


def _loaded(path: Path) -> Any:
    """A Keras model, or a SavedModel's signature and its input shape."""
    try:
        if path.suffix == ".keras" and path.is_file():
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
            if version.startswith("2."):
                return tf_keras.models.load_model(
                    path, custom_objects={"KerasLayer": hub.KerasLayer}, compile=False
                )
            return keras.models.load_model(path, compile=False)
        if not path.is_dir():
            raise ConvertError(f"{path}: expected a SavedModel's folder or a .keras file")
        loaded: Any = tf.saved_model.load(str(path))
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConvertError(f"{path} cannot be loaded: {reason}") from error
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise ConvertError(f"{path} has no signature serving_default")
    inputs = list(signature.structured_input_signature[1].values())
    if len(inputs) != 1 or len(signature.structured_outputs) != 1:
        raise ConvertError(
            f"{path}: expected one input and one output, found {len(inputs)} and "
            f"{len(signature.structured_outputs)}"
        )
    shape = inputs[0].shape
    if shape.rank == 4 and shape[1] is None and callable(loaded):
        # As TF Hub's own tools find a module's image size.
        (first, *_), _ = loaded.__call__.concrete_functions[0].structured_input_signature
        shape = first.shape
    # A signature alone does not keep its variables.
    signature.module = loaded
    return signature, shape


class _Network:
    """An inference graph with constants for variables, from the normalized image to the output.

    Attributes:
      white: What the model's brightest pixel is, 1 or 255.
      unknown: Operations whose outputs have no range.
    """

    def __init__(self, infer: Callable[[tf.Tensor], tf.Tensor], size: int) -> None:
        images = tf.TensorSpec([1, size, size, 3], tf.float32)
        function = convert_variables_to_constants_v2(
            tf.function(infer, autograph=False).get_concrete_function(images)
        )
        if len(function.outputs) != 1:
            raise ConvertError(f"expected one output, found {len(function.outputs)}")
        starts = [op for op in function.graph.get_operations() if op.type == _IMAGE]
        if not starts:
            raise ConvertError("the model is not quantized: only quantops modules are of integers")
        if len(starts) > 1:
            raise ConvertError(f"expected one quantops module in the model, found {len(starts)}")
        self.white = _white(function, starts[0])
        graph = function.graph.as_graph_def()
        for node in graph.node:
            # Inlined calls make constants wait for the image that is cut off here.
            node.input[:] = [name for name in node.input if not name.startswith("^")]
        self._graph = tf.Graph()
        with self._graph.as_default():
            self._images = tf.compat.v1.placeholder(tf.float32, images.shape)
            (self._output,) = tf.import_graph_def(
                graph,
                {starts[0].outputs[0].name: self._images},
                [function.outputs[0].name],
                name="",
            )
        self._operations = self._between()
        self._constants = self._evaluated()
        self.unknown = [op for op in self._operations if self._lacks_range(op)]

    def _between(self) -> list[tf.Operation]:
        """The operations that make the output of the image, in order; without the image's."""
        dependent = {self._images.op}
        for operation in self._graph.get_operations():
            if any(tensor.op in dependent for tensor in operation.inputs):
                dependent.add(operation)
        needed: set[tf.Operation] = set()
        pending = [self._output.op]
        while pending:
            operation = pending.pop()
            if operation in dependent and operation not in needed:
                needed.add(operation)
                pending += [tensor.op for tensor in operation.inputs]
        needed.discard(self._images.op)
        known = {
            *(_ROUNDING, _POOLING, *_WEIGHTED, *_SUMS, *_RECTIFIERS, *_SHAPING, *_FIXED),
        }
        for operation in needed:
            if operation.type not in known:
                raise ConvertError(
                    f"{operation.name}: no integer form of {operation.type}; a classifier may add "
                    "dense layers, convolutions, ReLU, pooling over the image, softmax, sigmoid"
                )
        return [operation for operation in self._graph.get_operations() if operation in needed]

    def _evaluated(self) -> dict[str, np.ndarray]:
        """The tensors that do not depend on the image, by name."""
        computed = {self._images.op, *self._operations}
        wanted = {
            tensor.name: tensor
            for operation in self._operations
            for tensor in operation.inputs
            if tensor.op not in computed
        }
        rounding = [self._rounding_of(tensor) for tensor in wanted.values()]
        wanted |= {t.name: t for found in rounding if found for t in list(found.inputs)[1:]}
        with tf.compat.v1.Session(graph=self._graph) as session:
            return session.run(wanted)

    @staticmethod
    def _rounding_of(weights: tf.Tensor) -> tf.Operation | None:
        """What rounds constant weights, seen through changes of their shape."""
        operation = weights.op
        while operation.type in (*_SHAPING, *_INDEXING):
            operation = operation.inputs[0].op
        return operation if operation.type == _ROUNDING else None

    def _consumers(self, operation: tf.Operation) -> list[tf.Operation]:
        wanted = set(self._operations)
        return [other for other in operation.outputs[0].consumers() if other in wanted]

    def _lacks_range(self, operation: tf.Operation) -> bool:
        if operation.type not in (*_WEIGHTED, *_SUMS, *_RECTIFIERS):
            return False
        consumers = self._consumers(operation)
        if len(consumers) != 1:
            return True
        # LiteRT makes one operation of a convolution, its bias and its ReLU.
        fused = {
            **dict.fromkeys(_WEIGHTED, (*_SUMS, *_RECTIFIERS, _ROUNDING)),
            **dict.fromkeys(_SUMS, (*_RECTIFIERS, _ROUNDING)),
            **dict.fromkeys(_RECTIFIERS, (_ROUNDING,)),
        }
        return consumers[0].type not in fused[operation.type]

    def calibrated(self, images: np.ndarray) -> _Ranges:
        """The ranges that the images show of what has none."""
        lows, highs = [], []
        with tf.compat.v1.Session(graph=self._graph) as session:
            for image in images:
                pixels = (np.round(image * 255) - _MEAN) / _STD
                found = session.run(
                    [operation.outputs[0] for operation in self.unknown],
                    {self._images: pixels[np.newaxis]},
                )
                lows.append([value.min() for value in found])
                highs.append([value.max() for value in found])
        return {
            operation: _range(low, high)
            for operation, low, high in zip(
                self.unknown, np.min(lows, 0), np.max(highs, 0), strict=True
            )
        }

    def bounds(self) -> _Ranges:
        """Ranges, for what one layer after the module returns, that contain all possible values.

        Bounds on what a second layer makes of the bounds of a first are too wide to be of use.
        """
        added = [
            operation
            for operation in self._operations
            if operation.type in _WEIGHTED and not self._rounding_of(operation.inputs[1])
        ]
        if len(added) > 1:
            raise ConvertError(
                f"{len(added)} layers after the module ({', '.join(op.name for op in added)}) "
                "have no ranges of values: pass images to find them with (--images DIR)"
            )
        return {
            operation: _range(*self._bounds(operation.outputs[0])) for operation in self.unknown
        }

    def _bounds(self, tensor: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest possible value, of all elements or of each channel."""
        operation = tensor.op
        if tensor.name in self._constants:
            return self._constants[tensor.name], self._constants[tensor.name]
        if operation.type == _ROUNDING:
            _, *bounds = operation.inputs
            low, high = (self._constants[bound.name] for bound in bounds)
            return low, high
        low, high = self._bounds(operation.inputs[0])
        if operation.type in _RECTIFIERS:
            most = 6.0 if operation.type == "Relu6" else np.inf
            return np.clip(low, 0, most), np.clip(high, 0, most)
        if operation.type in _SUMS:
            other_low, other_high = self._bounds(operation.inputs[1])
            return low + other_low, high + other_high
        if operation.type in _WEIGHTED:
            # The inputs are those of a rounding, from below 0 to above: padding with 0 is in them.
            kernel = self._kernel(operation)
            kernel = kernel.reshape(-1, kernel.shape[-1])
            products = kernel * low, kernel * high
            return np.minimum(*products).sum(0), np.maximum(*products).sum(0)
        return low, high

    def _kernel(self, operation: tf.Operation) -> np.ndarray:
        name = operation.inputs[1].name
        if name not in self._constants:
            raise ConvertError(f"{operation.name}: no integer form of a product of two activations")
        return self._constants[name]

    def rebuilt(self, ranges: _Ranges) -> tuple[tf.compat.v1.GraphDef, tf.Tensor, tf.Tensor]:
        """The graph as LiteRT's converter takes it, with roundings to the given ranges.

        Returns:
          The graph, its input and its output.
        """
        with tf.Graph().as_default() as graph:
            images = tf.compat.v1.placeholder(tf.float32, self._images.shape, "images")
            made: dict[str, Any] = {**self._constants, self._images.name: images}
            for operation in self._operations:
                result = self._remade(operation, [made.get(t.name) for t in operation.inputs])
                if operation in ranges:
                    result = tf.quantization.fake_quant_with_min_max_args(
                        result, *ranges[operation]
                    )
                made[operation.outputs[0].name] = result
            output = tf.reshape(made[self._output.name], self._output.shape, name="default")
            return graph.as_graph_def(), images, output

    def _remade(self, operation: tf.Operation, inputs: list[Any]) -> tf.Tensor:
        """The operation in the new graph, where vectors stay images of one pixel."""
        first, name = inputs[0], operation.name.replace("StatefulPartitionedCall/", "")
        if operation.type == _ROUNDING:
            return tf.quantization.fake_quant_with_min_max_vars(
                *inputs,
                num_bits=operation.get_attr("num_bits"),
                narrow_range=operation.get_attr("narrow_range"),
                name=name,
            )
        if operation.type in _SUMS:
            return tf.add(*inputs, name=name)
        if operation.type == _POOLING:
            if list(np.ravel(inputs[1])) != [1, 2]:
                raise ConvertError(f"{name}: no integer form of a mean other than over the image")
            return tf.nn.avg_pool2d(first, first.shape[1:3], 1, "VALID", name=name)
        if operation.type in _SHAPING:
            shape = operation.outputs[0].shape
            return first if _pixels(first.shape) == _pixels(shape) else tf.reshape(first, shape)
        if operation.type in _WEIGHTED:
            kernel = self._rounded_kernel(operation, name)
            if operation.type == "MatMul":
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
        return getattr(tf.nn, operation.type.lower())(first, name=name)

    def _rounded_kernel(self, operation: tf.Operation, name: str) -> tf.Tensor:
        kernel = self._kernel(operation)
        rounding = self._rounding_of(operation.inputs[1])
        if rounding:
            low, high = (float(self._constants[t.name]) for t in list(rounding.inputs)[1:])
        else:
            low, high = _range(kernel, kernel)
        if operation.type == "MatMul":
            kernel = (kernel.T if operation.get_attr("transpose_b") else kernel)[None, None]
        return tf.quantization.fake_quant_with_min_max_args(
            kernel, low, high, narrow_range=True, name=f"{name}/weights_quant"
        )


def _pixels(shape: tf.TensorShape) -> list[int]:
    return [size for size in shape if size != 1]


def _range(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """A range for 8 bits: it contains 0 and more."""
    least, most = min(float(np.min(low)), 0.0), max(float(np.max(high)), 0.0)
    return (least, most) if most > least else (-1.0, 1.0)


def _white(function: Any, start: tf.Operation) -> int:
    """The model's brightest pixel: it may scale its images to [-1, 1], and nothing else.

    The integer model starts behind that.
    """
    pending, seen = [start], {start}
    while pending:
        for tensor in pending.pop().inputs:
            operation = tensor.op
            if operation.type not in (*_PREPROCESSING, "Const"):
                raise ConvertError(
                    f"{operation.name}: {operation.type} before the quantops module; the integer "
                    "model starts at the module's own image, so leave preprocessing out"
                )
            if operation not in seen:
                seen.add(operation)
                pending.append(operation)
    (images,) = function.inputs
    with tf.compat.v1.Session(graph=function.graph) as session:
        black, *whites = (
            session.run(start.inputs[0], {images.name: np.full(images.shape, value)})
            for value in (0, 1, 255)
        )
    for value, white in zip((1, 255), whites, strict=True):
        if np.allclose(black, -1, atol=1e-3) and np.allclose(white, 1, atol=1e-3):
            return value
    raise ConvertError(
        "the model scales its images otherwise than from [0, 1] or [0, 255] to the module's [0, 1]"
    )


def _converted(graph: tf.compat.v1.GraphDef, images: tf.Tensor, output: tf.Tensor) -> bytes:
    converter = tf.compat.v1.lite.TFLiteConverter(graph, [images], [output])
    converter.inference_type = tf.uint8
    converter.quantized_input_stats = {images.op.name: (_MEAN, _STD)}
    with _quiet():
        return converter.convert()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TensorFlow's advice to use its newer converter, which cannot do this."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
