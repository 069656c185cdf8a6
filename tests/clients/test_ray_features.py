"""The example for Ray Data: two workers on this machine, of which one dies.

Ray is not in the environment of `make install`, where `pip install 'ray[data]'` adds it and changes
nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mobilenets

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ray_features.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("ray"), reason="no Ray: pip install 'ray[data]'"),
]

# The first batch that a worker gets ends it, as a machine that fails would.
MORTAL = """
import os, sys
sys.path.insert(0, {root!r})
from examples import ray_features

class Mortal(ray_features.Features):
    def __init__(self, module):
        super().__init__(module)
        open(f"{folder}/loaded-{{os.getpid()}}", "x")

    def __call__(self, batch):
        try:
            open("{folder}/died", "x")
        except FileExistsError:
            return super().__call__(batch)
        os._exit(1)

ray_features.main(sys.argv[1:], Mortal)
"""


def test_a_worker_that_dies_is_replaced(module: Callable[..., Path], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 70, 80, 3), dtype=np.uint8)
    (tmp_path / "images" / "a").mkdir(parents=True)
    pictures = []
    for i in range(200):
        path = tmp_path / "images" / "a" / f"{i:03}.jpg"
        path.write_bytes(tf.io.encode_jpeg(pixels[i % 10]).numpy())
        pictures.append(str(path))
    Path(pictures[50]).write_bytes(b"not an image")
    program = tmp_path / "mortal.py"
    program.write_text(MORTAL.format(root=str(ROOT), folder=tmp_path))
    arguments = [module("mobilenet_v1"), tmp_path / "images", tmp_path / "out", 2]
    done = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    # Two workers, and the one that took the place of the dead.
    assert len([*tmp_path.glob("loaded-*")]) == 3
    rows = sorted(parquet.read_table(tmp_path / "out").to_pylist(), key=lambda row: row["file"])
    assert [row["file"] for row in rows] == pictures
    broken = rows.pop(50)
    assert "cannot load" in broken["error"]
    assert broken["features"] is None
    assert {row["error"] for row in rows} == {None}
    model = mobilenets.load(module("mobilenet_v1"))
    batch = mobilenets.images.load_batch([row["file"] for row in rows[:10]], 64)
    found = np.array([row["features"] for row in rows[:10]])
    np.testing.assert_allclose(found, model(batch), rtol=1e-4, atol=1e-4)
