"""A module to a weights file that `keras.applications` loads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from convert import applications
from convert.errors import ConvertError
from convert.files import load_module, written_beside
from convert.verify import APPLICATION, TOLERANCE, sample_images
from mobilenets import MobileNet

__all__ = ["Export", "export"]

_BACKGROUND = "background"
_IMAGENET_CLASSES = 1001
# Keras 2's mark: what the older loader reads without rewriting it.
_LEGACY_VERSION = "2.21.0"


@dataclass(frozen=True)
class Export:
    """A weights file that was written.

    Attributes:
      file: Where it is.
      application: `"MobileNet"` or `"MobileNetV2"`.
      alpha: The depth multiplier.
      classes: Length of the predictions; None without the top.
      image_size: That the network was trained at, in pixels; the file loads at any.
      largest_difference: Largest difference between the module's outputs and those of the
        application with this file.
      largest_output: Largest magnitude of the outputs.
    """

    file: str
    application: str
    alpha: float
    classes: int | None
    image_size: int
    largest_difference: float
    largest_output: float

    @property
    def call(self) -> str:
        """The Python that loads the file."""
        top = {None: "include_top=False", 1000: ""}.get(self.classes, f"classes={self.classes}")
        arguments = [
            f"input_shape=({self.image_size}, {self.image_size}, 3)",
            f"alpha={self.alpha:g}",
            *([top] if top else []),
            f"weights={self.file!r}",
        ]
        return f"keras.applications.{self.application}({', '.join(arguments)})"


def export(
    module: str | os.PathLike[str] | MobileNet, file: str | os.PathLike[str], top: bool = True
) -> Export:
    """Writes the weights of a module for `keras.applications.MobileNet` or `MobileNetV2`.

    Of ImageNet's 1001 classes the first, `background`, is left out: `keras.applications` has the
    other 1000. Any other number of classes stays as it is.

    Args:
      module: A module's folder or what else `mobilenets.load` takes, or a model.
      file: Where to: `.weights.h5` gets Keras 3's own format, another `.h5` that of Keras 2. Keras
        3.15 and tf_keras 2.21 read both. An existing file is replaced.
      top: Whether to write the logits of a classification; a feature vector has none.

    Raises:
      ConvertError: The module cannot be read, `keras.applications` has no such network or computes
        something else with the file, or the file cannot be written.
    """
    file = Path(file)
    if file.suffix != ".h5":
        raise ConvertError(f"{file}: the name must end in .weights.h5 or .h5, to say the format")
    model = load_module(module)
    variant = model.variant
    if variant.quantized:
        raise ConvertError(f"{variant}: keras.applications has no simulated quantization")
    if not applications.builds(variant):
        raise ConvertError(
            f"{variant}: keras.applications.{APPLICATION[variant.family]} has no "
            f"minimum of 8 channels and cannot be built with alpha={variant.depth_multiplier:g}; "
            "0.25 is the least"
        )
    values = {name: variable.numpy() for name, variable in model.slim_variables.items()}
    classes = model.num_classes if top else None
    first = int(bool(classes) and _has_background(model))
    if classes:
        for name in model.logits.slim_variables:  # type: ignore[union-attr]
            values[name] = values[name][..., first:]
        classes -= first
    weighted = applications.reference(variant, values, classes)
    with written_beside(file) as folder:
        beside = folder / file.name
        if file.name.endswith(".weights.h5"):
            weighted.save_weights(beside)
        else:
            _save_legacy(weighted, beside)
        images = sample_images(applications.input_size(variant))
        expected = _outputs(model, images, top)[:, first:]
        found = np.asarray(_loaded(model, beside, classes)(2 * images - 1, training=False))
        difference = float(np.abs(found - expected).max())
        largest = float(np.abs(expected).max())
        if not difference <= TOLERANCE * largest:
            raise ConvertError(
                f"{file} does not give the outputs of {variant}: they differ by up to "
                f"{difference:.2g}, allowed {TOLERANCE * largest:.2g}"
            )
    return Export(
        file=str(file),
        application=APPLICATION[variant.family],
        alpha=variant.depth_multiplier,
        classes=classes,
        image_size=variant.image_size,
        largest_difference=difference,
        largest_output=largest,
    )


def _has_background(model: MobileNet) -> bool:
    named = not model.class_names or model.class_names[0] == _BACKGROUND
    return model.num_classes == _IMAGENET_CLASSES and named


def _outputs(model: MobileNet, images: np.ndarray, top: bool) -> np.ndarray:
    if top or model.num_classes is None:
        return model(images, training=False).numpy()
    endpoints = model(images, training=False, return_endpoints=True)
    return next(v.numpy()[:, 0, 0] for k, v in endpoints.items() if k.endswith("/global_pool"))


def _loaded(model: MobileNet, file: Path, classes: int | None) -> keras.Model:
    """The application as a user makes it of the file, but for logits in place of probabilities."""
    variant = model.variant
    top = {"classes": classes, "classifier_activation": None} if classes else {"pooling": "avg"}
    size = applications.input_size(variant)
    return getattr(keras.applications, APPLICATION[variant.family])(
        input_shape=(size, size, 3),
        alpha=variant.depth_multiplier,
        include_top=bool(classes),
        weights=str(file),
        **top,
    )


def _save_legacy(model: keras.Model, file: Path) -> None:
    """Keras 2's format, which Keras 3 reads but no longer writes: a group a layer, in order."""
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
