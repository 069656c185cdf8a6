"""How a network's lower precision compares with its float32, on labelled photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.evaluate import paired_interval
from convert.export.litert_run import Outputs, cosines, probabilities
from convert.files import load_module
from convert.labelled import labelled
from mobilenets import MobileNet

__all__ = [
    "COLUMNS",
    "EXPLAINED",
    "Photographs",
    "calibration",
    "cells",
    "loaded",
    "module_cells",
    "photographs",
]

_CLASSES = 1001
_CALIBRATED = 125
# The normal distribution's 97.5th percentile.
_Z = 1.959964
COLUMNS = ("top-1", "difference", "same class", "mean Δp", "lowest cosine")
EXPLAINED = """- Top-1: the share of photographs whose most probable class is right.
- Difference: of top-1 from the module's, in percentage points, with its paired 95 % interval
  (Bonett and Price's, as in `convert evaluate`).
- Same class: the share of photographs with the module's most probable class, with its 95 % interval
  (Wilson's).
- Mean Δp: the largest difference of a probability, over the classes, averaged over the photographs.
- Lowest cosine: between the model's features and the module's, over all photographs."""


@dataclass(frozen=True)
class Photographs:
    """Photographs of ImageNet's classes.

    Attributes:
      paths: The files.
      labels: The position of each one's class among 1001 logits.
    """

    paths: list[Path]
    labels: np.ndarray


def photographs(directory: Path) -> Photographs:
    """Those of a folder of folders that are named after ImageNet's synsets.

    Raises:
      ConvertError: As for `labelled`.
    """
    found = labelled(directory, _CLASSES)
    return Photographs(found.paths, np.array(found.labels))


def calibration(images: np.ndarray) -> np.ndarray:
    """At most 125 of the images, evenly spaced, to calibrate on."""
    count = min(len(images), _CALIBRATED)
    return images[np.linspace(0, len(images) - 1, count).round().astype(int)]


def loaded(sources: Sequence[str]) -> Iterator[tuple[str, MobileNet]]:
    """Each model, after its name in a table; a second one of a variant is named with its folder.

    Raises:
      ConvertError: A source cannot be read.
    """
    named: set[str] = set()
    for source in sources:
        model = load_module(source)
        name = f"`{model.variant}`"
        if name in named:
            name += f", {Path(source).resolve().parent.name}"
        named.add(name)
        yield name, model


def module_cells(model: MobileNet, wanted: Outputs, labels: np.ndarray) -> list[str]:
    """The cells of the module itself, by `COLUMNS`."""
    top1 = "" if model.num_classes != _CLASSES else _share(wanted.scores.argmax(1) == labels)
    return [top1, *[""] * (len(COLUMNS) - 1)]


def cells(model: MobileNet, found: Outputs, wanted: Outputs, labels: np.ndarray) -> list[str]:
    """The cells of a lower precision, by `COLUMNS`.

    Args:
      model: The module; without 1001 classes there is only the cosine.
      found: What the lower precision says of the photographs.
      wanted: What the module says.
      labels: The position of each photograph's class.
    """
    cosine = f"{cosines(found.features, wanted.features).min():.4f}"
    if model.num_classes != _CLASSES:
        return [*[""] * (len(COLUMNS) - 1), cosine]
    classes, others = found.scores.argmax(1), wanted.scores.argmax(1)
    right, before = classes == labels, others == labels
    low, high = paired_interval(int(sum(right & ~before)), int(sum(before & ~right)), len(labels))
    difference = np.mean(right) - np.mean(before)
    least, most = _wilson(classes == others)
    moved = np.abs(probabilities(found.scores) - probabilities(wanted.scores)).max(1).mean()
    return [
        _share(right),
        f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        f"{_share(classes == others)} ({100 * least:.1f} to {100 * most:.1f})",
        f"{moved:.4f}",
        cosine,
    ]


def _share(which: np.ndarray) -> str:
    return f"{100 * np.mean(which):.1f} %"


def _wilson(which: np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, weight = np.mean(which), _Z**2 / len(which)
    centre = (share + weight / 2) / (1 + weight)
    half = np.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return float(centre - half), float(centre + half)
