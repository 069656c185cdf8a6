"""Folders that look like modules: of those, publishing reads no more than their configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilenets import Variant

PARITY = {
    "variables": 137,
    "reference": "keras.applications.MobileNet (Keras 3.15.1)",
    "images": 4,
    "image_size": 128,
    "largest_output": 11.75,
    "largest_difference": 2.4e-05,
    "tolerance": 1e-4,
}


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., Path]:
    """`module(name, classes=None, data=b"", **record)`: a folder in `tmp_path / "models"`."""

    def module(
        name: str, classes: int | None = None, data: bytes = b"weights", **record: Any
    ) -> Path:
        kind = "classification" if classes else "feature_vector"
        folder = tmp_path / "models" / name / kind
        config = {
            "variant": dataclasses.asdict(Variant.parse(name)),
            "num_classes": classes,
            "class_names": None,
        }
        files = {
            "assets.extra/mobilenet.json": json.dumps(config).encode(),
            "saved_model.pb": b"graph",
            "variables/variables.index": b"index",
            "variables/variables.data-00000-of-00001": data,
        }
        if record:
            files["parity.json"] = json.dumps({**PARITY, "weights": "raw", **record}).encode()
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    return module
