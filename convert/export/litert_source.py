"""Opens the source of a LiteRT model: a model in inference as a function of images."""

from __future__ import annotations

import functools
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

from mobilenets import MobileNet

from .. import keras_settings
from ..errors import ConvertError, first_line
from ..files import load_module
from ..quiet import held_back
from .contract import Source
from .frozen import Frozen, freeze

__all__ = [
    "BY_CHANNEL",
    "IMAGE_ROUNDING",
    "Inference",
    "LiteRTSource",
    "check_size",
    "copied",
    "opened",
    "read",
    "saved",
    "white",
]

IMAGE_ROUNDING = "FakeQuantWithMinMaxArgs"
"""The first operation of a quantized module."""
BY_CHANNEL = "FakeQuantWithMinMaxVarsPerChannel"
"""The rounding of an int8 module's weights."""
_LEAST_SIZE = 32
_DAMAGED = (OSError, ValueError, TypeError, KeyError, tf.errors.OpError)
_PREPROCESSING = ("Placeholder", "Identity", "Cast", "Mul", "Sub", "AddV2", "RealDiv")
_WEIGHTED = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


@dataclass(frozen=True)
class Inference:
    """A model in inference.

    Attributes:
      call: The model as a function of images `[batch, size, size, 3]`.
      image_size: In pixels.
      module: The MobileNet; None for a classifier built on a MobileNet.
    """

    call: Callable[[tf.Tensor], tf.Tensor]
    image_size: int
    module: MobileNet | None = None

    @functools.cached_property
    def frozen(self) -> Any:
        """The function of one image, with constants instead of variables."""
        return self._constant.function(batch=1)

    @functools.cached_property
    def batched(self) -> Any:
        """The same function of any number of images, if the model allows it."""
        return self._constant.function(batch=None)

    @functools.cached_property
    def _constant(self) -> Frozen:
        return freeze(self.call, self.image_size)

    @property
    def scheme(self) -> str | None:
        """What the quantized module computes in that the model is or is built on; None without one.

        `"uint8"`, or `"int8"`, in which each output channel of the weights has a range of its own.
        """
        if self.module is not None:
            quantized = self.module.variant.quantized
            return "int8" if quantized == "int8" else "uint8" if quantized else None
        kinds = {operation.type for operation in self.frozen.graph.get_operations()}
        if IMAGE_ROUNDING not in kinds:
            return None
        return "int8" if BY_CHANNEL in kinds else "uint8"

    @functools.cached_property
    def white(self) -> int:
        """The value of the brightest pixel that a float model takes, 1 or 255.

        Raises:
          ConvertError: The model scales its images in another way.
        """
        if self.module is not None:
            return 1
        operations = self.frozen.graph.get_operations()
        first = next((op for op in operations if op.type in (*_WEIGHTED, IMAGE_ROUNDING)), None)
        if first is None:
            raise ConvertError("the model has no convolution")
        return white(self.frozen, first)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the module's classes, if known."""
        return None if self.module is None else self.module.class_names


LiteRTSource: TypeAlias = Source | keras.Model | tf_keras.Model | Inference
"""A `MobileNet`; a Keras 3 or tf_keras classifier that starts with a MobileNet, natively or as a
`hub.KerasLayer`; the path of either (a module's or SavedModel's folder, or a `.keras` file); or an
opened model."""


def opened(source: LiteRTSource, image_size: int | None = None) -> Inference:
    """Opens a model.

    Args:
      source: The model, or the path of a saved model.
      image_size: In pixels; None takes the model's.

    Raises:
      ConvertError: The source cannot be loaded or is not a model of square images; or the image
        size is unknown or not the model's.
    """
    if isinstance(source, Inference):
        return source
    check_size(image_size)
    model: Any = read(source, image_size) if isinstance(source, str | os.PathLike) else source
    if isinstance(model, MobileNet):
        size = model.variant.image_size if image_size is None else image_size
        return Inference(_inference(_of_convolutions(model)), size, model)
    return model if isinstance(model, Inference) else _classifier(model, image_size)


def check_size(image_size: int | None) -> None:
    """Refuses an image size that is too small for a MobileNet; None is none.

    Raises:
      ConvertError: The size is below 32 pixels.
    """
    if image_size is not None and image_size < _LEAST_SIZE:
        raise ConvertError(
            f"the image size must be {_LEAST_SIZE} pixels or more; got {image_size}", "image_size"
        )


def read(source: str | os.PathLike[str], image_size: int | None = None) -> MobileNet | Inference:
    """The native model of what `mobilenets.load` takes, or a saved classifier.

    Raises:
      ConvertError: As for `opened`.
    """
    path = Path(source)
    return saved(path, image_size) if _is_classifier(path) else load_module(source)


def saved(path: Path, image_size: int | None = None) -> MobileNet | Inference:
    """Opens a `.keras` file or the signature of a SavedModel.

    Raises:
      ConvertError: As for `opened`.
    """
    model = _loaded(path)
    return model if isinstance(model, MobileNet) else _classifier(model, image_size)


def _classifier(model: Any, image_size: int | None) -> Inference:
    """Of a Keras model, or of a function of images and its input shape."""
    if isinstance(model, tuple):
        call, shape = model
    elif isinstance(model, keras.Model | tf_keras.Model):
        call = _inference(model)
        shape = getattr(model, "input_shape", None) or (None, None, None, 3)
    else:
        raise ConvertError(f"expected a model or a path, got {type(model).__name__}")
    sizes = {*list(shape)[1:3]} - {None}
    if len(shape) != 4 or len(sizes) > 1:
        raise ConvertError(f"expected a model of square images, found input {list(shape)}")
    if not sizes and image_size is None:
        raise ConvertError("the model has no fixed image size: pass an image size", "image_size")
    (size,) = sizes or {image_size}
    if image_size not in (None, size):
        raise ConvertError(
            f"the model takes {size}-pixel images; an image size of {image_size} does not match",
            "image_size",
        )
    return Inference(call, size)


def _is_classifier(path: Path) -> bool:
    """Whether the path is a saved classifier rather than a module written by `mobilenets.save`."""
    if path.suffix == ".keras":
        return True
    return (path / "saved_model.pb").is_file() and not (
        (path / "assets.extra" / "mobilenet.json").is_file() or (path / "tfhub_module.pb").is_file()
    )


def copied(model: MobileNet) -> MobileNet:
    """A model of the same configuration and weights."""
    copy = MobileNet.from_config(model.get_config())
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        ours.assign(theirs)
    return copy


def _of_convolutions(model: MobileNet) -> MobileNet:
    """A copy without matrix products: LiteRT's delegates are made for convolutions."""
    copy = copied(model)
    for convolution in copy.convolutions:
        convolution.as_product = False
    return copy


def _inference(model: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda images: model(images, training=False)


def _loaded(path: Path) -> Any:
    """A Keras model, or a SavedModel's signature as a function of images, and its input shape."""
    try:
        if path.suffix == ".keras" and path.is_file():
            return _keras_file(path)
        if not path.is_dir():
            raise ConvertError(f"{path}: no such file")
        loaded: Any = tf.saved_model.load(str(path))
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise ConvertError(f"{path} cannot be loaded: {first_line(error)}") from error
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise ConvertError(f"{path} has no signature serving_default")
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1 or len(signature.structured_outputs) != 1:
        raise ConvertError(
            f"{path}: expected one input and one output, found {len(inputs)} and "
            f"{len(signature.structured_outputs)}"
        )
    ((argument, spec),) = inputs.items()
    shape = spec.shape
    if shape.rank == 4 and shape[1] is None and callable(loaded):
        # TF Hub's own tools find a module's image size in this way.
        (first, *_), _ = loaded.__call__.concrete_functions[0].structured_input_signature
        shape = first.shape
    # Keeps the variables alive, which the signature does not.
    signature.module = loaded

    def call(images: tf.Tensor) -> tf.Tensor:
        (output,) = signature(**{argument: images}).values()
        return output

    return call, shape


@keras_settings.standard()
def _keras_file(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        version = json.loads(archive.read("metadata.json"))["keras_version"]
    if version.startswith("2."):
        return tf_keras.models.load_model(
            path, custom_objects={"KerasLayer": hub.KerasLayer}, compile=False
        )
    return keras.models.load_model(path, compile=False)


@held_back()
def white(function: Any, start: tf.Operation) -> int:
    """The value of the model's brightest pixel; the only preprocessing is scaling to [-1, 1].

    Args:
      function: The frozen function of one image.
      start: The operation of the function that takes the scaled image.

    Raises:
      ConvertError: There is other preprocessing, or another scale.
    """
    pending, seen = [tensor.op for tensor in list(start.inputs)[:1]], {start}
    while pending:
        operation = pending.pop()
        if operation in seen:
            continue
        seen.add(operation)
        if operation.type not in (*_PREPROCESSING, "Const"):
            raise ConvertError(
                f"{operation.name}: {operation.type} before the module; only scaling of [0, 1] or "
                "[0, 255] is supported there: remove other preprocessing"
            )
        pending += [tensor.op for tensor in operation.inputs]
    (images,) = function.inputs
    with tf.compat.v1.Session(graph=function.graph) as session:
        black, *whites = (
            session.run(start.inputs[0], {images.name: np.full(images.shape, value)})
            for value in (0, 1, 255)
        )
    for value, brightest in zip((1, 255), whites, strict=True):
        if np.allclose(black, -1, atol=1e-3) and np.allclose(brightest, 1, atol=1e-3):
            return value
    raise ConvertError("unsupported input scaling: expected [0, 1], or [0, 255] rescaled by 1/255")
