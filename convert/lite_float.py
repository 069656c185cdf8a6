"""LiteRT models of float modules: TF Lite's post-training quantization, with corrected biases.

Rounding a kernel shifts the mean of what it computes, layer upon layer, and that is most of what
8 bits cost a MobileNet. Biases that take the shift back cost nothing. How large it is follows from
the batch norms' own statistics where there are no images (Nagel et al., Data-Free Quantization
Through Weight Equalization and Bias Correction, https://arxiv.org/abs/1906.04721, section 4.2),
and is measured where there are.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from convert.errors import ConvertError
from convert.files import load_module, write_model
from convert.lite_run import Comparison, LiteModel, compare
from convert.quiet import held_back
from convert.verify import TOLERANCE, sample_images
from mobilenets import MobileNet, architecture
from mobilenets.architecture import InvertedResidualRow
from mobilenets.images import load_batch

__all__ = ["INTERFACES", "PRECISIONS", "Export", "export", "float_model"]

PRECISIONS = ("float32", "float16", "dynamic", "int8")
"""What the weights, and with `int8` the activations too, are stored as."""
INTERFACES = ("float32", "uint8", "int8")
"""What an `int8` model takes and gives."""


# More would not make the ranges better, and would not fit into memory.
_MOST_IMAGES = 256


@dataclass(frozen=True)
class Export:
    """A LiteRT model of a float module that was written.

    Attributes:
      path: The file.
      bytes: Its size.
      precision: Of `PRECISIONS`.
      image_size: Of the input, in pixels.
      interface: What goes in and comes out, of `INTERFACES`.
      calibrated: Number of images that the ranges of the activations are from.
      labels: The file of class names, a name a line; None where the module has none.
      comparison: With the module; None if not asked for.
    """

    path: str
    bytes: int
    precision: str
    image_size: int
    interface: str
    calibrated: int
    labels: str | None
    comparison: Comparison | None


def export(
    module: str | os.PathLike[str] | MobileNet,
    file: str | os.PathLike[str],
    precision: str = "float32",
    *,
    images: Sequence[str | os.PathLike[str]] | None = None,
    image_size: int | None = None,
    interface: str = "float32",
    compared: Sequence[str | os.PathLike[str]] | None = None,
) -> Export:
    """Writes `float_model` to a file, and the names of its classes to `<file>.labels.txt`.

    Args:
      module: A module's folder, or a model.
      file: Where to; an existing file is replaced.
      precision: As for `float_model`.
      images: Image files for `"int8"`; of more than 256, so many are taken at equal distances.
      image_size: As for `float_model`.
      interface: As for `float_model`.
      compared: Image files to run both on; None does without.

    Raises:
      ConvertError: As for `float_model`; or images or the module cannot be read, the file cannot
        be written, or it does not compute what the module does.
    """
    model = load_module(module)
    size = image_size or model.variant.image_size
    calibration = _loaded(images, size) if images and precision == "int8" else None
    content = float_model(
        model, precision, images=calibration, image_size=image_size, interface=interface
    )

    def run(image: np.ndarray) -> np.ndarray:
        return model(image, training=False).numpy()

    classes = model.num_classes is not None
    if precision == "float32":
        found = compare(content, run, sample_images(size), classes)
        if not found.cosine > 1 - TOLERANCE:
            raise ConvertError(
                f"{file} does not compute what {model.variant} does: cosine {found.cosine:.6f}"
            )
    comparison = None
    if compared:
        comparison = compare(content, run, _loaded(compared, size), classes)
    labels = write_model(file, content, model.class_names)
    return Export(
        path=os.fspath(file),
        bytes=len(content),
        precision=precision,
        image_size=size,
        interface=interface,
        calibrated=0 if calibration is None else len(calibration),
        labels=labels,
        comparison=comparison,
    )


def _loaded(files: Sequence[str | os.PathLike[str]], size: int) -> np.ndarray:
    """The images, or of many so many at equal distances."""
    chosen = np.linspace(0, len(files) - 1, min(len(files), _MOST_IMAGES)).round().astype(int)
    try:
        return load_batch([files[i] for i in chosen], size).numpy()
    except ValueError as error:
        raise ConvertError(str(error)) from error


def float_model(
    model: MobileNet,
    precision: str = "float32",
    *,
    images: np.ndarray | None = None,
    image_size: int | None = None,
    interface: str = "float32",
) -> bytes:
    """A LiteRT model that maps one image to what the module gives: features or logits.

    Args:
      model: A float MobileNet.
      precision: `"float16"` halves the weights. `"dynamic"` stores the weights of the full
        convolutions in 8 bits and rounds their inputs as it goes. `"int8"` computes in 8 bits
        throughout.
      images: `[number, size, size, 3]`, RGB in [0, 1]: what `"int8"` takes the ranges of its
        activations from. The others need none.
      image_size: Height and width of the input, in pixels; None takes the variant's.
      interface: `"uint8"` or `"int8"` for an `"int8"` model that takes pixels and gives integers;
        the input's scale is then 1/255, so that uint8 pixels are taken as they are.

    Returns:
      The file's contents. Input: `[1, size, size, 3]`, RGB float32 in [0, 1].

    Raises:
      ConvertError: The model is quantized, `"int8"` without images, integers in or out of another
        precision, or an image size below 32.
    """
    variant = model.variant
    size = image_size or variant.image_size
    if variant.quantized:
        raise ConvertError(f"{variant} is not a float module")
    if precision not in PRECISIONS:
        raise ConvertError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if interface not in INTERFACES:
        raise ConvertError(f"interface must be one of {', '.join(INTERFACES)}; got {interface!r}")
    if interface != "float32" and precision != "int8":
        raise ConvertError(f"{interface} in and out is for --precision int8, not for {precision}")
    if size < 32:
        raise ConvertError(f"the image size must be 32 pixels or more; got {size}")
    if precision == "int8":
        if images is None or not len(images):
            raise ConvertError(
                "int8 takes the ranges of its activations from images and refuses to guess them: "
                "pass some (--images DIR), a hundred or so like those the model will see"
            )
        if images.shape[1:] != (size, size, 3):
            raise ConvertError(
                f"images must be [number, {size}, {size}, 3], got {list(images.shape)}"
            )
    function = _frozen(model, size)
    exact = _converted(function, "float32")
    if precision == "float32":
        return exact
    if images is not None:
        images = _full_range(images)
    reference = _Graph(exact)
    graph = _Graph(_converted(function, precision, images, interface))
    expected = _expected_inputs(model)
    shifts = [
        _mean_shift(theirs.kernel, ours.kernel, mean, ours.depthwise)
        for theirs, ours, mean in zip(
            reference.convolutions, graph.convolutions, expected, strict=True
        )
    ]
    if precision == "int8":
        assert images is not None
        _correct_measured(graph, reference, images, shifts)
    else:
        for theirs, ours, shift in zip(
            reference.convolutions, graph.convolutions, shifts, strict=True
        ):
            if precision == "dynamic" and ours.depthwise:
                # Nine weights a channel: in 8 bits they save little, and XNNPACK leaves them out.
                ours.set_kernel(theirs.kernel)
            else:
                ours.shift_bias(shift)
    return graph.packed()


def _frozen(model: MobileNet, size: int) -> Any:
    """The network in inference as a function of one image, with constants for variables."""
    # Of unknown size: at known ones the layers make matrix products of small convolutions, and
    # LiteRT's delegates want convolutions.
    function = tf.function(lambda images: model(images, training=False))
    frozen = convert_variables_to_constants_v2(
        function.get_concrete_function(tf.TensorSpec([1, None, None, 3], tf.float32))
    )
    (source,), (output,) = frozen.inputs, frozen.outputs
    graph = frozen.graph.as_graph_def()

    def fixed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        (result,) = tf.graph_util.import_graph_def(graph, {source.name: images}, [output.name])
        return {"default": result}

    images = tf.TensorSpec([1, size, size, 3], tf.float32, name="images")
    return tf.compat.v1.wrap_function(fixed, [images])


def _converted(
    function: Any,
    precision: str,
    images: np.ndarray | None = None,
    interface: str = "float32",
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        assert images is not None
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.dtypes.as_dtype(interface)
        converter.inference_output_type = tf.dtypes.as_dtype(interface)
    with held_back(), warnings.catch_warnings(action="ignore", category=UserWarning):
        return converter.convert()


def _full_range(images: np.ndarray) -> np.ndarray:
    """The images with one black and one white pixel, so that the input's scale becomes 1/255."""
    images = images.astype(np.float32)
    images[0, 0, :2] = [[0.0], [1.0]]
    return images


def _expected_inputs(model: MobileNet) -> list[np.ndarray]:
    """What each convolution's input channels are in the mean, by the batch norms' statistics.

    After batch norm a channel has mean beta and standard deviation gamma over the training images,
    and is taken for normally distributed. Images count as 0 in the mean.
    """
    means = [np.zeros(3)]
    for block, row in zip(model.blocks, architecture.rows(model.variant), strict=True):
        start = means[-1]
        for convolution in getattr(block, "convolutions", (block,)):
            norm = convolution.batch_norm
            mean = norm.beta.numpy().astype(np.float64)
            if convolution.activation:
                mean = _relu6_mean(mean, np.abs(norm.gamma.numpy().astype(np.float64)))
            means.append(mean)
        if isinstance(row, InvertedResidualRow) and row.strides == 1:
            means[-1] = means[-1] + (start if len(start) == len(means[-1]) else 0.0)
    return means if model.logits is not None else means[:-1]


def _relu6_mean(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The mean of a normal distribution that is clipped to [0, 6]."""
    deviation = np.maximum(deviation, 1e-6)
    low, high = -mean / deviation, (6 - mean) / deviation
    below, below_high = _normal(low), _normal(high)
    inside = mean * (below_high - below) + deviation * (_density(low) - _density(high))
    return inside + 6 * (1 - below_high)


def _normal(value: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in value])


def _density(value: np.ndarray) -> np.ndarray:
    return np.exp(-(value**2) / 2) / math.sqrt(2 * math.pi)


def _mean_shift(
    exact: np.ndarray, stored: np.ndarray, inputs: np.ndarray, depthwise: bool
) -> np.ndarray:
    """By how much the stored kernel's outputs are too low in the mean, by channel."""
    lost = exact.astype(np.float64) - stored
    if depthwise:
        return lost.sum((0, 1, 2)) * inputs
    return lost.reshape(lost.shape[0], -1, lost.shape[-1]).sum(1) @ inputs


_NUMPY = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT8: np.dtype(np.int8),
}
_OPERATOR = schema.BuiltinOperator
_WEIGHTED = (_OPERATOR.CONV_2D, _OPERATOR.DEPTHWISE_CONV_2D, _OPERATOR.FULLY_CONNECTED)


class _Graph:
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
            _Convolution(self, operator)
            for operator in self.graph.operators
            if self.kind(operator) in _WEIGHTED
        ]

    def kind(self, operator: Any) -> int:
        return flatbuffer_utils.get_builtin_code_from_operator_code(
            self.model.operatorCodes[operator.opcodeIndex]
        )

    def maker(self, tensor: int) -> Any:
        return next((op for op in self.graph.operators if tensor in op.outputs), None)

    def users(self, tensor: int) -> list[Any]:
        return [op for op in self.graph.operators if tensor in op.inputs]

    def constant(self, tensor: Any) -> np.ndarray:
        """The values of a constant tensor, as floats."""
        data = self.model.buffers[tensor.buffer].data
        kept = np.frombuffer(bytes(data), _NUMPY[tensor.type]).reshape(tensor.shape)
        values = kept.astype(np.float64)
        scale = _scale(tensor)
        return values if scale is None else values * scale

    def add_constant(self, like: Any, values: np.ndarray) -> int:
        """A new constant tensor: integers of the same scale as another's, or float32."""
        tensor = copy.copy(like)
        if like.type == schema.TensorType.INT32:
            kept = np.round(values / _scale(like)).astype(np.int32)
        else:
            kept = values.astype(np.float32)
            tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(kept.tobytes(), np.uint8)
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def until(self, tensors: Sequence[int]) -> bytes:
        """The model with these tensors for outputs, and without what comes after them."""
        last = max(i for i, op in enumerate(self.graph.operators) if set(tensors) & set(op.outputs))
        model, graph = copy.copy(self.model), copy.copy(self.graph)
        graph.operators = graph.operators[: last + 1]
        graph.outputs = np.array(tensors, np.int32)
        model.subgraphs, model.signatureDefs = [graph], []
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    def packed(self) -> bytes:
        """The model's file, without constants that nothing uses any more."""
        model, graph = self.model, self.graph
        wanted = {*graph.outputs, *(t for op in graph.operators for t in op.inputs)}
        graph.operators = [op for op in graph.operators if wanted & {*op.outputs}]
        used = {t for op in graph.operators for t in (*op.inputs, *op.outputs) if t >= 0}
        places = _places({*graph.inputs, *graph.outputs, *used})
        graph.tensors = [graph.tensors[old] for old in places]
        for holder in (graph, *graph.operators):
            holder.inputs = [places.get(old, old) for old in holder.inputs]
            holder.outputs = [places[old] for old in holder.outputs]
        for signature in model.signatureDefs or []:
            for tensor in (*signature.inputs, *signature.outputs):
                tensor.tensorIndex = places[tensor.tensorIndex]
        holders = [*graph.tensors, *(model.metadata or [])]
        # The first buffer is that of all tensors without values.
        places = _places({0, *(holder.buffer for holder in holders)})
        model.buffers = [model.buffers[old] for old in places]
        for holder in holders:
            holder.buffer = places[holder.buffer]
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _places(kept: Iterable[int]) -> dict[int, int]:
    """New position by old one."""
    return {int(old): new for new, old in enumerate(sorted(kept))}


def _scale(tensor: Any) -> np.ndarray | None:
    """The scales of a quantized tensor, to multiply its values with."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    shape = [1] * len(tensor.shape)
    shape[quantization.quantizedDimension] = -1
    return np.asarray(quantization.scale, np.float64).reshape(shape)


@dataclass
class _Convolution:
    """A convolution, or the logits, of a graph."""

    owner: _Graph
    operator: Any

    @property
    def depthwise(self) -> bool:
        return self.owner.kind(self.operator) == _OPERATOR.DEPTHWISE_CONV_2D

    @property
    def dense(self) -> bool:
        return self.owner.kind(self.operator) == _OPERATOR.FULLY_CONNECTED

    @property
    def kernel(self) -> np.ndarray:
        """`[out, height, width, in]`, `[1, height, width, channels]` or `[out, in]`."""
        return self.owner.constant(self._constant(_KERNEL))

    def set_kernel(self, values: np.ndarray) -> None:
        """Stores other weights, in float32."""
        self.operator.inputs[_KERNEL] = self.owner.add_constant(self._constant(_KERNEL), values)

    def shift_bias(self, shift: np.ndarray) -> None:
        """Adds to the bias; it stays in integers, or becomes float32."""
        tensor = self._constant(_BIAS)
        values = self.owner.constant(tensor) + shift
        self.operator.inputs[_BIAS] = self.owner.add_constant(tensor, values)

    def _constant(self, index: int) -> Any:
        """The constant tensor behind an input, perhaps behind its widening from float16."""
        position = self.operator.inputs[index]
        maker = self.owner.maker(position)
        return self.owner.graph.tensors[position if maker is None else maker.inputs[0]]

    @property
    def output(self) -> int:
        """The tensor with the outputs, where a shortcut is added after it."""
        (output,) = self.operator.outputs
        users = self.owner.users(output)
        if len(users) == 1 and self.owner.kind(users[0]) == _OPERATOR.ADD:
            (output,) = users[0].outputs
        return output


_KERNEL, _BIAS = 1, 2


def _correct_measured(
    graph: _Graph, reference: _Graph, images: np.ndarray, shifts: Sequence[np.ndarray]
) -> None:
    """Gives each convolution in turn the mean outputs that the reference has on the images.

    Features have too few values in an image for that: the logits shift as is to be expected.
    """
    convolutions = [ours for ours in graph.convolutions if not ours.dense]
    outputs = [theirs.output for theirs in reference.convolutions if not theirs.dense]
    wanted = _means(reference.until(outputs), images)
    for ours, mean in zip(convolutions, wanted, strict=True):
        (found,) = _means(graph.until([ours.output]), images)
        ours.shift_bias(mean - found)
    for ours, shift in zip(graph.convolutions, shifts, strict=True):
        if ours.dense:
            ours.shift_bias(shift)


def _means(content: bytes, images: np.ndarray) -> list[np.ndarray]:
    """The mean of each output of a model over images and pixels, by channel."""
    model = LiteModel(content)
    total: list[Any] = [0.0] * len(model.run(images[0]))
    for image in images:
        for i, values in enumerate(model.run(image)):
            total[i] += values.mean(tuple(range(values.ndim - 1)), dtype=np.float64)
    return [each / len(images) for each in total]
