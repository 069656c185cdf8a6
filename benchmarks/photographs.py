"""Folders of photographs: from the files to their features, and to a trained head."""

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

__all__ = ["contenders", "folder", "heads"]

_BATCH = 32


def folder(name: str) -> Path:
    """Photographs of the reference data, in a folder for each class."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    data = Path(os.environ.get("MOBILENETS_REFERENCE_DATA") or beside)
    return data / name


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


def heads(name: str, images: Path, epochs: int) -> dict[str, Callable[[], object]]:
    """From files to a trained head on a frozen network, for each contender.

    `features once` computes the features in the first epoch and keeps them; `in every epoch` trains
    the network and its head as one model, of which only the head is trainable.
    """
    size = mobilenets.Variant.parse(name).image_size
    network = mobilenets.load(module(name), trainable=False)

    def trained(once: bool) -> keras.Model:
        dataset = keras.utils.image_dataset_from_directory(
            images, image_size=(size, size), batch_size=_BATCH, seed=0, verbose=False
        )
        head = [keras.layers.Dense(len(dataset.class_names), kernel_initializer="zeros")]
        if once:
            dataset = dataset.map(lambda images, labels: (network(images / 255), labels)).cache()
        else:
            head = [keras.layers.Rescaling(1 / 255), network, *head]
        model = keras.Sequential(head)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.2, momentum=0.9), loss)
        model.fit(dataset, epochs=epochs, verbose=0)
        return model

    return {"features once": lambda: trained(True), "in every epoch": lambda: trained(False)}
