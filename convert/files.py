"""Reads modules and images, and writes files, with the converter's own error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mobilenets import MobileNet, load, writing
from mobilenets.images import load_batch
from mobilenets.weights import WeightsError

from .errors import ConvertError, first_line

__all__ = ["load_images", "load_module", "values_by_name", "write_text", "written_beside"]


def load_module(module: str | os.PathLike[str] | MobileNet) -> MobileNet:
    """The native model of anything that `mobilenets.load` takes; a model is returned as it is.

    Raises:
      ConvertError: `mobilenets.load` does not take the source, or the source is damaged.
    """
    if isinstance(module, MobileNet):
        return module
    try:
        return load(module)
    except (WeightsError, FileNotFoundError) as error:
        raise ConvertError(str(error)) from error
    except Exception as error:
        # TensorFlow raises many unrelated exception types for damaged files.
        reason = first_line(error)
        if not reason.startswith(os.fspath(module)):
            reason = f"{module} is not a module that can be loaded: {reason}"
        raise ConvertError(reason) from error


def values_by_name(model: MobileNet) -> dict[str, np.ndarray]:
    """The value of each variable by its Slim name."""
    return {name: variable.numpy() for name, variable in model.slim_variables.items()}


def load_images(files: Sequence[str | os.PathLike[str]], size: int) -> np.ndarray:
    """`[number, size, size, 3]`, RGB float32 in [0, 1], with Slim's evaluation crop.

    Raises:
      ConvertError: An image cannot be read or decoded; the message says which.
    """
    try:
        return load_batch(files, size).numpy()
    except ValueError as error:
        raise ConvertError(str(error)) from error


@contextlib.contextmanager
def written_beside(target: str | os.PathLike[str]) -> Iterator[Path]:
    """`mobilenets.writing.written_beside` for a file.

    Raises:
      ConvertError: The files cannot be written, or the target is a folder.
    """
    if Path(target).is_dir():
        raise ConvertError(f"{target} cannot be written: it is a folder; name a file in it")
    try:
        with writing.written_beside(target) as folder:
            yield folder
    except OSError as error:
        # HDF5 puts lines about its buffers where others put the system's words.
        why = os.strerror(error.errno) if error.errno else first_line(error)
        raise ConvertError(f"{target} cannot be written: {why}") from error


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, or replaces it.

    Raises:
      ConvertError: The file cannot be written; an older one stays as it is.
    """
    with written_beside(target) as folder:
        (folder / Path(target).name).write_text(text, encoding="utf-8")
