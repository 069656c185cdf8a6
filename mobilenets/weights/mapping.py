"""Slim variable <-> Keras variable, one-to-one and strict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from mobilenets import architecture
from mobilenets.model import MobileNet
from mobilenets.quantization import range_problems
from mobilenets.variants import Variant
from mobilenets.weights.errors import WeightsError, shape_text

__all__ = ["assign", "checked"]

_MOST_CLASSES = 1_000_000


def checked(
    source: str,
    shapes: Mapping[str, tuple[int, ...]],
    unknown: Mapping[str, tuple[int, ...]],
    read: Callable[[Iterable[str]], dict[str, np.ndarray]],
    variant: Variant,
    num_classes: int | None,
) -> dict[str, np.ndarray]:
    """Reads and checks every variable of the network.

    Args:
      source: The weights' name in errors.
      shapes: Shape of each variable in the source, by Slim name.
      unknown: Shapes of all other entries, by the source's name.
      read: Reads the values of variables by Slim name; called only if all shapes are right.
      variant: The network that the values are to fill.
      num_classes: Length of its logits; None if it has none.

    Returns:
      Slim variable name to float32 value, in Slim's order.

    Raises:
      WeightsError: Variables are missing, left over, mis-shaped or not finite, or ranges that
        8 bits cannot quantize; the message lists every one.
    """
    if num_classes is not None and num_classes > _MOST_CLASSES:
        raise WeightsError(f"{source} claims {num_classes} classes, which is impossible")
    expected = architecture.variables(variant, num_classes)
    problems = [
        f"{name}: missing, expected {shape_text(shape)}"
        for name, shape in expected.items()
        if name not in shapes
    ]
    left_over = {name: shape for name, shape in shapes.items() if name not in expected}
    problems += [
        f"{name}: left over, found {shape_text(shape)}"
        for name, shape in [*left_over.items(), *unknown.items()]
    ]
    common = [name for name in expected if name in shapes]
    problems += [
        f"{name}: expected {shape_text(expected[name])}, found {shape_text(shapes[name])}"
        for name in common
        if tuple(shapes[name]) != expected[name]
    ]
    if not problems:
        values = read(common)
        problems = [
            f"{name}: expected finite float32, found {_fault(value)}"
            for name, value in values.items()
            if value.dtype != np.float32 or not np.isfinite(value).all()
        ] or range_problems(values)
    if problems:
        count = f"{len(problems)} variable{'s' if len(problems) > 1 else ''}"
        raise WeightsError(f"{source} does not fit {variant}: {count}\n  " + "\n  ".join(problems))
    return values


def _fault(value: np.ndarray) -> str:
    if value.dtype != np.float32:
        return str(value.dtype)
    return f"{np.count_nonzero(~np.isfinite(value))} of {value.size} values NaN or infinite"


def assign(model: MobileNet, values: Mapping[str, np.ndarray]) -> None:
    """Assigns each variable of the model its value; a feature vector ignores the logits' values."""
    for name, variable in model.slim_variables.items():
        variable.assign(values[name])
