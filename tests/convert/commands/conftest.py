"""What the commands of these tests read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from convert.export import slim
from mobilenets import MobileNet


@pytest.fixture
def photos(tmp_path: Path, random_images: Callable) -> Path:
    """A folder of three images of one class, in `tmp_path`."""
    folder = tmp_path / "photos" / "zero"
    folder.mkdir(parents=True)
    for i, image in enumerate(random_images(3, 80)):
        pixels = tf.constant(np.round(image * 255).astype(np.uint8))
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return folder.parent


@pytest.fixture
def published_checkpoints(tmp_path: Path) -> Callable[..., Path]:
    """`published_checkpoints(*slim_names)`: a folder of them, with random weights."""

    def published_checkpoints(*names: str) -> Path:
        for name in names:
            model = MobileNet(name)
            slim.export(model, tmp_path / "checkpoints" / f"{name}.ckpt")
        return tmp_path / "checkpoints"

    return published_checkpoints
