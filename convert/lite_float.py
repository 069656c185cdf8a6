"""LiteRT models of float modules: TF Lite's post-training quantization, with corrected biases.

Rounding a kernel shifts the mean of what it computes, layer upon layer, and that is most of what
8 bits cost a MobileNet. Biases that take the shift back cost nothing. How large it is follows from
the batch norms' own statistics where there are no images (Nagel et al., Data-Free Quantization
Through Weight Equalization and Bias Correction, https://arxiv.org/abs/1906.04721, section 4.2),
and is measured where there are.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from convert.errors import ConvertError
from convert.files import load_module, write_model
from convert.lite_graph import LiteGraph
from convert.lite_run import Comparison, LiteModel, compare
from convert.quiet import held_back
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
      ConvertError: As for `float_model`; or images or the module cannot be read, or the file
        cannot be written; nothing is left of it.
    """
    model = load_module(module)
    size = model.variant.image_size if image_size is None else image_size
    calibration = _loaded(images, size) if images and precision == "int8" else None
    photos = _loaded(compared, size) if compared else None
    content = float_model(
        model, precision, images=calibration, image_size=image_size, interface=interface
    )
    comparison = None if photos is None else compare(content, model, photos)
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
    size = variant.image_size if image_size is None else image_size
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
    if precision in ("float32", "float16"):
        return _converted(function, precision)
    ranges = _full_range(images) if precision == "int8" and images is not None else None
    reference = LiteGraph(_converted(function, "float32"))
    graph = LiteGraph(_converted(function, precision, ranges, interface))
    if precision == "dynamic":
        for ours, theirs in zip(graph.convolutions, reference.convolutions, strict=True):
            if ours.depthwise:
                # Nine weights a channel: in 8 bits they save little, and XNNPACK leaves them out.
                ours.set_kernel(theirs.kernel)
    _correct_biases(graph, reference, _expected_inputs(model), ranges)
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


def _correct_biases(
    graph: LiteGraph,
    reference: LiteGraph,
    expected: Sequence[np.ndarray],
    images: np.ndarray | None,
) -> None:
    """Gives each convolution in turn the mean outputs that it has in the reference.

    Args:
      graph: What to correct.
      reference: The same network in float32.
      expected: The mean of each convolution's inputs, by channel.
      images: To measure the means on; None takes those that are to be expected.
    """
    wanted: Iterator[np.ndarray] = iter(())
    if images is not None:
        outputs = [theirs.output for theirs in reference.convolutions if not theirs.dense]
        wanted = iter(_means(reference.until(outputs), images))
    for ours, theirs, mean in zip(
        graph.convolutions, reference.convolutions, expected, strict=True
    ):
        # Features have too few values in an image to measure the logits on.
        if images is None or ours.dense:
            shift = _mean_shift(theirs.kernel, ours.kernel, mean, ours.depthwise)
        else:
            (found,) = _means(graph.until([ours.output]), images)
            shift = next(wanted) - found
        ours.shift_bias(shift)


def _means(content: bytes, images: np.ndarray) -> list[np.ndarray]:
    """The mean of each output of a model over images and pixels, by channel."""
    model = LiteModel(content)
    total: list[Any] = [0.0] * len(model.run(images[0]))
    for image in images:
        for i, values in enumerate(model.run(image)):
            total[i] += values.mean(tuple(range(values.ndim - 1)), dtype=np.float64)
    return [each / len(images) for each in total]


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
