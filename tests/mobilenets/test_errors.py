"""One root for all errors, which callers can catch where they catch `ValueError` today."""

from __future__ import annotations

import pickle

import pytest

from convert.errors import ConvertError
from mobilenets import MobileNetError, load
from mobilenets.fetching import ArchiveError, FetchError
from mobilenets.weights import WeightsError


@pytest.mark.parametrize("error", [ArchiveError, ConvertError, FetchError, WeightsError])
def test_every_error_is_of_the_root(error: type[MobileNetError]) -> None:
    assert issubclass(error, MobileNetError)
    assert issubclass(error, ValueError)
    again = pickle.loads(pickle.dumps(error("what is wrong")))
    assert (type(again), str(again)) == (error, "what is wrong")


def test_the_root_is_what_the_library_raises(tmp_path) -> None:
    with pytest.raises(MobileNetError, match="was not written by"):
        load(tmp_path)
