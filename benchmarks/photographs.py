"""Features of a folder of photographs, from the files to the arrays, here and in Keras 3."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import mobilenets
from benchmarks.contenders import module
from convert.references import applications

__all__ = ["contenders", "folder"]

_BATCH = 32


def folder() -> Path:
    """Photographs in a folder for each class: those of the reference data."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    data = Path(os.environ.get("MOBILENETS_REFERENCE_DATA") or beside)
    return data / "imagenet_sample"


def contenders(name: str, images: Path) -> dict[str, Callable[[], np.ndarray]]:
    """One pass over all images for each contender; it returns their features.

    `batches` is `mobilenets.images.batches` and the native model in a `tf.function`. `keras` is
    `image_dataset_from_directory` and the `predict` of keras.applications. Each decodes while it
    computes; only the first crops.
    """
    variant = mobilenets.Variant.parse(name)
    size = variant.image_size
    model = mobilenets.load(module(name))
    network = tf.function(
        lambda images: model(images, training=False), [tf.TensorSpec([None, size, size, 3])]
    )
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    ours = mobilenets.images.batches(paths, size, batch_size=_BATCH)

    application = applications.build(variant, None, library=keras)
    values = {scope: value.numpy() for scope, value in model.slim_variables.items()}
    reference = applications.reference(variant, values, None)
    application.set_weights(reference.get_weights())
    theirs = keras.Sequential(
        [
            keras.layers.Input((size, size, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            application,
        ]
    )
    dataset = keras.utils.image_dataset_from_directory(
        images,
        labels=None,
        image_size=(size, size),
        batch_size=_BATCH,
        shuffle=False,
        verbose=False,
    )
    return {
        "batches": lambda: np.concatenate([network(batch).numpy() for _, batch in ours]),
        "keras": lambda: theirs.predict(dataset, verbose=0),
    }
