"""Top-1 and top-5 accuracy of a module on labelled images, beside what was published."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from convert.download import archives
from convert.errors import ConvertError
from convert.files import load_module
from mobilenets import images

__all__ = ["Evaluation", "Labelled", "evaluate", "labelled"]

_IMAGE = re.compile(r"[^.].*\.(?:jpe?g|png|bmp|gif)", re.IGNORECASE)
_SYNSET = re.compile(r"n\d{8}")
_ILSVRC_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+", re.IGNORECASE)
_ILSVRC_CLASSES = 1000
_TOP = 5


@dataclass(frozen=True)
class Labelled:
    """Images and the class of each.

    Attributes:
      paths: The files, in sorted order.
      labels: For each file the position of its class among the logits.
      layout: How the classes were told, in words.
    """

    paths: list[Path]
    labels: list[int]
    layout: str


@dataclass(frozen=True)
class Evaluation:
    """What a module recognises.

    Attributes:
      module: Where it was loaded from.
      variant: Hub name.
      images: Number of images.
      layout: How their classes were told.
      image_size: Height and width that they were brought to, in pixels.
      crop: `"central"` for the evaluation crop, `"none"` for the whole image.
      top1: Share of images whose class has the highest logit, in percent.
      top5: Share of images whose class is among the five highest, in percent; None for a module
        with five classes or fewer.
      published_top1: The published accuracy on ILSVRC-2012's validation images, in percent; None
        if the variant was not published, or the module is not for ImageNet's 1001 classes.
      published_top5: The same for the top five.
    """

    module: str
    variant: str
    images: int
    layout: str
    image_size: int
    crop: str
    top1: float
    top5: float | None
    published_top1: float | None
    published_top5: float | None


def labelled(
    directory: str | os.PathLike[str],
    num_classes: int,
    class_names: Sequence[str] | None = None,
    ground_truth: str | os.PathLike[str] | None = None,
) -> Labelled:
    """Finds the images of a folder, and what they show.

    Folders of images may be called like the classes (`_` stands for a space, capitals do not
    matter), by the positions of the classes among the logits, or by ImageNet's 1,000 synsets
    (`n01440764`), whose sorted order is that of the classes; logits that are 1,001 begin with
    `background`. For a module whose classes have no names, any other folders are its classes in
    alphabetical order, as `keras.utils.image_dataset_from_directory` numbers them.

    ImageNet's validation images, `ILSVRC2012_val_00000001.JPEG` and so on in one folder, need a
    file of ground truth: a synset a line, in the order of the images' numbers, such as Slim's
    `imagenet_2012_validation_synset_labels.txt`.

    Raises:
      ConvertError: There are no images, or their classes cannot be told.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise ConvertError(f"--images {folder}: no such folder")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = {path.name: _images_in(path) for path in inside if path.is_dir()}
    folders = {name: files for name, files in folders.items() if files}
    flat = [path for path in inside if path.is_file() and _IMAGE.fullmatch(path.name)]
    if ground_truth is not None:
        if not flat:
            raise ConvertError(f"--ground-truth is for images in one folder; {folder} has none")
        labels = _from_ground_truth(flat, Path(ground_truth), num_classes)
        return Labelled(flat, labels, f"ground truth of {os.path.basename(ground_truth)}")
    if not folders:
        found = "images, but no folder for each class" if flat else "no images"
        raise ConvertError(
            f"--images {folder} has {found}: put them into folders called like their classes, or "
            "for ImageNet's validation images give --ground-truth"
        )
    positions, layout = _positions(folder, list(folders), num_classes, class_names)
    pairs = [(path, positions[name]) for name, files in folders.items() for path in files]
    return Labelled([path for path, _ in pairs], [label for _, label in pairs], layout)


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if _IMAGE.fullmatch(path.name) and path.is_file()
    )


def _positions(
    folder: Path, found: list[str], num_classes: int, class_names: Sequence[str] | None
) -> tuple[dict[str, int], str]:
    """The position among the logits of each folder's class, and how it was told."""
    names = [_comparable(name) for name in class_names or ()]
    unknown = [name for name in found if _comparable(name) not in names]
    if not unknown:
        for name in found:
            if names.count(_comparable(name)) > 1:
                raise ConvertError(
                    f"{folder / name}: several classes have that name; call the folders by the "
                    "positions of the classes among the logits"
                )
        return {name: names.index(_comparable(name)) for name in found}, "folders by name"
    if all(name.isdecimal() for name in found):
        return _numbers(folder, found, num_classes), "folders by position"
    if all(_SYNSET.fullmatch(name) for name in found):
        return _synset_positions(str(folder), found, num_classes), "folders by synset"
    if class_names is not None:
        raise ConvertError(
            f"{folder}: the module has no class called {_first_few(unknown)}; its {num_classes} "
            f"classes are {_first_few(list(class_names))}"
        )
    if len(found) != num_classes:
        raise ConvertError(
            f"{folder} has {len(found)} folders for the module's {num_classes} unnamed classes: "
            "call them by the positions of the classes, from 0"
        )
    order = {name: position for position, name in enumerate(sorted(found))}
    return order, "folders in alphabetical order"


def _numbers(folder: Path, found: list[str], num_classes: int) -> dict[str, int]:
    numbers = {name: int(name) for name in found}
    if max(numbers.values()) >= num_classes:
        raise ConvertError(
            f"{folder / max(found, key=int)}: the module has {num_classes} classes, from 0 to "
            f"{num_classes - 1}"
        )
    if num_classes == _ILSVRC_CLASSES + 1 and sorted(numbers.values()) == [*range(1000)]:
        raise ConvertError(
            f"{folder} has folders 0 to 999, but the module's class 0 is the background: "
            "call them 1 to 1000"
        )
    return numbers


def _comparable(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _first_few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _synset_positions(where: str, synsets: Sequence[str], num_classes: int) -> dict[str, int]:
    """ImageNet's classes are in the order of their synsets, perhaps after the background."""
    background = num_classes - _ILSVRC_CLASSES
    if background not in (0, 1):
        raise ConvertError(f"{where} is of ImageNet, but the module has {num_classes} classes")
    order = sorted(set(synsets))
    if len(order) != _ILSVRC_CLASSES:
        raise ConvertError(
            f"{where} has {len(order)} synsets: only all 1000 tell which class each is; call the "
            "folders of a part by the names of the classes"
        )
    return {synset: position for position, synset in enumerate(order, background)}


def _from_ground_truth(paths: Sequence[Path], file: Path, num_classes: int) -> list[int]:
    try:
        synsets = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConvertError(f"--ground-truth {file} cannot be read: {error}") from None
    strange = next((synset for synset in synsets if not _SYNSET.fullmatch(synset)), None)
    if strange is not None:
        # The numbers of ImageNet's devkit are in another order than the classes.
        raise ConvertError(
            f"--ground-truth {file}: {strange!r} is no synset; expected one a line, as in Slim's "
            "imagenet_2012_validation_synset_labels.txt"
        )
    positions = _synset_positions(f"--ground-truth {file}", synsets, num_classes)
    labels = []
    for path in paths:
        match = _ILSVRC_NUMBER.fullmatch(path.name)
        if match is None or not 1 <= int(match[1]) <= len(synsets):
            raise ConvertError(
                f"{path} has no line in --ground-truth {file}: expected "
                f"ILSVRC2012_val_00000001.JPEG to {len(synsets):08}"
            )
        labels.append(positions[synsets[int(match[1]) - 1]])
    return labels


def evaluate(
    module: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    ground_truth: str | os.PathLike[str] | None = None,
    crop: str = "central",
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measures the accuracy of a classification module.

    Args:
      module: What `mobilenets.load` takes.
      directory: Folder of images, as `labelled` finds them.
      ground_truth: As in `labelled`.
      crop: `"central"` for Slim's evaluation crop, with which the published figures were
        measured; `"none"` for the whole image.
      batch_size: Images at a time, 1 or more.
      on_progress: Told the number of images that are done, and of all.

    Raises:
      ConvertError: The module cannot be loaded or has no logits, the images' classes cannot be
        told, or an image cannot be decoded.
    """
    model = load_module(module)
    if model.num_classes is None:
        raise ConvertError(f"{module} is a feature vector: evaluate its classification")
    found = labelled(directory, model.num_classes, model.class_names, ground_truth)
    size = model.variant.image_size
    predict = tf.function(
        lambda batch: model(batch, training=False),
        input_signature=[tf.TensorSpec([None, size, size, 3])],
    )
    cropping: Literal["central"] | None = "central" if crop == "central" else None
    total, done = len(found.paths), 0
    ranks: list[np.ndarray] = []
    on_progress(done, total)
    for batch in _batches(found.paths, size, cropping, batch_size):
        labels = found.labels[done : done + len(batch)]
        ranks.append(_ranks(predict(batch).numpy(), np.array(labels)))
        done += len(batch)
        on_progress(done, total)
    rank = np.concatenate(ranks)
    published = archives().get(model.variant.name)
    if model.num_classes != _ILSVRC_CLASSES + 1:
        published = None
    return Evaluation(
        module=os.fspath(module),
        variant=model.variant.name,
        images=total,
        layout=found.layout,
        image_size=size,
        crop=crop,
        top1=100 * float(np.mean(rank < 1)),
        top5=100 * float(np.mean(rank < _TOP)) if model.num_classes > _TOP else None,
        published_top1=published.top1 if published else None,
        published_top5=published.top5 if published else None,
    )


def _batches(
    paths: Sequence[Path], size: int, crop: Literal["central"] | None, batch_size: int
) -> Iterator[tf.Tensor]:
    dataset = tf.data.Dataset.from_tensor_slices([os.fspath(path) for path in paths])
    dataset = dataset.map(
        lambda path: images.load(path, size, crop), num_parallel_calls=tf.data.AUTOTUNE
    )
    iterator = iter(dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE))
    for start in range(0, len(paths), batch_size):
        try:
            batch = next(iterator)
        except tf.errors.OpError as error:
            # tf.data does not say which file it was.
            try:
                images.load_batch(paths[start : start + batch_size], size)
            except ValueError as named:
                raise ConvertError(str(named)) from error
            raise
        yield batch


def _ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one; among equal logits the lower position does."""
    right = logits[np.arange(len(labels)), labels][:, np.newaxis]
    before = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    return np.sum((logits > right) | ((logits == right) & before), axis=1)
