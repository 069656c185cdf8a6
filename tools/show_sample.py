"""Shows that the converted sample works: `python -m tools.show_sample MODULE --output PICTURE`.

The module is loaded as users load one, with `hub.KerasLayer`, and classifies the held-out digits.
"""

from __future__ import annotations

from convert import quiet  # noqa: F401

# isort: split
import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich import box
from rich.console import Console
from rich.table import Table

from convert.errors import ConvertError, first_line
from convert.files import written_beside
from mobilenets.images import decode_predictions
from sample.digits import NAMES, TRAINED, digits

__all__ = ["main", "show"]

_COLUMNS = 10
_INK, _WRONG = "#222222", "#c1121f"

# Hides matplotlib's message about searching fonts on a new machine.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def show(module: str | os.PathLike[str], picture: str | os.PathLike[str]) -> float:
    """Classifies the held-out digits, prints a table of the results and draws a picture.

    Args:
      module: Folder of the sample's classification module; a feature vector in the folder
        `feature_vector` beside it is tried too.
      picture: The PNG file to write; folders are created.

    Returns:
      The share of held-out digits classified correctly, in [0, 1].

    Raises:
      ConvertError: The folder holds another module or none, or the picture cannot be written.
    """
    directory = Path(module).resolve()
    layer = _load(directory)
    names = tuple(NAMES[digit] for digit in TRAINED)
    found = _class_names(layer)
    if found != names:
        raise ConvertError(
            f"{directory} is not the sample's classification module: expected the classes "
            f"{', '.join(names)}; found {', '.join(found[:5]) or 'none'}{'…' * (len(found) > 5)}"
        )
    _, _, images, labels = digits(TRAINED)
    logits = np.asarray(layer(images))
    right = np.argmax(logits, axis=1) == labels
    accuracy = float(right.mean())

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_row("module", f"{directory.parent.name}/{directory.name}")
    table.add_row("held-out digits", f"{len(labels)} images, {images.shape[1]}x{images.shape[2]}")
    table.add_row("accuracy", f"{accuracy:.1%} ({right.sum()} right)", style="bold")
    table.add_row("logits", _shape(logits))
    features = directory.with_name("feature_vector")
    if features.is_dir():
        table.add_row("feature vector", _shape(_load(features)(images)))
    trainable, every = layer.trainable_variables, layer.variables
    numbers = sum(variable.shape.num_elements() for variable in trainable)
    table.add_row(
        "trainable", f"{len(trainable)} of {len(every)} variables, {numbers:,} parameters"
    )
    _write(_draw(images, labels, logits, names), Path(picture))
    table.add_row("picture", str(picture))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    return accuracy


def _load(directory: Path) -> hub.KerasLayer:
    if not (directory / "saved_model.pb").is_file():
        raise ConvertError(f"{directory} holds no SavedModel: make convert-sample writes one")
    try:
        return hub.KerasLayer(str(directory), trainable=True)
    except Exception as error:
        # TensorFlow raises many unrelated exception types for damaged files.
        raise ConvertError(f"{directory} cannot be loaded: {first_line(error)}") from error


def _class_names(layer: hub.KerasLayer) -> tuple[str, ...]:
    asset = getattr(layer.resolved_object, "class_names", None)
    if asset is None:
        return ()
    return tuple(Path(asset.asset_path.numpy().decode()).read_text("utf-8").splitlines())


def _shape(outputs: np.ndarray) -> str:
    return f"[{', '.join(map(str, outputs.shape))}]"


def _draw(
    images: np.ndarray, labels: np.ndarray, logits: np.ndarray, names: Sequence[str]
) -> Figure:
    """A row for each class: the images whose class the network finds least probable, in order."""
    predictions = [best for (best,) in decode_predictions(logits, 1, names)]
    every = np.arange(len(labels))
    # Logarithms in double precision, since probabilities near 1 would round to the same value.
    sureness = tf.nn.log_softmax(logits.astype(np.float64)).numpy()[every, labels]
    figure = Figure(figsize=(1.15 * _COLUMNS, 1.5 * len(names) + 0.6), layout="constrained")
    axes = figure.subplots(len(names), _COLUMNS, squeeze=False)
    for label, row in enumerate(axes):
        members = np.flatnonzero(labels == label)
        chosen = members[np.argsort(sureness[members], kind="stable")]
        for axis in row:
            axis.set_axis_off()
        for axis, index in zip(row, chosen, strict=False):
            best = predictions[index]
            wrong = best.index != label
            axis.imshow(images[index])
            axis.set_title(
                (f"{best.name}, not {names[label]}" if wrong else best.name)
                + f"\n{_percent(best.probability)}",
                fontsize=8 if wrong else 10,
                color=_WRONG if wrong else _INK,
                fontweight="bold" if wrong else "normal",
            )
            if wrong:
                frame = Rectangle((0, 0), 1, 1, transform=axis.transAxes)
                frame.set(fill=False, edgecolor=_WRONG, linewidth=5)
                axis.add_patch(frame)
    right = sum(best.index == label for best, label in zip(predictions, labels, strict=True))
    figure.suptitle(
        f"{right / len(labels):.1%} of {len(labels)} held-out digits right\n"
        f"The {_COLUMNS} least certain images of each digit; errors in red",
        fontsize=13,
    )
    return figure


def _percent(probability: float) -> str:
    """The probability in percent; never rounded up to 100 %."""
    return ">99.9%" if probability > 0.999 else f"{probability:.1%}"


def _write(figure: Figure, path: Path) -> None:
    with written_beside(path) as folder:
        figure.savefig(
            folder / path.name, format="png", dpi=100, bbox_inches="tight", pad_inches=0.15
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `show`; on an error prints one line to stderr and returns 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.show_sample",
        description="Classifies held-out digits with the converted sample.",
    )
    parser.add_argument("module", metavar="MODULE_DIR", help="the classification module's folder")
    parser.add_argument(
        "--output", required=True, metavar="PICTURE.png", help="the picture to draw"
    )
    options = parser.parse_args(arguments)
    try:
        show(options.module, options.output)
    except ConvertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
