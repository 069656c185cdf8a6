"""Accuracy of classifiers on labelled images, and how they compare with the first of them."""

from __future__ import annotations

import collections
import contextlib
import csv as comma_separated
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from mobilenets import images
from mobilenets.published import archives
from mobilenets.variants import Variant

from . import classifiers
from .classifiers import Classifier
from .errors import ConvertError
from .files import load_images, written_beside
from .labelled import Labelled, comparable, labelled

__all__ = ["Compared", "Evaluated", "Evaluation", "Loss", "evaluate", "paired_interval"]

_PUBLISHED_CLASSES = 1001
_TOP = 5
# The normal distribution's 97.5th percentile.
_Z = 1.959964


@dataclass(frozen=True)
class Compared:
    """How a model compares with the first, on the same images.

    Attributes:
      difference: Its top-1 accuracy less the first's, in percentage points.
      low: The lower end of the difference's 95 % interval: Bonett and Price's for paired shares,
        the normal interval of McNemar's counts (images that one of both recognises) after adding
        one to each count. Unlike the plain one it has a width where both agree on all images.
      high: The upper end.
      agreement: Share of images with the same most probable class, in percent.
      mean_difference: The largest difference of a probability, over the classes, averaged over the
        images.
      worst_difference: The largest over all images.
    """

    difference: float
    low: float
    high: float
    agreement: float
    mean_difference: float
    worst_difference: float


@dataclass(frozen=True)
class Evaluated:
    """The accuracy of a model.

    Attributes:
      model: Where it was loaded from.
      variant: Hub name; None for a classifier that is not a module, and for a LiteRT model.
      bytes: What its files take on disk; None for a name or a URL.
      milliseconds: For one image at a time, the median of 30 runs without decoding: of a LiteRT
        model on one thread, of others on TensorFlow's threads.
      top1: Share of images whose class has the highest score, in percent.
      top5: Share of images whose class is among the five highest, in percent; None for a model
        with five classes or fewer.
      published_top1: The published accuracy on ILSVRC-2012's validation images, in percent; None
        if the variant was not published, or the model is not for ImageNet's 1001 classes.
      published_top5: The same for the top five.
      compared: The comparison with the first model; None for the first.
    """

    model: str
    variant: str | None
    bytes: int | None
    milliseconds: float
    top1: float
    top5: float | None
    published_top1: float | None
    published_top5: float | None
    compared: Compared | None


@dataclass(frozen=True)
class Loss:
    """A class of which another model than the first recognises fewer images.

    Attributes:
      position: Of the class among the scores.
      name: Its name; the position if the classes have no names.
      images: The number of its images.
      right: How many of them each model recognises.
      taken_for: For each model, the class that most of the images which it alone loses are taken
        for; None where it loses none, and for the first.
    """

    position: int
    name: str
    images: int
    right: list[int]
    taken_for: list[str | None]


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of one or more models on the same images.

    Attributes:
      images: Number of images.
      layout: How their classes were recognised.
      image_size: Height and width that the images were resized to, in pixels.
      crop: `"central"` for the evaluation crop, `"none"` for the whole image.
      models: The models, in the order given.
      losses: The classes that another model than the first recognises less often, the largest loss
        first.
    """

    images: int
    layout: str
    image_size: int
    crop: str
    models: list[Evaluated]
    losses: list[Loss]


def evaluate(
    sources: Sequence[str | os.PathLike[str]],
    directory: str | os.PathLike[str],
    *,
    ground_truth: str | os.PathLike[str] | None = None,
    crop: str = "central",
    batch_size: int = 32,
    image_size: int | None = None,
    csv: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measures the accuracy of classifiers; the first is what the others are compared with.

    Memory does not grow with the images, but for their names and labels.

    Args:
      sources: One or more, each as `classifiers.opened` takes it. All have the same image size and
        the same number of classes; the names of the classes are those of the first that has any.
      directory: Folder of images, as `labelled` finds them.
      ground_truth: As in `labelled`.
      crop: `"central"` for Slim's evaluation crop, with which the published figures were
        measured; `"none"` for the whole image.
      batch_size: Images at a time, 1 or more.
      image_size: In pixels; None takes the models' own.
      csv: A file to write with a line for each image: the file within `directory`, its class, and
        for each model the most probable class and its probability. An older file is replaced.
      on_progress: Called with the number of images done and the number of all, over all models.

    Raises:
      ConvertError: A model cannot be loaded, is not a classifier, is given twice, or has another
        image size or number of classes than the first; the images' classes cannot be recognised; an
        image cannot be decoded; or the file cannot be written, of which nothing is left.
    """
    models = _opened(sources, image_size)
    first = models[0]
    names = next((model.class_names for model in models if model.class_names), None)
    found = labelled(directory, first.num_classes, names, ground_truth)
    if csv is not None:
        _check_writable(found.paths, Path(directory))
    tallies = [_Tally() for _ in models]
    with contextlib.ExitStack() as stack:
        write = None
        if csv is not None:
            write = stack.enter_context(_predictions(Path(csv), Path(directory), models, names))
        _run(models, tallies, found, crop, batch_size, write, on_progress)
    return Evaluation(
        images=len(found.paths),
        layout=found.layout,
        image_size=first.image_size,
        crop=crop,
        models=[
            _evaluated(model, tally, tallies[0])
            for model, tally in zip(models, tallies, strict=True)
        ],
        losses=_losses(tallies, collections.Counter(found.labels), names),
    )


def _opened(sources: Sequence[str | os.PathLike[str]], image_size: int | None) -> list[Classifier]:
    models: list[Classifier] = []
    for given in sources:
        source = os.fspath(given)
        if source in [model.source for model in models]:
            raise ConvertError(f"{source} is given twice")
        try:
            model = classifiers.opened(source, image_size)
        except ConvertError as error:
            if source in str(error):
                raise
            raise ConvertError(f"{source}: {error}", error.argument) from error
        first = models[0] if models else model
        if model.image_size != first.image_size:
            raise ConvertError(
                f"{source} takes {model.image_size}-pixel images, but {first.source} "
                f"{first.image_size}-pixel ones: compare models of one image size"
            )
        if model.num_classes != first.num_classes:
            raise ConvertError(
                f"{source} has {model.num_classes} classes, but {first.source} "
                f"{first.num_classes}: compare models of the same classes"
            )
        _check_names(model, models)
        models.append(model)
    return models


def _check_names(model: Classifier, others: Sequence[Classifier]) -> None:
    """Refuses a model whose classes, or their order, are others than those of a model before it.

    Spellings may differ: another name at a place counts if the other model has the name elsewhere,
    or if no name is the same.
    """
    for other in others:
        if not (model.class_names and other.class_names):
            continue
        ours, theirs = _spelled(model.class_names), _spelled(other.class_names)
        same = [name == wanted for name, wanted in zip(ours, theirs, strict=True)]
        for place, name in enumerate(ours):
            if not same[place] and (name in theirs or not any(same)):
                raise ConvertError(
                    f"class {place} of {model.source} is {model.class_names[place]!r}, but of "
                    f"{other.source} {other.class_names[place]!r}: compare models of the same "
                    "classes in the same order"
                )


def _spelled(names: Sequence[str]) -> list[str]:
    """Names without what lists of the same classes differ in: spelling, and further synonyms."""
    return [comparable(name.split(",")[0]) for name in names]


@dataclass
class _Tally:
    """What is counted of a model."""

    images: int = 0
    top1: int = 0
    top5: int = 0
    agreed: int = 0
    # Images that this model recognises and the first does not, and the reverse.
    gained: int = 0
    lost: int = 0
    differences: float = 0.0
    worst: float = 0.0
    right: collections.Counter[int] = field(default_factory=collections.Counter)
    # Of the images lost, by their class and the one that they are taken for.
    mistaken: dict[int, collections.Counter[int]] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )

    def add(
        self, labels: np.ndarray, scores: np.ndarray, probabilities: np.ndarray, first: _Batch
    ) -> None:
        ranks, classes = _ranks(scores, labels), scores.argmax(1)
        right, before = classes == labels, first.classes == labels
        differences = np.abs(probabilities - first.probabilities).max(1)
        self.images += len(labels)
        self.top1 += int(right.sum())
        self.top5 += int(np.sum(ranks < _TOP))
        self.agreed += int(np.sum(classes == first.classes))
        self.gained += int(np.sum(right & ~before))
        self.lost += int(np.sum(before & ~right))
        self.differences += float(differences.sum())
        self.worst = max(self.worst, float(differences.max()))
        self.right.update(labels[right].tolist())
        for label, taken in zip(
            labels[before & ~right].tolist(), classes[before & ~right].tolist(), strict=True
        ):
            self.mistaken[label][taken] += 1


@dataclass(frozen=True)
class _Batch:
    """What the first model says of a batch."""

    classes: np.ndarray
    probabilities: np.ndarray


_Write = Callable[[Sequence[Path], Sequence[int], Sequence[np.ndarray], Sequence[np.ndarray]], None]


def _run(
    models: Sequence[Classifier],
    tallies: Sequence[_Tally],
    found: Labelled,
    crop: str,
    batch_size: int,
    write: _Write | None,
    on_progress: Callable[[int, int], None],
) -> None:
    size = models[0].image_size
    cropping: Literal["central"] | None = "central" if crop == "central" else None
    total, start, done = len(found.paths) * len(models), 0, 0
    on_progress(done, total)
    for batch in _batches(found.paths, size, cropping, batch_size):
        paths = found.paths[start : start + len(batch)]
        labels = np.array(found.labels[start : start + len(batch)])
        start += len(batch)
        classes, shares, first = [], [], None
        for model, tally in zip(models, tallies, strict=True):
            scores = model.scores(batch)
            strange = np.flatnonzero(~np.isfinite(scores).all(1))
            if len(strange):
                raise ConvertError(
                    f"{model.source}: the scores of {paths[strange[0]]} are NaN or infinite"
                )
            probabilities = model.probabilities(scores)
            first = first or _Batch(scores.argmax(1), probabilities)
            tally.add(labels, scores, probabilities, first)
            classes.append(scores.argmax(1))
            shares.append(probabilities.max(1))
            done += len(batch)
            on_progress(done, total)
        if write:
            write(paths, labels.tolist(), classes, shares)


def _batches(
    paths: Sequence[Path], size: int, crop: Literal["central"] | None, batch_size: int
) -> Iterator[np.ndarray]:
    iterator = iter(images.batches(paths, size, crop, batch_size=batch_size))
    for start in range(0, len(paths), batch_size):
        try:
            _, batch = next(iterator)
        except tf.errors.OpError as error:
            # The message of tf.data does not name the file.
            load_images(paths[start : start + batch_size], size)
            raise ConvertError(error.message) from error
        yield batch.numpy()


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes rank before the right one; of equal scores the lower position is first."""
    right = scores[np.arange(len(labels)), labels][:, np.newaxis]
    before = np.arange(scores.shape[1]) < labels[:, np.newaxis]
    return np.sum((scores > right) | ((scores == right) & before), axis=1)


def _check_writable(paths: Iterable[Path], folder: Path) -> None:
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ConvertError(
                f"{folder}: rename {name!a}: the predictions are written in UTF-8"
            ) from None


@contextlib.contextmanager
def _predictions(
    file: Path, folder: Path, models: Sequence[Classifier], names: Sequence[str] | None
) -> Iterator[_Write]:
    """Writes the file of predictions, a batch at a time."""
    columns = [f"{model.source} {what}" for model in models for what in ("class", "probability")]
    with (
        written_beside(file) as beside,
        (beside / file.name).open("w", encoding="utf-8", newline="") as text,
    ):
        writer = comma_separated.writer(text, lineterminator="\n")
        writer.writerow(["file", "class", *columns])

        def write(paths: Any, labels: Any, classes: Any, shares: Any) -> None:
            for i, (path, label) in enumerate(zip(paths, labels, strict=True)):
                row = [path.relative_to(folder).as_posix(), _name(label, names)]
                for found, share in zip(classes, shares, strict=True):
                    row += [_name(int(found[i]), names), f"{share[i]:.6f}"]
                writer.writerow(row)

        yield write


def _name(position: int, names: Sequence[str] | None) -> str:
    return names[position] if names else str(position)


def _evaluated(model: Classifier, tally: _Tally, first: _Tally) -> Evaluated:
    found = archives().get(model.variant) if model.variant else None
    if found and (
        model.num_classes != _PUBLISHED_CLASSES
        or model.image_size != Variant.parse(found.name).image_size
    ):
        found = None
    return Evaluated(
        model=model.source,
        variant=model.variant,
        bytes=model.bytes,
        milliseconds=model.latency(),
        top1=100 * tally.top1 / tally.images,
        top5=100 * tally.top5 / tally.images if model.num_classes > _TOP else None,
        published_top1=found.top1 if found else None,
        published_top5=found.top5 if found else None,
        compared=None if tally is first else _compared(tally),
    )


def _compared(tally: _Tally) -> Compared:
    low, high = paired_interval(tally.gained, tally.lost, tally.images)
    return Compared(
        difference=100 * (tally.gained - tally.lost) / tally.images,
        low=100 * low,
        high=100 * high,
        agreement=100 * tally.agreed / tally.images,
        mean_difference=tally.differences / tally.images,
        worst_difference=tally.worst,
    )


def paired_interval(gained: int, lost: int, images: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares of the same images.

    Bonett and Price's (2012): the normal interval of McNemar's two counts, each raised by one, of
    two images more.

    Args:
      gained: Images that only the second model recognises.
      lost: Images that only the first model recognises.
      images: All images.
    """
    more, fewer = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    middle = more - fewer
    width = _Z * math.sqrt((more + fewer - middle**2) / (images + 2))
    return max(middle - width, -1.0), min(middle + width, 1.0)


def _losses(
    tallies: Sequence[_Tally], images: collections.Counter[int], names: Sequence[str] | None
) -> list[Loss]:
    losses = []
    for position, count in images.items():
        right = [tally.right[position] for tally in tallies]
        if min(right) == right[0]:
            continue
        taken_for = [
            _name(tally.mistaken[position].most_common(1)[0][0], names)
            if position in tally.mistaken
            else None
            for tally in tallies
        ]
        losses.append(Loss(position, _name(position, names), count, right, taken_for))
    return sorted(losses, key=lambda loss: (min(loss.right) - loss.right[0], loss.position))
