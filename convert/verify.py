"""Compares what was written with what was read, and with an implementation that is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow_hub as hub

from convert import applications
from convert.errors import ConvertError
from mobilenets import Variant

__all__ = ["Parity", "compare"]

# Folding changes the order of rounding: 1e-4 of the largest output is an ample bound in float32.
TOLERANCE = 1e-4
_IMAGES = 4


@dataclass(frozen=True)
class Parity:
    """How a module compares.

    Attributes:
      variables: Variables that are bit for bit those of the checkpoint: all of them.
      reference: The implementation that the outputs were compared with; None where none exists.
      images: Number of images compared.
      image_size: Their height and width, in pixels.
      largest_output: Largest magnitude of the reference's outputs.
      largest_difference: Largest difference of an output.
      tolerance: Bound on the difference, as a share of the largest output.
    """

    variables: int
    reference: str | None
    images: int
    image_size: int
    largest_output: float | None
    largest_difference: float | None
    tolerance: float


def compare(
    directory: Path, variant: Variant, values: Mapping[str, np.ndarray], num_classes: int | None
) -> Parity:
    """Reloads a module through tensorflow_hub and compares it.

    Args:
      directory: The module.
      variant: What it should be.
      values: What its variables should hold, by Slim name.
      num_classes: Length of its logits; None for a feature vector.

    Raises:
      ConvertError: The module cannot be loaded, a variable differs in any bit, or an output by
        more than the tolerance.
    """
    try:
        module: Any = hub.load(str(directory))
        found = {v.name.removesuffix(":0"): v.numpy() for v in module.variables}
    except Exception as error:
        # Whatever is wrong with the files, TensorFlow says it in a class of its own.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvertError(f"{directory} is not a module that can be loaded: {reason}") from error
    wrong = [f"{name}: missing" for name in values if name not in found]
    wrong += [f"{name}: left over" for name in found if name not in values]
    wrong += [
        f"{name}: differs from the checkpoint"
        for name, value in values.items()
        if name in found and found[name].tobytes() != value.tobytes()
    ]
    if wrong:
        raise ConvertError(f"{directory} is not the checkpoint's:\n  " + "\n  ".join(wrong))
    if not applications.builds(variant):
        return Parity(len(found), None, 0, variant.image_size, None, None, TOLERANCE)

    images = _images(applications.input_size(variant))
    reference = applications.reference(variant, values, num_classes)
    expected = np.asarray(reference(2 * images - 1, training=False))
    difference = float(np.abs(module(images).numpy() - expected).max())
    largest = float(np.abs(expected).max())
    parity = Parity(
        variables=len(found),
        reference=f"keras.applications.{_APPLICATION[variant.family]} (Keras {keras.__version__})",
        images=len(images),
        image_size=images.shape[1],
        largest_output=largest,
        largest_difference=difference,
        tolerance=TOLERANCE,
    )
    if not difference <= TOLERANCE * largest:
        raise ConvertError(
            f"{directory} computes something else than {parity.reference}: outputs differ by up "
            f"to {difference:.2g}, allowed {TOLERANCE * largest:.2g}"
        )
    return parity


_APPLICATION = {"mobilenet_v1": "MobileNet", "mobilenet_v2": "MobileNetV2"}


def _images(size: int) -> np.ndarray:
    """Images in [0, 1] with structure at all scales, the same at every call."""
    random = np.random.default_rng(0)
    images = np.zeros((_IMAGES, size, size, 3), np.float32)
    for cells in (2, 8, 32):
        coarse = random.uniform(size=(_IMAGES, cells, cells, 3)).astype(np.float32)
        index = np.arange(size) * cells // size
        images += coarse[:, index][:, :, index] / 3
    return images
