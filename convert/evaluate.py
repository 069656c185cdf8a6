"""Top-1 and top-5 accuracy of a module on labelled images, beside the published accuracy."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from mobilenets import images
from mobilenets.published import archives

from .errors import ConvertError
from .files import load_images, load_module
from .image_files import images_in, is_image

__all__ = ["Evaluation", "Labelled", "evaluate", "labelled"]

_SYNSET = re.compile(r"n\d{8}")
_ILSVRC_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+", re.IGNORECASE)
_ILSVRC_CLASSES = 1000
_TOP = 5


@dataclass(frozen=True)
class Labelled:
    """Images and the class of each.

    Attributes:
      paths: The files, in sorted order.
      labels: The position of each file's class among the logits.
      layout: How the classes were recognised, in words.
    """

    paths: list[Path]
    labels: list[int]
    layout: str


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a module.

    Attributes:
      module: Where it was loaded from.
      variant: Hub name.
      images: Number of images.
      layout: How their classes were recognised.
      image_size: Height and width that the images were resized to, in pixels.
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
    """Finds the images of a folder and the class of each.

    Folders of images may be named after the classes (`_` stands for a space, case does not
    matter), after the positions of the classes among the logits, or after ImageNet's 1,000 synsets
    (`n01440764`), whose sorted order is the order of the classes; 1,001 logits begin with
    `background`. For a module whose classes have no names, folders of any other name are the
    classes in alphabetical order, as `keras.utils.image_dataset_from_directory` numbers them.

    ImageNet's validation images, `ILSVRC2012_val_00000001.JPEG` and so on in one folder, need a
    file of ground truth: one synset per line, in the order of the images' numbers, such as Slim's
    `imagenet_2012_validation_synset_labels.txt`.

    Raises:
      ConvertError: There are no images, or their classes cannot be recognised.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise ConvertError(f"{folder}: no such folder", "images")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = {path.name: images_in(path) for path in inside if path.is_dir()}
    folders = {name: files for name, files in folders.items() if files}
    flat = [path for path in inside if is_image(path)]
    if ground_truth is not None:
        if not flat:
            raise ConvertError(
                f"ground truth is for images in one folder; {folder} has none", "ground_truth"
            )
        labels = _from_ground_truth(flat, Path(ground_truth), num_classes)
        return Labelled(flat, labels, f"ground truth of {os.path.basename(ground_truth)}")
    if not folders:
        found = "images, but no folder for each class" if flat else "no images"
        raise ConvertError(
            f"{folder} has {found}: put the images into folders named after their classes, or, for "
            "ImageNet's validation images, pass the ground truth",
            "ground_truth",
        )
    positions, layout = _positions(folder, list(folders), num_classes, class_names)
    pairs = [(path, positions[name]) for name, files in folders.items() for path in files]
    return Labelled([path for path, _ in pairs], [label for _, label in pairs], layout)


def _positions(
    folder: Path, found: list[str], num_classes: int, class_names: Sequence[str] | None
) -> tuple[dict[str, int], str]:
    """The position among the logits of each folder's class, and how it was recognised."""
    names = [_comparable(name) for name in class_names or ()]
    unknown = [name for name in found if _comparable(name) not in names]
    if not unknown:
        for name in found:
            if names.count(_comparable(name)) > 1:
                raise ConvertError(
                    f"{folder / name}: several classes have that name; name the folders "
                    "after the positions of the classes among the logits"
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
            "name the folders after the positions of the classes, from 0"
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
            "name the folders 1 to 1000"
        )
    return numbers


def _comparable(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _first_few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _synset_positions(where: str, synsets: Sequence[str], num_classes: int) -> dict[str, int]:
    """The position of each synset: in sorted order, after the background if there is one."""
    background = num_classes - _ILSVRC_CLASSES
    if background not in (0, 1):
        raise ConvertError(
            f"{where} has ImageNet's synsets, but the module has {num_classes} classes"
        )
    order = sorted(set(synsets))
    if len(order) != _ILSVRC_CLASSES:
        raise ConvertError(
            f"{where} has {len(order)} synsets: only all 1000 together tell the classes; name the "
            "folders of a subset after the classes"
        )
    return {synset: position for position, synset in enumerate(order, background)}


def _from_ground_truth(paths: Sequence[Path], file: Path, num_classes: int) -> list[int]:
    try:
        synsets = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConvertError(f"{file} cannot be read: {error}", "ground_truth") from None
    strange = next((synset for synset in synsets if not _SYNSET.fullmatch(synset)), None)
    if strange is not None:
        # ImageNet's devkit has numbers instead, in another order than the classes.
        raise ConvertError(
            f"{file}: {strange!r} is not a synset; expected one synset per line, as in Slim's "
            "imagenet_2012_validation_synset_labels.txt",
            "ground_truth",
        )
    positions = _synset_positions(str(file), synsets, num_classes)
    labels = []
    for path in paths:
        match = _ILSVRC_NUMBER.fullmatch(path.name)
        if match is None or not 1 <= int(match[1]) <= len(synsets):
            raise ConvertError(
                f"{path} has no line in {file}: expected names from "
                f"ILSVRC2012_val_00000001.JPEG to {len(synsets):08}",
                "ground_truth",
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
      on_progress: Called with the number of images done and the number of all images.

    Raises:
      ConvertError: The module cannot be loaded or has no logits, the images' classes cannot be
        recognised, or an image cannot be decoded.
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
            # The message of tf.data does not name the file.
            load_images(paths[start : start + batch_size], size)
            raise ConvertError(error.message) from error
        yield batch


def _ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes rank before the right one; of equal logits the lower position is first."""
    right = logits[np.arange(len(labels)), labels][:, np.newaxis]
    before = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    return np.sum((logits > right) | ((logits == right) & before), axis=1)
