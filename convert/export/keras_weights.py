"""Exports a module to a weights file that `keras.applications` loads."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from mobilenets import MobileNet

from ..errors import ConvertError
from ..files import load_module, values_by_name, written_beside
from ..keras_settings import standard
from ..references import applications
from ..references.applications import APPLICATION
from ..verify import TOLERANCE, sample_images
from . import contract
from .contract import Source

__all__ = ["Export", "export"]

_BACKGROUND = "background"
_IMAGENET_CLASSES = 1001
# Any version of Keras 2: the loader reads files of Keras 2 without converting them.
_LEGACY_VERSION = "2.21.0"
# Bytes of HDF5's descriptions for each variable, at most.
_OVERHEAD = 8192


@dataclass(frozen=True, kw_only=True)
class Export(contract.Export):
    """A weights file that was written.

    Attributes:
      application: `"MobileNet"` or `"MobileNetV2"`.
      alpha: The depth multiplier.
      classes: Length of the predictions; None without the top.
      image_size: The size that the network was trained at, in pixels; the file loads at any size.
      compared_size: The image size of the comparison and of the call, in pixels: the network's own,
        or for V1 the nearest multiple of 32. At others the application's V1 pads otherwise.
      largest_difference: Largest difference between the module's outputs and those of the
        application with this file.
      largest_output: Largest magnitude of the outputs.
    """

    application: str
    alpha: float
    classes: int | None
    image_size: int
    compared_size: int
    largest_difference: float
    largest_output: float

    @property
    def call(self) -> str:
        """The Python call that loads the file."""
        top = {None: "include_top=False", 1000: ""}.get(self.classes, f"classes={self.classes}")
        arguments = [
            f"input_shape=({self.compared_size}, {self.compared_size}, 3)",
            f"alpha={self.alpha!r}",
            *([top] if top else []),
            f"weights={self.path!r}",
        ]
        return f"keras.applications.{self.application}({', '.join(arguments)})"


def export(source: Source, output: str | os.PathLike[str], *, top: bool = True) -> Export:
    """Writes the weights of a module for `keras.applications.MobileNet` or `MobileNetV2`.

    Of ImageNet's 1001 classes the first, `background`, is left out: `keras.applications` has the
    other 1000. Any other number of classes is kept.

    Args:
      source: A module's folder, anything else that `mobilenets.load` takes, or a model.
      output: The file: `.weights.h5` for Keras 3's own format, any other `.h5` for Keras 2's.
        Keras 3.15 and tf_keras 2.21 read both. An existing file is replaced.
      top: Whether to write the logits of a classification; a feature vector has none.

    Raises:
      ConvertError: The module cannot be read, `keras.applications` has no such network or does not
        give the module's outputs with the file, or the file cannot be written.
    """
    file = Path(output)
    if file.suffix != ".h5":
        raise ConvertError(
            f"{file}: the name must end in .weights.h5 or .h5, which tells the format", "output"
        )
    model = load_module(source)
    variant = model.variant
    _check(model)
    values = values_by_name(model)
    classes = model.num_classes if top else None
    first = int(bool(classes) and _has_background(model))
    if classes:
        for name in model.logits.slim_variables:  # type: ignore[union-attr]
            values[name] = values[name][..., first:]
        classes -= first
    weighted = applications.reference(variant, values, classes)
    size = applications.input_size(variant)
    images = sample_images(size)
    expected = _outputs(model, images, top)[:, first:]
    largest = float(np.abs(expected).max())
    with written_beside(file) as folder:
        beside = folder / file.name
        _save(weighted, beside)
        # Loaded as a user would, but with logits instead of probabilities.
        loaded = applications.build(variant, classes, weights=str(beside))
        difference = float(np.abs(applications.outputs(loaded, images) - expected).max())
        if not difference <= TOLERANCE * largest:
            raise ConvertError(
                f"{file} does not give the outputs of {variant}: they differ by up to "
                f"{difference:.2g}, allowed {TOLERANCE * largest:.2g}"
            )
        written = beside.stat().st_size
    return Export(
        path=str(file),
        bytes=written,
        application=APPLICATION[variant.family],
        alpha=variant.depth_multiplier,
        classes=classes,
        image_size=variant.image_size,
        compared_size=size,
        largest_difference=difference,
        largest_output=largest,
    )


def _check(model: MobileNet) -> None:
    """Refuses networks that `keras.applications` does not have."""
    variant = model.variant
    if variant.quantized:
        raise ConvertError(f"{variant}: keras.applications has no simulated quantization")
    if not applications.builds(variant):
        raise ConvertError(
            f"{variant}: keras.applications.{APPLICATION[variant.family]} has no "
            f"minimum of 8 channels and cannot be built with alpha={variant.depth_multiplier!r}; "
            "0.25 is the least"
        )


def _has_background(model: MobileNet) -> bool:
    named = not model.class_names or model.class_names[0] == _BACKGROUND
    return model.num_classes == _IMAGENET_CLASSES and named


def _outputs(model: MobileNet, images: np.ndarray, top: bool) -> np.ndarray:
    if top or model.num_classes is None:
        return model(images, training=False).numpy()
    endpoints = model(images, training=False, return_endpoints=True)
    return next(v.numpy()[:, 0, 0] for k, v in endpoints.items() if k.endswith("/global_pool"))


@standard()
def _save(model: keras.Model, file: Path) -> None:
    """Writes the weights in the format that the file's name tells."""
    # HDF5 ends the process when it closes a file for which there was no room.
    with tempfile.TemporaryFile(dir=file.parent) as room:
        room.write(bytes(sum(weight.numpy().nbytes + _OVERHEAD for weight in model.weights)))
        room.flush()
    if file.name.endswith(".weights.h5"):
        model.save_weights(file)
    else:
        _save_legacy(model, file)


def _save_legacy(model: keras.Model, file: Path) -> None:
    """Keras 2's format, which Keras 3 reads but no longer writes: one group per layer, in order."""
    with h5py.File(file, "w") as group:
        group.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        group.attrs["backend"] = b"tensorflow"
        group.attrs["keras_version"] = _LEGACY_VERSION.encode()
        for layer in model.layers:
            weights = {f"{layer.name}/{weight.name}:0": weight for weight in layer.weights}
            member = group.create_group(layer.name)
            member.attrs["weight_names"] = [name.encode() for name in weights]
            for name, weight in weights.items():
                member.create_dataset(name, data=weight.numpy())
