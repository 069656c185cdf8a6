"""Compares a module with its checkpoint, and with an independent implementation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

from mobilenets import Variant, architecture

from .errors import ConvertError, first_line
from .references import applications, simulation
from .references.applications import APPLICATION

__all__ = ["TOLERANCE", "Original", "Parity", "sample_images"]

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


class Original:
    """What modules are compared with: a checkpoint's values, and an independent implementation.

    Args:
      variant: The network.
      values: The value of every variable by Slim name.
      num_classes: Length of the logits; None if the checkpoint has none.
    """

    def __init__(
        self, variant: Variant, values: Mapping[str, np.ndarray], num_classes: int | None
    ) -> None:
        self.variant = variant
        self.values = values
        self.num_classes = num_classes

    def compare(self, directory: Path, kind: str, trainable: bool = True) -> Parity:
        """Reloads a module through tensorflow_hub and compares it.

        Args:
          directory: The module.
          kind: `"feature_vector"` or `"classification"`.
          trainable: Whether it has variables: a module for serving has constants instead.

        Raises:
          ConvertError: The module cannot be loaded, a variable differs in any bit, an output
            differs by more than the tolerance, or quantops outputs differ by more than 0.2 steps on
            average.
        """
        classes = self.num_classes if kind == "classification" else None
        names = architecture.variables(self.variant, classes) if trainable else ()
        module = _loaded(directory, {name: self.values[name] for name in names})
        if self._reference is None:
            return Parity(len(names), None, 0, self.variant.image_size, None, None, TOLERANCE)
        name, images, outputs = self._reference
        expected = outputs[kind]
        differences = np.abs(module(images).numpy() - expected)
        step = 0.0
        if self.variant.quantized:
            step = simulation.step(self.variant, self.values, classes)
        largest = float(np.abs(expected).max())
        allowed = _MOST_STEPS * step or TOLERANCE * largest
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
        return Parity(
            variables=len(names),
            reference=name,
            images=len(images),
            image_size=images.shape[1],
            largest_output=largest,
            largest_difference=float(differences.max()),
            tolerance=allowed / largest if largest else TOLERANCE,
        )

    @functools.cached_property
    def _reference(self) -> tuple[str, np.ndarray, Mapping[str, np.ndarray]] | None:
        """The implementation's name, images and its outputs for them by kind; None without one."""
        given = self.variant, self.values, self.num_classes
        if self.variant.quantized:
            name = f"tf.contrib.quantize's graph, of TensorFlow {tf.__version__} operations"
            images = sample_images(self.variant.image_size)
            return name, images, simulation.outputs(*given, images)
        if applications.builds(self.variant):
            name = (
                f"keras.applications.{APPLICATION[self.variant.family]} (Keras {keras.__version__})"
            )
            images = sample_images(applications.input_size(self.variant))
            return name, images, applications.both_outputs(applications.reference(*given), images)
        return None


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


def sample_images(size: int) -> np.ndarray:
    """Images in [0, 1] with structure at all scales, the same at every call."""
    random = np.random.default_rng(0)
    images = np.zeros((_IMAGES, size, size, 3), np.float32)
    for cells in (2, 8, 32):
        coarse = random.uniform(size=(_IMAGES, cells, cells, 3)).astype(np.float32)
        index = np.arange(size) * cells // size
        images += coarse[:, index][:, :, index] / 3
    return images
