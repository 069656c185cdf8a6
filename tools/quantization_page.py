"""The figures of docs/quantization.md: what each road to 8 bits loses, on real weights.

    python -m tools.quantization_page MODULE… --images DIR

rewrites the table. Every fifth photograph is held out, and the others calibrate and teach. It needs
weights and photographs that are not part of the project, and trains for some minutes, so no test
checks that the page is current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from convert import quiet  # noqa: F401
from convert.export.litert_float import float_model
from convert.export.litert_quantops import integer_model
from convert.export.litert_run import LiteModel, Outputs, lite_outputs, source_outputs
from convert.files import load_images
from mobilenets import MobileNet
from mobilenets.channel_statistics import MOST_IMAGES

from .comparison import COLUMNS, Photographs, calibration, cells, loaded, module_cells, photographs
from .markdown_page import reported, row, shown, write_table

__all__ = ["EPOCHS", "RATE", "distilled", "table"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "quantization.md"
_PARTS = 5
_BATCH = 20
# Photographs are loaded larger by this, to be cropped at random.
_MARGIN = 1.15
EPOCHS = 10
RATE = 3e-5
_HEADER = ("weights", "model", *COLUMNS, "XNNPACK")


def distilled(
    teacher: MobileNet,
    student: MobileNet,
    photos: np.ndarray,
    measured: np.ndarray,
    epochs: int,
) -> None:
    """Trains a quantized network to give its teacher's probabilities.

    Args:
      teacher: The float network.
      student: Its quantized copy, which is changed.
      photos: `[number, height, width, 3]` in [0, 1], larger than the networks' image size.
      measured: Photographs at the image size, to correct the means on after each epoch.
      epochs: Number of times that the student sees each photograph.
    """
    size = student.variant.image_size

    def varied(image: tf.Tensor) -> tf.Tensor:
        return tf.image.random_flip_left_right(tf.image.random_crop(image, [size, size, 3]))

    def distillation(wanted: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        return keras.losses.kl_divergence(tf.nn.softmax(wanted), tf.nn.softmax(found))

    images = tf.data.Dataset.from_tensor_slices(photos).shuffle(len(photos)).map(varied)
    lessons = images.batch(_BATCH).map(lambda batch: (batch, teacher(batch)))
    schedule = keras.optimizers.schedules.CosineDecay(RATE, epochs * len(lessons))
    student.dropout_rate = 0.0
    student.compile(keras.optimizers.Adam(schedule), distillation)
    corrected = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: student.correct_means(teacher, measured)
    )
    student.fit(lessons, epochs=epochs, callbacks=[corrected], verbose=0)


def table(sources: Sequence[str], photos: Photographs, folds: int, epochs: int) -> Iterator[str]:
    """The table's lines, each as soon as it is known.

    Args:
      sources: What `mobilenets.load` takes, with ImageNet's 1001 logits.
      photos: Ten or more.
      folds: In how many of the five parts of the photographs to hold out, one at a time; the
        figures are of the held-out ones of all.
      epochs: As for `distilled`.

    Raises:
      ConvertError: A module or an image cannot be read.
    """
    yield row(_HEADER)
    yield f"| --- | --- |{' ---: |' * len(COLUMNS)} --- |"
    for name, model in loaded(sources):
        size = model.variant.image_size
        images = load_images(photos.paths, size)
        larger = load_images(photos.paths, round(_MARGIN * size))
        part = np.arange(len(images)) % _PARTS
        held_out = np.concatenate([np.flatnonzero(part == fold) for fold in range(folds)])
        labels = photos.labels[held_out]
        wanted = source_outputs(model, images[held_out])
        yield row((name, "float", *module_cells(model, wanted, labels), ""))
        made: dict[str, list[bytes]] = {}
        for fold in range(folds):
            taught = np.flatnonzero(part != fold)
            for kind, content in _models(model, images[taught], larger[taught], epochs):
                made.setdefault(kind, []).append(content)
        for kind, contents in made.items():
            found = _joined(
                [
                    lite_outputs(content, images[part == fold], logits=True)
                    for fold, content in enumerate(contents)
                ]
            )
            covered = "all" if LiteModel(contents[0]).in_xnnpack else "in part"
            yield row((name, kind, *cells(model, found, wanted, labels), covered))


def _models(
    model: MobileNet, images: np.ndarray, larger: np.ndarray, epochs: int
) -> Iterator[tuple[str, bytes]]:
    """LiteRT models that know these photographs alone."""
    yield "int8, post-training", float_model(model, "int8", images=calibration(images))
    batches = np.array_split(images, -(-len(images) // _BATCH))
    measured = images[:: -(-len(images) // MOST_IMAGES)]
    for scheme in ("int8", "uint8"):
        student = model.quantized([measured, *batches], scheme=scheme)
        yield f"{scheme}, quantized", integer_model(student)
        distilled(model, student, larger, measured, epochs)
        yield f"{scheme}, distilled", integer_model(student)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return Outputs(
        np.concatenate([each.scores for each in parts]),
        np.concatenate([each.features for each in parts]),
    )


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.quantization_page", description=__doc__)
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, default=_PAGE, metavar="FILE")
    parser.add_argument("--folds", type=int, choices=range(1, _PARTS + 1), default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(0)

    def make() -> None:
        photos = photographs(options.images)
        lines = shown(table(options.modules, photos, options.folds, options.epochs))
        write_table(options.output, "figures", lines)

    return reported(make)


if __name__ == "__main__":
    sys.exit(_main())
