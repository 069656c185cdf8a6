"""Formats that carry the same weights give the same values, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from slim_checkpoints import network, written
from tiers import first_fast
from weight_formats import frozen_graph, hub_module, hugging_face

from mobilenets import weights
from mobilenets.variants import Variant
from mobilenets.weights import readers

FORMATS: dict[str, Callable[[Path, dict[str, np.ndarray]], Path]] = {
    "slim": lambda folder, values: written(folder, "m.ckpt", values),
    "tf2_module": lambda folder, values: hub_module(folder / "module", values, 96),
    "frozen_graph": lambda folder, values: frozen_graph(folder / "frozen.pb", values, 96),
    "hugging_face": lambda folder, values: hugging_face(folder / "m", values, image_size=96),
}


@pytest.mark.parametrize(
    ("family", "multiplier", "classes"),
    first_fast(
        [
            ("mobilenet_v1", 0.25, None),
            ("mobilenet_v2", 0.35, 5),
            ("mobilenet_v1", 0.75, 5),
            ("mobilenet_v2", 1.3, None),
        ],
        2,
    ),
)
def test_the_same_values(
    tmp_path: Path, family: str, multiplier: float, classes: int | None
) -> None:
    """Read by each format's own reader."""
    values = network(family, multiplier, classes)
    variant = Variant(family, multiplier, 96)
    for name, write in FORMATS.items():
        path = write(tmp_path / name, values)
        reader = next(each for each in readers.READERS if each.recognises(path))
        assert reader.__name__.rpartition(".")[2] == name
        with weights.open(path) as found:
            assert found.variant(image_size=96) == variant
            read = found.values(variant)
        assert read.keys() == values.keys(), name
        assert [n for n in values if read[n].tobytes() != values[n].tobytes()] == [], name
