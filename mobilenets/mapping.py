"""Slim variable <-> Keras variable, one-to-one and strict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mobilenets.checkpoint import Checkpoint, CheckpointError, Selection
from mobilenets.model import MobileNet
from mobilenets.quantization import range_problems
from mobilenets.variants import Variant

__all__ = ["assign", "read"]


def read(
    checkpoint: Checkpoint, selection: Selection, variant: Variant, num_classes: int | None
) -> dict[str, np.ndarray]:
    """Every variable of the network, read from the checkpoint.

    Args:
      checkpoint: Where from.
      selection: Which of its keys hold the values.
      variant: The network that the checkpoint is to fill.
      num_classes: Length of its logits; None if it has none.

    Returns:
      Slim variable name to value, in Slim's order.

    Raises:
      CheckpointError: Variables are missing, left over, mis-shaped or not finite, or ranges that
        8 bits cannot quantize; the message lists every one.
    """
    expected = {
        name: tuple(variable.shape)
        for name, variable in MobileNet(variant, num_classes).slim_variables.items()
    }
    problems = [
        f"{name}: missing, expected {_shape(shape)}"
        for name, shape in expected.items()
        if name not in selection.keys
    ]
    problems += [
        f"{name}: left over, found {_shape(checkpoint.shapes[key])}"
        for name, key in selection.keys.items()
        if name not in expected
    ]
    problems += [
        f"{key}: left over, found {_shape(checkpoint.shapes[key])}" for key in selection.unknown
    ]
    common = [name for name in expected if name in selection.keys]
    problems += [
        f"{name}: expected {_shape(expected[name])}, found "
        f"{_shape(checkpoint.shapes[selection.keys[name]])}"
        for name in common
        if tuple(checkpoint.shapes[selection.keys[name]]) != expected[name]
    ]
    if not problems:
        found = checkpoint.read([selection.keys[name] for name in common])
        values = {name: found[selection.keys[name]] for name in common}
        problems = [
            f"{name}: expected finite float32, found {_fault(value)}"
            for name, value in values.items()
            if value.dtype != np.float32 or not np.isfinite(value).all()
        ] or range_problems(values)
    if problems:
        count = f"{len(problems)} variable{'s' if len(problems) > 1 else ''}"
        raise CheckpointError(
            f"{checkpoint.source} does not fit {variant}: {count}\n  " + "\n  ".join(problems)
        )
    return values


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _fault(value: np.ndarray) -> str:
    if value.dtype != np.float32:
        return str(value.dtype)
    return f"{np.count_nonzero(~np.isfinite(value))} of {value.size} values NaN or infinite"


def assign(model: MobileNet, values: Mapping[str, np.ndarray]) -> None:
    """Gives each variable of the model its value; a feature vector leaves the logits' unused."""
    for name, variable in model.slim_variables.items():
        variable.assign(values[name])
