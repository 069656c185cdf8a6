"""The code of `docs/migration.md`, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import mobilenets
from mobilenets import MobileNet

ROOT = Path(__file__).resolve().parents[2]
SNIPPET = re.compile(r"<!-- runs in the tests: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
SNIPPETS = dict(SNIPPET.findall((ROOT / "docs" / "migration.md").read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("world", ["hub", "native"])
def test_grad_cam(
    world: str, tmp_path: Path, module: Any, randomise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    (tmp_path / "photo.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    mobilenets.save(randomise(MobileNet("mobilenet_v1_025_64", 5)), tmp_path / "classifier")
    (tmp_path / "features").symlink_to(module("mobilenet_v1"))
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(SNIPPETS[world], found)
    assert found["heat"].shape == (1, 2, 2)
    assert np.abs(found["weights"]).max() > 0
    if world == "hub":
        default = found["features"](found["image"])["default"]
        np.testing.assert_array_equal(found["pooled"], default)
