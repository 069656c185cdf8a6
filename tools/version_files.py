"""Writes a model of each kind in each format: `python -m tools.version_files FOLDER`.

`tools.versions` runs this in one environment and reads the files in the others.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# isort: split
import math
import sys
from pathlib import Path

import keras
import numpy as np

import mobilenets
from mobilenets import MobileNet, Variant

__all__ = ["CLASSES", "VARIANTS", "head_on", "write"]

VARIANTS = {
    "v1": Variant("mobilenet_v1", 0.25, 32),
    "v2": Variant("mobilenet_v2", 0.35, 32),
    "quantops": Variant("mobilenet_v1", 0.25, 32, quantized=True),
}
CLASSES = ("cat", "dog", "owl")


def head_on(features: MobileNet) -> keras.Model:
    """A classifier of two classes on features."""
    return keras.Sequential([features, keras.layers.Dense(2)])


def write(folder: str | os.PathLike[str], name: str) -> None:
    """Writes `module`, `model.keras`, `model.weights.h5`, `nested.keras`, `head.weights.h5`.

    `values.npz` beside them has `images`, `[4, 32, 32, 3]` float32 in [0, 1], and the outputs for
    them: of the model, `logits`; of the model in a Sequential one, `nested`; and of its features
    with a Dense layer, `head`, whose `.keras` file only Keras of the same age reads.

    Args:
      folder: Where the files go; made if absent.
      name: One of `VARIANTS`.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    images = random.uniform(size=(4, 4, 4, 3)).astype(np.float32).repeat(8, 1).repeat(8, 2)
    keras.utils.set_random_seed(0)
    model = MobileNet(VARIANTS[name], class_names=CLASSES)
    for path, variable in model.slim_variables.items():
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.6, 1.4, variable.shape))
        elif variable.name in ("weights", "depthwise_weights"):
            # Keeps the scale of the activations: outputs near 0 would be equal whatever was read.
            shape = variable.shape
            fan_in = math.prod(shape[:2] if "depthwise" in path else shape[:3])
            scale = 10 if "Logits" in path else 1.4
            variable.assign(random.normal(0, scale / math.sqrt(fan_in), shape))
    nested = keras.Sequential([keras.layers.Rescaling(0.5), model])
    head = head_on(model.with_classes())
    outputs = {"logits": model, "nested": nested, "head": head}
    values = {key: np.asarray(each(images)) for key, each in outputs.items()}
    np.savez(target / "values.npz", allow_pickle=False, images=images, **values)
    mobilenets.save(model, target / "module")
    model.save(target / "model.keras")
    model.save_weights(target / "model.weights.h5")
    nested.save(target / "nested.keras")
    head.save_weights(target / "head.weights.h5")


if __name__ == "__main__":
    for each in VARIANTS:
        write(Path(sys.argv[1], each), each)
