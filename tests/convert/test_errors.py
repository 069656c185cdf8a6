"""The converter's error."""

from __future__ import annotations

import pickle

import pytest

from convert.errors import ConvertError, first_line


def test_it_comes_back_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(ConvertError("what is wrong", "images")))
    assert (str(error), error.argument) == ("what is wrong", "images")
    assert ConvertError("what is wrong").argument is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\none\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (ValueError("  \n "), "ValueError"),
        (KeyError("a"), "'a'"),
    ],
    ids=str,
)
def test_first_lines(error: Exception, line: str) -> None:
    assert first_line(error) == line
