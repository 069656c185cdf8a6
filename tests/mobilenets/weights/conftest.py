"""A small checkpoint, for the tests that read one, and what the commands make of a source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from slim_checkpoints import some_values, written

import mobilenets


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    return some_values()


@pytest.fixture
def model(tmp_path: Path, values: dict[str, np.ndarray]) -> Path:
    """The prefix of a small checkpoint, alone in its folder."""
    return written(tmp_path / "run", "model.ckpt-20", values)


@pytest.fixture
def converted(
    quick_conversion: None, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> Callable[..., mobilenets.MobileNet]:
    """`converted(source, variant)`: the classifier of the command, as `inspect` says it will be."""

    def converted(source: Path, variant: str) -> mobilenets.MobileNet:
        code, printed, _ = command("inspect", source, "--json")
        assert code == 0
        assert json.loads(printed)["variant"] == variant
        code, _, errors = command(
            *("checkpoint", source, "--kind", "classification"), "--output", tmp_path / "models"
        )
        assert (code, errors) == (0, "")
        return mobilenets.load(tmp_path / "models" / variant / "classification")

    return converted
