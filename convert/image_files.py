"""Which files in a folder are images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import ConvertError

__all__ = ["each_image", "given_images", "images_in", "is_image", "no_images"]

# What tf.io.decode_image decodes.
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image's suffix and is not hidden."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and of all folders in it, sorted."""
    return sorted(filter(is_image, folder.rglob("*")))


def each_image(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The images of a folder and of all folders in it, one by one, in the order of `images_in`.

    Memory grows with the largest folder alone. Of the folder's own folders those that are hidden
    are left out, and those that are links are followed, as `labelled` has it.
    """
    return _each_image(folder, top=True)


def _each_image(folder: str | os.PathLike[str], top: bool) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir(follow_symlinks=top):
            if not top or not entry.name.startswith("."):
                yield from _each_image(entry.path, top=False)
        elif is_image(Path(entry.path)):
            yield entry


def given_images(folder: Path, argument: str) -> list[Path]:
    """The images of a folder and of all folders in it, sorted; at least one.

    Args:
      folder: Where to look.
      argument: The name of the argument that gave the folder, for errors.

    Raises:
      ConvertError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ConvertError(f"{folder}: no such folder", argument)
    files = images_in(folder)
    if not files:
        raise no_images(folder, argument)
    return files


def no_images(folder: Path, argument: str) -> ConvertError:
    """The error for a folder without images."""
    return ConvertError(f"{folder}: no {', '.join(_SUFFIXES)} in it", argument)
