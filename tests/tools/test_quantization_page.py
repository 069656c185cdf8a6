"""The figures of both roads to 8 bits: of photographs that neither calibrated nor taught."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convert.export.litert_run import Outputs
from mobilenets import Variant
from tools import comparison, quantization_page
from tools.comparison import Photographs

CLASSES = 1001


@pytest.mark.parametrize("folds", [1, 5])
def test_what_is_compared_was_held_out(folds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is wrong on the photographs that it knows, and right on the others."""
    photos = Photographs([Path(f"{i}.jpg") for i in range(23)], np.arange(23))
    model: Any = SimpleNamespace(num_classes=CLASSES, variant=Variant("mobilenet_v1", 0.25, 64))

    def loaded(paths: list[Path], size: int) -> np.ndarray:
        return np.array([float(path.stem) for path in paths], np.float32)

    def made(model: object, images: np.ndarray, larger: np.ndarray, epochs: int):
        np.testing.assert_array_equal(images, larger)
        yield "int8", images.tobytes()

    def scored(images: np.ndarray, wrong: np.ndarray) -> Outputs:
        scores = np.zeros((len(images), CLASSES))
        scores[np.arange(len(images)), np.where(wrong, 1000, images).astype(int)] = 1
        return Outputs(scores, scores)

    def told(content: bytes, images: np.ndarray, logits: bool) -> Outputs:
        return scored(images, np.isin(images, np.frombuffer(content, np.float32)))

    monkeypatch.setattr(comparison, "load_module", lambda source: model)
    monkeypatch.setattr(quantization_page, "load_images", loaded)
    monkeypatch.setattr(
        quantization_page, "source_outputs", lambda model, images: scored(images, images < 0)
    )
    monkeypatch.setattr(quantization_page, "_models", made)
    monkeypatch.setattr(quantization_page, "lite_outputs", told)
    monkeypatch.setattr(
        quantization_page, "LiteModel", lambda content: SimpleNamespace(in_xnnpack=True)
    )
    *_, exact, rounded = quantization_page.table(["m"], photos, folds, 1)
    assert "| float | 100.0 % |" in exact
    assert "| int8 | 100.0 % | +0.0" in rounded
    assert rounded.endswith("| all |")
