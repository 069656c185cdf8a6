"""Comparisons of arrays that several tests make."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["assert_close", "cosines"]


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
