"""LiteRT models of quantized modules, and of classifiers built on them, in integers only.

The uint8 graph is that of Google's published uint8 models: it starts at the normalized image,
in place of the module's `2x - 1` and rounding of the input, and pools with an average pooling. The
int8 graph takes and gives what the int8 models of float modules do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from ..choices import INTERFACES
from ..errors import ConvertError
from ..verify import sample_images
from .litert import Images, LiteRTExport, checked_images, write
from .litert_run import compare
from .litert_source import Inference, LiteRTSource, opened
from .quantops_graph import FrozenGraph
from .quantops_ranges import Ranges, bounds, calibrated, lacking
from .quantops_rebuild import converted

__all__ = ["Export", "export", "integer_model"]


def integer_model(
    source: LiteRTSource,
    *,
    images: Images | None = None,
    image_size: int | None = None,
    interface: str | None = None,
) -> bytes:
    """A LiteRT model that computes in the integers that a quantized module simulates.

    Args:
      source: A quantized `MobileNet`, or a classifier built on one.
      images: `[number, image_size, image_size, 3]`, RGB in [0, 1], or image files to load as such.
        A module has ranges for all its values; the layers that a classifier adds have none, and get
        the ranges that occur on these images. Without images, a single added layer gets bounds
        that no image exceeds, which are coarser.
      image_size: In pixels; None takes the model's.
      interface: Type of input and output. None takes `"uint8"` for a uint8 module, which has no
        other, and `"float32"` for an int8 module. Its `"uint8"` and `"int8"` take pixels and give
        integers; the input's scale is 1/255.

    Returns:
      The file's contents. Input: `[1, image_size, image_size, 3]`, uint8 pixels of a uint8 model,
      else by `interface` as for `float_model`; resizable to other batches. Output:
      `scale * (output - zero_point)` is the model's output, unless it is float.

    Raises:
      ConvertError: The source is not a quantized model, has layers without an integer form, or
        needs images; the images have another shape; or the model has no such interface.
    """
    inference = opened(source, image_size)
    given = None if images is None else checked_images(images, inference.image_size)
    return _integer(FrozenGraph(inference), given, _interface(inference, interface))


@dataclass(frozen=True, kw_only=True)
class Export(LiteRTExport):
    """An integer model that was written, and how it compares with its source.

    Attributes:
      precision: `"uint8"` or `"int8"`.
      interface: The type of input and output, one of `INTERFACES`.
      scale: The size of one step of the output, before it becomes float in a float interface.
      zero_point: The integer that stands for 0 in the output.
      ranges: Where the ranges of the layers after the module come from: `"module"` if there are no
        such layers, else `"images"` or `"bounds"`.
      images: Number of images compared.
      agreement: The share of images whose largest output has the same position; None for patterns,
        which say nothing about it.
      difference: Mean difference of the outputs, in steps.
    """

    precision: str
    interface: str
    scale: float
    zero_point: int
    ranges: str
    images: int
    agreement: float | None
    difference: float


def export(
    source: LiteRTSource,
    output: str | os.PathLike[str],
    *,
    images: Images | None = None,
    image_size: int | None = None,
    interface: str | None = None,
    compared: Sequence[str | os.PathLike[str]] | None = None,
) -> Export:
    """Writes `integer_model` to a file, and compares LiteRT's outputs with the source's.

    The names of a `MobileNet`'s classes go to `<output>.labels.txt`.

    Args:
      source: As for `integer_model`.
      output: The file; an older one is replaced.
      images: As for `integer_model`; also the images to compare on. Without images, patterns are
        compared.
      image_size: As for `integer_model`.
      interface: As for `integer_model`.
      compared: Image files for `comparison`; None skips it.

    Raises:
      ConvertError: As for `integer_model`, or the file cannot be written; nothing is left of it.
    """
    inference = opened(source, image_size)
    interface = _interface(inference, interface)
    size = inference.image_size
    given = None if images is None else checked_images(images, size)
    photos = None if compared is None else checked_images(compared, size)
    network = FrozenGraph(inference)
    model = _integer(network, given, interface)
    checked = sample_images(size) if given is None else given
    pixels = np.round(checked * 255).astype(np.uint8)
    integers, scale, zero_point = _run(model, pixels, network.white)
    floats = _floats(inference, network.white * (pixels / np.float32(255)))
    comparison = None
    if photos is not None:

        def classifier(image: np.ndarray) -> tf.Tensor:
            return inference.call(tf.constant(network.white * image))

        comparison = compare(model, inference.module or classifier, photos, network.white)
    labels = write(output, model, inference.class_names)
    agreement = None
    if given is not None:
        agreement = float(np.mean(integers.argmax(1) == floats.argmax(1)))
    return Export(
        path=os.fspath(output),
        bytes=len(model),
        image_size=size,
        labels=labels,
        comparison=comparison,
        precision="int8" if network.int8 else "uint8",
        interface=interface,
        scale=scale,
        zero_point=zero_point,
        ranges=("bounds" if given is None else "images") if lacking(network) else "module",
        images=len(pixels),
        agreement=agreement,
        difference=float(np.abs(integers - zero_point - floats / scale).mean()),
    )


def _interface(inference: Inference, interface: str | None) -> str:
    """The type of input and output: the given one if the model can have it, or the default."""
    choices = INTERFACES if inference.scheme == "int8" else ("uint8",)
    if interface not in (None, *choices):
        raise ConvertError(
            f"interface must be one of {', '.join(choices)}; got {interface!r}", "interface"
        )
    return interface or choices[0]


def _integer(network: FrozenGraph, images: np.ndarray | None, interface: str) -> bytes:
    ranges: Ranges = {}
    if lacking(network):
        ranges = bounds(network) if images is None else calibrated(network, images)
    model = converted(network, ranges, interface)
    interpreter = _interpreter(model)
    ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
    inner = {each["index"]: each["dtype"].__name__ for each in interpreter.get_tensor_details()}
    kinds = {kind for index, kind in inner.items() if index not in [end["index"] for end in ends]}
    if kinds - {"int8" if network.int8 else "uint8", "int32"}:
        raise ConvertError(f"the model has tensors other than integers: {', '.join(sorted(kinds))}")
    return model


def _interpreter(model: bytes) -> Interpreter:
    # Plain kernels: all of these give the same integers, and XNNPACK prints a message.
    return Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )


def _run(model: bytes, pixels: np.ndarray, white: int) -> tuple[np.ndarray, float, int]:
    """LiteRT's outputs for uint8 pixels as integers, the size of a step, and what stands for 0."""
    interpreter = _interpreter(model)
    interpreter.allocate_tensors()
    (first,), (last,) = interpreter.get_input_details(), interpreter.get_output_details()
    kinds = {each["index"]: each["quantization"] for each in interpreter.get_tensor_details()}
    rounded = last["index"]
    if last["dtype"] == np.float32:
        (rounded,) = interpreter._get_ops_details()[-1]["inputs"]
    scale, zero_point = kinds[rounded]
    outputs = []
    for image in pixels:
        interpreter.set_tensor(first["index"], _stored(image, first["dtype"], white)[np.newaxis])
        interpreter.invoke()
        output = interpreter.get_tensor(last["index"])[0]
        if last["dtype"] == np.float32:
            output = np.round(output / scale) + zero_point
        outputs.append(output.astype(np.int64))
    return np.array(outputs), scale, zero_point


def _stored(pixels: np.ndarray, dtype: type, white: int) -> np.ndarray:
    """An image's pixels as a model's input takes them."""
    if dtype == np.float32:
        return (white * (pixels / np.float32(255))).astype(np.float32)
    return (pixels.astype(np.int64) + np.iinfo(dtype).min).astype(dtype)


def _floats(inference: Inference, images: np.ndarray) -> np.ndarray:
    """The source's outputs, computed one image at a time."""
    return np.concatenate([inference.call(tf.constant(image[np.newaxis])) for image in images])
