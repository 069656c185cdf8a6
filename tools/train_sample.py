"""Trains the sample checkpoint: `python -m tools.train_sample`, a minute or two on two cores."""

from __future__ import annotations

from convert import quiet  # noqa: F401

# isort: split
import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

from convert.errors import ConvertError
from convert.export import bundle
from convert.files import values_by_name, write_text
from mobilenets import MobileNet, Variant
from sample import CHECKPOINT
from sample.digits import IMAGE_SIZE, NAMES, TRAINED, digits

__all__ = ["EPOCHS", "LABELS", "PREFIX", "VARIANT", "main", "save", "train"]

VARIANT = Variant("mobilenet_v1", 0.25, IMAGE_SIZE)
PREFIX = f"{VARIANT.slim_name}.ckpt"
LABELS = "labels.txt"
EPOCHS = 40

_BATCH = 32
_LEARNING_RATE = 0.01
# At a momentum of 0.99 a thousand steps are too few for the moving statistics to converge.
_BATCH_NORM_MOMENTUM = 0.9
_SEED = 0


def train(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    epochs: int = EPOCHS,
    on_epoch: Callable[[float], None] = lambda accuracy: None,
) -> MobileNet:
    """Trains the sample's network from scratch, the same way at every call.

    Adam with a cosine schedule, cross entropy and Slim's weight decay. The images are turned by
    up to 11 degrees, shifted and scaled by up to 10 %, anew in every epoch.

    Args:
      images: `[number, 64, 64, 3]`, float32 in [0, 1]; 32 or more, which is the batch size.
      labels: `[number]`, positions in `class_names`.
      class_names: One name for each logit.
      epochs: How often each image is seen.
      on_epoch: Called after each epoch with the training accuracy, in [0, 1].
    """
    keras.utils.set_random_seed(_SEED)
    model = MobileNet(VARIANT, class_names=class_names, batch_norm_momentum=_BATCH_NORM_MOMENTUM)
    augmentation = keras.Sequential(
        [
            keras.layers.RandomRotation(0.03, fill_mode="constant", seed=_SEED + 1),
            keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=_SEED + 2),
            keras.layers.RandomZoom(0.1, fill_mode="constant", seed=_SEED + 3),
        ]
    )
    batches = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images), seed=_SEED)
        .batch(_BATCH, drop_remainder=True)
        # One at a time: parallel calls would give the random numbers to other images in each run.
        .map(lambda images, labels: (augmentation(images, training=True), labels))
        .prefetch(1)
    )
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, epochs * len(batches))
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    report = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: on_epoch(logs["accuracy"])
    )
    model.fit(batches, epochs=epochs, shuffle=False, callbacks=[report], verbose=0)
    return model


def save(model: MobileNet, directory: str | os.PathLike[str]) -> Path:
    """Writes a trained model as TF-Slim would, with its class names beside it.

    Args:
      model: Compiled; its optimizer knows the number of steps.
      directory: Folder for `mobilenet_v1_0.25_64.ckpt.index`, `….data-00000-of-00001` and
        `labels.txt`.

    Returns:
      The checkpoint's prefix.

    Raises:
      ConvertError: The files cannot be written.
    """
    prefix = Path(directory) / PREFIX
    steps = np.asarray(model.optimizer.iterations, np.int64)
    bundle.write(prefix, {**values_by_name(model), "global_step": steps})
    names = "".join(f"{name}\n" for name in model.class_names or ())
    write_text(prefix.with_name(LABELS), names)
    return prefix


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, measures and writes; on an error prints one line to stderr and returns 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_sample", description="Trains the sample checkpoint."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=CHECKPOINT.parent,
        metavar="DIR",
        help="folder for the checkpoint and labels (default: the folder of the shipped ones)",
    )
    options = parser.parse_args(arguments)
    names = [NAMES[digit] for digit in TRAINED]
    images, labels, held_out, expected = digits(TRAINED)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=EPOCHS)

        def on_epoch(accuracy: float) -> None:
            progress.update(task, advance=1, description=f"training, {accuracy:.1%} right")

        model = train(images, labels, names, on_epoch=on_epoch)
    right = int(np.sum(np.argmax(model.predict(held_out, verbose=0), axis=1) == expected))
    try:
        prefix = save(model, options.output)
    except ConvertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{right / len(expected):.2%} of {len(expected)} held-out digits right ({right})")
    print(f"written: {prefix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
