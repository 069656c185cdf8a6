"""Labelled images: which files, and the class of each."""

from __future__ import annotations

import functools
import importlib.resources
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ConvertError
from .image_files import images_in, is_image

__all__ = ["Labelled", "comparable", "labelled", "synsets"]

_SYNSET = re.compile(r"n\d{8}")
_ILSVRC_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+", re.IGNORECASE)
_ILSVRC_CLASSES = 1000


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


def labelled(
    directory: str | os.PathLike[str],
    num_classes: int,
    class_names: Sequence[str] | None = None,
    ground_truth: str | os.PathLike[str] | None = None,
) -> Labelled:
    """Finds the images of a folder and the class of each.

    Folders of images may be named after the classes (`_` stands for a space, case does not
    matter), after the positions of the classes among the logits, or after some or all of ImageNet's
    1,000 synsets (`n01440764`); 1,001 logits begin with `background`. For a model whose classes
    have no names, folders of any other name are the classes in alphabetical order, as
    `keras.utils.image_dataset_from_directory` numbers them.

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
    names = [comparable(name) for name in class_names or ()]
    unknown = [name for name in found if comparable(name) not in names]
    if not unknown:
        for name in found:
            if names.count(comparable(name)) > 1:
                raise ConvertError(
                    f"{folder / name}: several classes have that name; name the folders "
                    "after the positions of the classes among the logits"
                )
        return {name: names.index(comparable(name)) for name in found}, "folders by name"
    if all(name.isdecimal() for name in found):
        return _numbers(folder, found, num_classes), "folders by position"
    if all(_SYNSET.fullmatch(name) for name in found):
        return _synset_positions(str(folder), found, num_classes), "folders by synset"
    if class_names is not None:
        raise ConvertError(
            f"{folder}: the model has no class called {_first_few(unknown)}; its {num_classes} "
            f"classes are {_first_few(list(class_names))}"
        )
    if len(found) != num_classes:
        raise ConvertError(
            f"{folder} has {len(found)} folders for the model's {num_classes} unnamed classes: "
            "name the folders after the positions of the classes, from 0"
        )
    order = {name: position for position, name in enumerate(sorted(found))}
    return order, "folders in alphabetical order"


def _numbers(folder: Path, found: list[str], num_classes: int) -> dict[str, int]:
    numbers = {name: int(name) for name in found}
    if max(numbers.values()) >= num_classes:
        raise ConvertError(
            f"{folder / max(found, key=int)}: the model has {num_classes} classes, from 0 to "
            f"{num_classes - 1}"
        )
    if num_classes == _ILSVRC_CLASSES + 1 and sorted(numbers.values()) == [*range(1000)]:
        raise ConvertError(
            f"{folder} has folders 0 to 999, but the model's class 0 is the background: "
            "name the folders 1 to 1000"
        )
    return numbers


def comparable(name: str) -> str:
    """A class name without what people and folders write differently: `_` for a space, case."""
    return " ".join(name.replace("_", " ").split()).casefold()


def _first_few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


@functools.cache
def synsets() -> tuple[str, ...]:
    """The WordNet synsets of ILSVRC-2012's 1,000 classes, in the order of the classes."""
    file = importlib.resources.files(__package__).joinpath("synsets.txt")
    return tuple(file.read_text("utf-8").split())


def _synset_positions(where: str, found: Sequence[str], num_classes: int) -> dict[str, int]:
    """The position of each synset: after the background if there is one."""
    background = num_classes - _ILSVRC_CLASSES
    if background not in (0, 1):
        raise ConvertError(
            f"{where} has ImageNet's synsets, but the model has {num_classes} classes"
        )
    positions = {synset: position for position, synset in enumerate(synsets(), background)}
    unknown = next((synset for synset in found if synset not in positions), None)
    if unknown is not None:
        raise ConvertError(f"{where}: {unknown} is not a synset of ILSVRC-2012's 1000 classes")
    return positions


def _from_ground_truth(paths: Sequence[Path], file: Path, num_classes: int) -> list[int]:
    try:
        given = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConvertError(f"{file} cannot be read: {error}", "ground_truth") from None
    strange = next((synset for synset in given if not _SYNSET.fullmatch(synset)), None)
    if strange is not None:
        # ImageNet's devkit has numbers instead, in another order than the classes.
        raise ConvertError(
            f"{file}: {strange!r} is not a synset; expected one synset per line, as in Slim's "
            "imagenet_2012_validation_synset_labels.txt",
            "ground_truth",
        )
    positions = _synset_positions(str(file), given, num_classes)
    labels = []
    for path in paths:
        match = _ILSVRC_NUMBER.fullmatch(path.name)
        if match is None or not 1 <= int(match[1]) <= len(given):
            raise ConvertError(
                f"{path} has no line in {file}: expected names from "
                f"ILSVRC2012_val_00000001.JPEG to {len(given):08}",
                "ground_truth",
            )
        labels.append(positions[given[int(match[1]) - 1]])
    return labels
