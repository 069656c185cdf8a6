"""Comparisons of arrays and of models' values that several tests make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mobilenets import MobileNet

Values = Mapping[str, np.ndarray]

__all__ = ["assert_close", "assert_equal_values", "cosines", "equal", "values_of"]


def assert_close(found: Any, expected: Any, share: float = 5e-5, name: str = "") -> None:
    """Equal but for a share of the largest magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    bound = share * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=name)


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of each row with its own."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(1) / lengths


def values_of(model: MobileNet) -> dict[str, np.ndarray]:
    """The value of each variable by its Slim name."""
    return {name: variable.numpy() for name, variable in model.slim_variables.items()}


def equal(found: Values, expected: Values) -> bool:
    """Whether names, shapes and every bit are the same."""
    return found.keys() == expected.keys() and all(
        found[name].tobytes() == value.tobytes() and found[name].shape == value.shape
        for name, value in expected.items()
    )


def assert_equal_values(found: MobileNet, expected: MobileNet | Values) -> None:
    """The same names in the same order, and the same values."""
    ours = values_of(found)
    theirs = values_of(expected) if isinstance(expected, MobileNet) else expected
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
