"""LiteRT models of float modules and of classifiers built on them, at four precisions.

TF Lite's post-training quantization; `dynamic` and `int8` models of modules get corrected biases.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

# tf.lite does not export it.
from tensorflow.lite.python.convert_phase import ConverterError

from mobilenets import MobileNet
from mobilenets.names import reason
from mobilenets.spare_channels import repeat_channels

from ..choices import FLOAT_PRECISIONS, INTERFACES
from ..errors import ConvertError
from ..quiet import held_back
from .bias_correction import correct, expected_inputs
from .equalization import equalize
from .litert import LiteRTExport, checked_images, write
from .litert_graph import LiteGraph
from .litert_run import compare
from .litert_source import LiteRTSource, copied, opened

__all__ = ["Export", "export", "float_model"]

# More would not make the ranges better, and would not fit into memory.
_MOST_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Export(LiteRTExport):
    """A LiteRT model of a float module or classifier that was written.

    Attributes:
      precision: One of `FLOAT_PRECISIONS`.
      interface: The type of input and output, one of `INTERFACES`.
      calibrated: Number of calibration images.
    """

    precision: str
    interface: str
    calibrated: int


def export(
    source: LiteRTSource,
    output: str | os.PathLike[str],
    precision: str = "float32",
    *,
    images: Sequence[str | os.PathLike[str]] | None = None,
    image_size: int | None = None,
    interface: str = "float32",
    compared: Sequence[str | os.PathLike[str]] | None = None,
) -> Export:
    """Writes `float_model` to a file, and the names of its classes to `<output>.labels.txt`.

    Args:
      source: As for `float_model`.
      output: The file; an older one is replaced.
      precision: As for `float_model`.
      images: Calibration images for `"int8"`; at most 256 are used, evenly spaced.
      image_size: As for `float_model`.
      interface: As for `float_model`.
      compared: Image files to compare model and source on; None skips the comparison.

    Raises:
      ConvertError: As for `float_model`; or images or the source cannot be read, or the file
        cannot be written; nothing is left of it.
    """
    inference = opened(source, image_size)
    size = inference.image_size
    calibration = _loaded(images, size) if images and precision == "int8" else None
    photos = _loaded(compared, size) if compared else None
    content = float_model(inference, precision, images=calibration, interface=interface)
    comparison = None
    if photos is not None:
        # A model with 8-bit input takes raw pixels, whatever the scale of the float input.
        brightest = inference.white

        def classifier(image: np.ndarray) -> tf.Tensor:
            return inference.call(tf.constant(brightest * image))

        compared_with = inference.module or classifier
        comparison = compare(content, compared_with, photos, white=brightest)
    labels = write(output, content, inference.class_names)
    return Export(
        path=os.fspath(output),
        bytes=len(content),
        image_size=size,
        labels=labels,
        comparison=comparison,
        precision=precision,
        interface=interface,
        calibrated=0 if calibration is None else len(calibration),
    )


def _loaded(files: Sequence[str | os.PathLike[str]], size: int) -> np.ndarray:
    """The images; at most `_MOST_IMAGES` of them, evenly spaced."""
    chosen = np.linspace(0, len(files) - 1, min(len(files), _MOST_IMAGES)).round().astype(int)
    return checked_images([files[i] for i in chosen], size)


def float_model(
    source: LiteRTSource,
    precision: str = "float32",
    *,
    images: np.ndarray | None = None,
    image_size: int | None = None,
    interface: str = "float32",
) -> bytes:
    """A LiteRT model that maps an image to the source's outputs: features, logits or others.

    Args:
      source: A float `MobileNet`, or a classifier built on one.
      precision: `"float16"` halves the weights. `"dynamic"` stores the weights of the full
        convolutions in 8 bits and rounds their inputs at run time. `"int8"` computes in 8 bits
        throughout.
      images: Calibration images `[number, size, size, 3]`, RGB in [0, 1]; only `"int8"` needs them.
      image_size: Height and width of the input, in pixels; None takes the source's.
      interface: `"uint8"` or `"int8"` for an `"int8"` model that takes pixels and gives integers;
        the input's scale is then 1/255, so that uint8 input is raw pixels.

    Returns:
      The file's contents. Input: `[1, size, size, 3]`, RGB float32 in [0, 1] (of a classifier:
      what the classifier takes), resizable to other batches.

    Raises:
      ConvertError: The source is quantized, `"int8"` has no images, the interface has integers at
        another precision, or the image size is below 32.
    """
    inference = opened(source, image_size)
    size, module = inference.image_size, inference.module
    if inference.scheme:
        name = "the classifier" if module is None else module.variant
        raise ConvertError(f"{name} is not a float module")
    _check(precision, interface)
    ranges = None
    if precision == "int8":
        if images is None or not len(images):
            raise ConvertError(
                "int8 needs images to calibrate the ranges of its activations: "
                "pass about a hundred like those that the model will see",
                "images",
            )
        ranges = _full_range(checked_images(images, size)) * np.float32(inference.white)
        if module is not None:
            changed = copied(module)
            equalize(changed, ranges)
            repeat_channels(changed.convolutions)
            inference = opened(changed, size)
    function = inference.batched
    content = _converted(function, precision, ranges, interface)
    if module is None or precision in ("float32", "float16"):
        return content
    return _corrected(module, content, _converted(function, "float32"), precision, ranges)


def _check(precision: str, interface: str) -> None:
    for value, choices, argument in (
        (precision, FLOAT_PRECISIONS, "precision"),
        (interface, INTERFACES, "interface"),
    ):
        if value not in choices:
            raise ConvertError(f"{argument} must be one of {', '.join(choices)}; got {value!r}")
    if interface != "float32" and precision != "int8":
        raise ConvertError(
            f"{interface} input and output need precision int8, not {precision}", "interface"
        )


def _corrected(
    module: MobileNet, content: bytes, exact: bytes, precision: str, images: np.ndarray | None
) -> bytes:
    """A module's model with corrected biases; `exact` is the same in float32."""
    graph, reference = LiteGraph(content), LiteGraph(exact)
    if precision == "dynamic":
        for ours, theirs in zip(graph.convolutions, reference.convolutions, strict=True):
            if ours.depthwise:
                # With nine weights per channel 8 bits save little, and XNNPACK does not run them.
                ours.set_kernel(theirs.kernel)
    correct(graph, reference, expected_inputs(module), images)
    return graph.packed()


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
        try:
            return converter.convert()
        except ConverterError as error:
            refused = error
    lacking = sorted({each.operator.name.removeprefix("tf.") for each in refused.errors})
    if not any(lacking):
        raise ConvertError(f"LiteRT cannot represent the model: {reason(refused)}") from refused
    raise ConvertError(
        f"LiteRT lacks operations of the model: {', '.join(filter(None, lacking))}; compute them "
        "outside of the model"
    ) from refused


def _full_range(images: np.ndarray) -> np.ndarray:
    """The images with one black and one white pixel: the input's scale becomes 1/255."""
    images = images.astype(np.float32)
    images[0, 0, :2] = [[0.0], [1.0]]
    return images
