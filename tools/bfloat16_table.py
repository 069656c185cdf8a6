"""The table of docs/speed.md on what bfloat16 costs: modules against their own float32.

    python -m tools.bfloat16_table MODULE… --images DIR

writes it anew. It needs weights and photographs that are not part of the project, and a processor
with bfloat16, so no test checks that the table is current.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from convert import quiet  # noqa: F401  # before anything loads TensorFlow

# isort: split
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

import mobilenets
from convert.export.litert_run import Outputs
from convert.files import load_images
from mobilenets import MobileNet, architecture

from .comparison import COLUMNS, Photographs, cells, loaded, photographs
from .markdown_page import reported, row, shown, write_table

__all__ = ["table"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "speed.md"
_SWITCH = "auto_mixed_precision_onednn_bfloat16"
_BATCH = 20


def table(sources: Sequence[str], photos: Photographs) -> Iterator[str]:
    """The lines, each as soon as it is known.

    Args:
      sources: What `mobilenets.load` takes, float modules.
      photos: One or more.

    Raises:
      ConvertError: A module or an image cannot be read.
    """
    yield row(("weights", *COLUMNS))
    yield f"| --- |{' ---: |' * len(COLUMNS)}"
    for name, model in loaded(sources):
        images = load_images(photos.paths, model.variant.image_size)
        with tempfile.TemporaryDirectory() as folder:
            mobilenets.save(model, folder)
            wanted, found = (_outputs(folder, model, images, switch) for switch in (False, True))
        yield row((name, *cells(model, found, wanted, photos.labels)))


def _outputs(folder: str, model: MobileNet, images: np.ndarray, bfloat16: bool) -> Outputs:
    """What a saved module says of images, with TensorFlow's switch on or off."""
    tf.config.optimizer.set_experimental_options({_SWITCH: bfloat16})
    try:
        # Loaded anew: a function that has run keeps the precision that it ran in.
        module = hub.load(folder)
        pool = f"{architecture.scope(model.variant.family)}/global_pool"
        scores, features = [], []
        for start in range(0, len(images), _BATCH):
            endpoints = module(images[start : start + _BATCH], False, True)
            scores.append(endpoints["default"].numpy())
            features.append(endpoints[pool].numpy()[:, 0, 0])
        return Outputs(*(np.concatenate(each).astype(np.float64) for each in (scores, features)))
    finally:
        tf.config.optimizer.set_experimental_options({_SWITCH: False})


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bfloat16_table", description=__doc__)
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR")
    options = parser.parse_args(arguments)

    def make() -> None:
        lines = shown(table(options.modules, photographs(options.images)))
        write_table(_PAGE, "bfloat16", lines)

    return reported(make)


if __name__ == "__main__":
    sys.exit(_main())
