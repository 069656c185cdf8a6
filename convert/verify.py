"""Compares a module with its checkpoint, and with an independent implementation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

from mobilenets import Variant

from .errors import ConvertError, first_line
from .references import applications, simulation
from .references.applications import APPLICATION

__all__ = ["TOLERANCE", "Parity", "compare", "sample_images"]

# Folding changes the order of rounding: 1e-4 of the largest output is an ample bound in float32.
TOLERANCE = 1e-4
# A value midway between two 8-bit steps can round the other way.
_MEAN_STEPS, _MOST_STEPS = 0.2, 4
_IMAGES = 4


@dataclass(frozen=True)
class Parity:
    """How a module compares with its checkpoint and with a reference.

    Attributes:
      variables: Number of variables, all bit-identical to the checkpoint's; 0 for a module for
        serving, which has none.
      reference: The implementation that the outputs were compared with; None where none exists.
      images: Number of images compared.
      image_size: Their height and width, in pixels.
      largest_output: Largest magnitude of the reference's outputs.
      largest_difference: Largest difference of an output.
      tolerance: Bound on the difference, as a share of the largest output; for quantops, 4 steps
        of the last rounding.
    """

    variables: int
    reference: str | None
    images: int
    image_size: int
    largest_output: float | None
    largest_difference: float | None
    tolerance: float


def compare(
    directory: Path,
    variant: Variant,
    values: Mapping[str, np.ndarray],
    num_classes: int | None,
    trainable: bool = True,
) -> Parity:
    """Reloads a module through tensorflow_hub and compares it.

    Args:
      directory: The module.
      variant: The network that the module should be.
      values: The values that its variables should hold, by Slim name.
      num_classes: Length of its logits; None for a feature vector.
      trainable: Whether it has variables: a module for serving has constants instead.

    Raises:
      ConvertError: The module cannot be loaded, a variable differs in any bit, an output differs by
        more than the tolerance, or quantops outputs differ by more than 0.2 steps on average.
    """
    held = values if trainable else {}
    module = _loaded(directory, held)
    reference = _expected(variant, values, num_classes)
    if reference is None:
        return Parity(len(held), None, 0, variant.image_size, None, None, TOLERANCE)
    name, images, expected = reference
    step = simulation.step(variant, values, num_classes) if variant.quantized else 0.0
    differences = np.abs(module(images).numpy() - expected)
    largest = float(np.abs(expected).max())
    allowed = _MOST_STEPS * step or TOLERANCE * largest
    parity = Parity(
        variables=len(held),
        reference=name,
        images=len(images),
        image_size=images.shape[1],
        largest_output=largest,
        largest_difference=float(differences.max()),
        tolerance=allowed / largest if largest else TOLERANCE,
    )
    if not differences.max() <= allowed:
        raise ConvertError(
            f"{directory} does not agree with {name}: outputs differ by up to "
            f"{differences.max():.2g}, allowed {allowed:.2g}"
        )
    if step and not differences.mean() <= _MEAN_STEPS * step:
        raise ConvertError(
            f"{directory} does not agree with {name}: outputs differ by "
            f"{differences.mean():.2g} on average, allowed {_MEAN_STEPS * step:.2g}"
        )
    return parity


def _loaded(directory: Path, values: Mapping[str, np.ndarray]) -> Any:
    """Loads the module and checks that its variables hold the values."""
    try:
        module: Any = hub.load(str(directory))
        found = {v.name.removesuffix(":0"): v.numpy() for v in module.variables}
    except Exception as error:
        # TensorFlow raises many unrelated exception types for damaged files.
        raise ConvertError(
            f"{directory} is not a module that can be loaded: {first_line(error)}"
        ) from error
    wrong = [f"{name}: missing" for name in values if name not in found]
    wrong += [f"{name}: left over" for name in found if name not in values]
    wrong += [
        f"{name}: differs from the checkpoint"
        for name, value in values.items()
        if name in found and found[name].tobytes() != value.tobytes()
    ]
    if wrong:
        raise ConvertError(f"{directory} differs from its checkpoint:\n  " + "\n  ".join(wrong))
    return module


def _expected(
    variant: Variant, values: Mapping[str, np.ndarray], num_classes: int | None
) -> tuple[str, np.ndarray, np.ndarray] | None:
    """A reference's name, images and its outputs for them; None where there is no reference."""
    if variant.quantized:
        name = f"tf.contrib.quantize's graph, of TensorFlow {tf.__version__} operations"
        images = sample_images(variant.image_size)
        return name, images, simulation.reference(variant, values, images, num_classes)
    if applications.builds(variant):
        name = f"keras.applications.{APPLICATION[variant.family]} (Keras {keras.__version__})"
        images = sample_images(applications.input_size(variant))
        reference = applications.reference(variant, values, num_classes)
        return name, images, applications.outputs(reference, images)
    return None


def sample_images(size: int) -> np.ndarray:
    """Images in [0, 1] with structure at all scales, the same at every call."""
    random = np.random.default_rng(0)
    images = np.zeros((_IMAGES, size, size, 3), np.float32)
    for cells in (2, 8, 32):
        coarse = random.uniform(size=(_IMAGES, cells, cells, 3)).astype(np.float32)
        index = np.arange(size) * cells // size
        images += coarse[:, index][:, :, index] / 3
    return images
