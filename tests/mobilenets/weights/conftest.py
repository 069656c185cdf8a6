"""A small checkpoint, for the tests that read one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from slim_checkpoints import written


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "MobilenetV1/Conv2d_0/weights": random.normal(size=(3, 3, 3, 8)).astype(np.float32),
        "MobilenetV1/Conv2d_0/BatchNorm/beta": random.normal(size=8).astype(np.float32),
        "MobilenetV1/Logits/Conv2d_1c_1x1/biases": random.normal(size=600).astype(np.float32),
    }


@pytest.fixture
def model(tmp_path: Path, values: dict[str, np.ndarray]) -> Path:
    """The prefix of a small checkpoint, alone in its folder."""
    return written(tmp_path / "run", "model.ckpt-20", values)
