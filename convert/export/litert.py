"""What the LiteRT exports share: their result, their images, and how a model is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import ConvertError
from ..files import load_images, written_beside
from .contract import Export
from .litert_run import Comparison

__all__ = ["Images", "LiteRTExport", "checked_images", "labels_of", "write"]

Images: TypeAlias = np.ndarray | Sequence[str | os.PathLike[str]]
"""`[number, size, size, 3]`, RGB in [0, 1], or image files to load as such."""


@dataclass(frozen=True, kw_only=True)
class LiteRTExport(Export):
    """A LiteRT model that was written.

    Attributes:
      image_size: Height and width of the input, in pixels.
      labels: The file of class names, a name a line; None where the source has none.
      comparison: Comparison with the source; None if not requested.
    """

    image_size: int
    labels: str | None
    comparison: Comparison | None


def checked_images(images: Images, size: int) -> np.ndarray:
    """The images as an array `[number, size, size, 3]`; files are loaded.

    Raises:
      ConvertError: The array has another shape or no images, or a file cannot be loaded.
    """
    if not isinstance(images, np.ndarray):
        images = load_images(images, size)
    if images.ndim != 4 or images.shape[1:] != (size, size, 3) or not len(images):
        raise ConvertError(f"images must be [number, {size}, {size}, 3], got {list(images.shape)}")
    return images


def labels_of(file: Path) -> Path:
    """Where the names of a model's classes lie: beside its file."""
    return file.with_name(f"{file.name}.labels.txt")


def write(
    file: str | os.PathLike[str], content: bytes, class_names: Sequence[str] | None
) -> str | None:
    """Writes a model's file and, beside it, the names of its classes, one a line.

    Names that an earlier model left there go with it.

    Returns:
      `<file>.labels.txt`; None without names.

    Raises:
      ConvertError: The files cannot be written; nothing is left of them.
    """
    target = Path(file)
    with written_beside(target) as folder:
        beside = folder / target.name
        beside.write_bytes(content)
        if class_names:
            text = "".join(f"{name}\n" for name in class_names)
            labels_of(beside).write_text(text, encoding="utf-8")
    labels = labels_of(target)
    if class_names:
        return str(labels)
    if labels.is_file():
        labels.unlink()
    return None
