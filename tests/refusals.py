"""Errors of one line, which is what users get to see."""

from __future__ import annotations

import pytest

from mobilenets.weights import WeightsError

__all__ = ["one_line", "refused"]


def one_line(message: str) -> str:
    """A pattern for a line that contains a text."""
    return rf"\A[^\n]*{message}[^\n]*\Z"


def refused(message: str, error: type[Exception] = WeightsError) -> pytest.RaisesExc[Exception]:
    """Expects an error whose line contains a text."""
    return pytest.raises(error, match=one_line(message))
