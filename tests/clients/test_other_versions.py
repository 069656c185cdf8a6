"""Files that one version of TensorFlow and Keras wrote, read by another.

`make test-versions` names the folders of other versions; without it this version reads its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow_hub as hub
from tiers import slow

import mobilenets
from mobilenets import MobileNet
from tools import version_files, versions

OTHERS = [folder for folder in os.environ.get(versions.FILES_OF, "").split(os.pathsep) if folder]

# Versions of TensorFlow bring other kernels: rounding differs.
close = {"rtol": 1e-4, "atol": 1e-5}
# A value midway between two of 8 bits can round the other way.
STEPS = 3

OWN = "own"
CASES = [(folder, name) for folder in OTHERS for name in version_files.VARIANTS]
CASES = CASES or [slow(OWN, name) for name in version_files.VARIANTS]


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_every_format(folder: str, name: str, tmp_path: Path, inference_alone: Callable) -> None:
    place = tmp_path if folder == OWN else Path(folder, name)
    if folder == OWN:
        with inference_alone():
            version_files.write(tmp_path, name)
    values = np.load(place / "values.npz")
    images, logits = values["images"], values["logits"]
    assert np.ptp(logits, axis=0).max() > 0.1
    if name == "quantops":
        tolerance = {"rtol": 0, "atol": STEPS * float(np.ptp(logits)) / 255}
    else:
        tolerance = close

    def same(found: object, expected: np.ndarray = logits) -> None:
        np.testing.assert_allclose(np.asarray(found), expected, **tolerance)

    loaded = mobilenets.load(place / "module")
    same(loaded(images))
    assert loaded.class_names == version_files.CLASSES
    same(hub.KerasLayer(str(place / "module"), trainable=True)(images))
    same(keras.models.load_model(place / "model.keras")(images))
    same(mobilenets.load(place / "model.keras")(images))
    model = MobileNet(version_files.VARIANTS[name], class_names=version_files.CLASSES)
    model(images)
    model.load_weights(place / "model.weights.h5")
    same(model(images))
    for path, variable in loaded.slim_variables.items():
        np.testing.assert_array_equal(model.slim_variables[path].numpy(), variable.numpy(), path)
    same(keras.models.load_model(place / "nested.keras")(images), values["nested"])
    head = version_files.head_on(model.with_classes())
    head(images)
    head.load_weights(place / "head.weights.h5")
    same(head(images), values["head"])
