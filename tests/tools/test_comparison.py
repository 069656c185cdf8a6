"""Lower precisions compared with their modules, on photographs that did not calibrate them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convert.export.litert_run import Outputs
from tools import comparison, litert_page

CLASSES = 1001


def outputs(classes: list[int], features: list[list[float]]) -> Outputs:
    scores = np.full((len(classes), CLASSES), -50.0)
    scores[np.arange(len(classes)), classes] = 0
    return Outputs(scores, np.array(features))


def test_cells() -> None:
    model: Any = SimpleNamespace(num_classes=CLASSES)
    wanted = outputs([1, 2, 3, 4], [[1, 0], [1, 0], [0, 1], [1, 1]])
    found = outputs([1, 2, 7, 4], [[2, 0], [1, 0], [0, 3], [1, 0]])
    labels = np.array([1, 2, 3, 5])
    assert comparison.module_cells(model, wanted, labels) == ["75.0 %", "", "", "", ""]
    top1, difference, same, moved, cosine = comparison.cells(model, found, wanted, labels)
    assert (top1, moved, cosine) == ("50.0 %", "0.2500", "0.7071")
    # Bonett and Price's for one photograph lost of four.
    assert difference == "-25.0 (-71.7 to +38.3)"
    # Wilson's for three of four.
    assert same == "75.0 % (30.1 to 95.4)"


def test_features_have_a_cosine_alone() -> None:
    model: Any = SimpleNamespace(num_classes=None)
    same = outputs([0], [[1, 2]])
    assert comparison.cells(model, same, same, np.array([3])) == ["", "", "", "", "1.0000"]


def test_no_model_is_compared_on_what_calibrated_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says of each image whether it was calibrated on it."""
    images = np.arange(13.0)

    def made(model: object, precision: str, images: np.ndarray) -> bytes:
        return images.astype(np.float32).tobytes()

    def told(content: bytes, images: np.ndarray, logits: bool) -> Outputs:
        known = np.isin(images, np.frombuffer(content, np.float32))
        return Outputs(known[:, np.newaxis], images[:, np.newaxis])

    monkeypatch.setattr(litert_page, "float_model", made)
    monkeypatch.setattr(litert_page, "lite_outputs", told)
    monkeypatch.setattr(comparison, "_CALIBRATED", 4)
    content, found = litert_page._made(SimpleNamespace(num_classes=2), "int8", images)
    assert len(content) == 4 * 4
    assert not found.scores.any()
    np.testing.assert_array_equal(found.features[:, 0], images)
