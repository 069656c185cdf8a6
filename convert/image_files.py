"""Which files in a folder are images."""

from __future__ import annotations

from pathlib import Path

from .errors import ConvertError

__all__ = ["given_images", "images_in", "is_image"]

# What tf.io.decode_image decodes.
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image's suffix and is not hidden."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and of all folders in it, sorted."""
    return sorted(filter(is_image, folder.rglob("*")))


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
        raise ConvertError(f"{folder}: no {', '.join(_SUFFIXES)} in it", argument)
    return files
