"""What of a sweep `make test` runs: its first cases; the others are slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["first_fast", "slow"]


def slow(*values: Any, **kwargs: Any) -> Any:
    """A case for `pytest.mark.parametrize` that only `make test-all` runs."""
    return pytest.param(*values, marks=pytest.mark.slow, **kwargs)


def first_fast(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """The cases of a sweep, the first `count` of them fast; a tuple has a value an argument."""
    return [
        case if number < count else slow(*(case if isinstance(case, tuple) else (case,)))
        for number, case in enumerate(cases)
    ]
