"""Exports a module back to a TF-Slim checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets.weights.bundle import Checkpoint

from ..errors import ConvertError
from ..files import load_module, values_by_name
from . import bundle, contract
from .contract import Source

__all__ = ["Export", "export"]


@dataclass(frozen=True, kw_only=True)
class Export(contract.Export):
    """A checkpoint that was written; its path is the prefix.

    Attributes:
      variables: The names of its variables, without `global_step`.
    """

    variables: tuple[str, ...]


def export(source: Source, output: str | os.PathLike[str]) -> Export:
    """Writes the variables of a module as a TensorBundle, under their Slim names.

    Adds a `global_step` of 0, which Slim's eval_image_classifier restores.

    Args:
      source: A module's folder, anything else that `mobilenets.load` takes, or a model.
      output: The prefix; `<prefix>.index` and one data file are written, or replaced.

    Raises:
      ConvertError: The module cannot be read, or the checkpoint cannot be written.
    """
    if os.fspath(output).endswith(os.sep) or Path(output).is_dir():
        raise ConvertError(
            f"{output} is a folder: name the checkpoint in it, e.g. {Path(output) / 'model.ckpt'}",
            "output",
        )
    values = values_by_name(load_module(source))
    bundle.write(output, {**values, "global_step": np.array(0, np.int64)})
    written = Checkpoint(output).read(values)
    if wrong := [name for name in values if written[name].tobytes() != values[name].tobytes()]:
        raise ConvertError(f"{output} differs from the module after writing: {', '.join(wrong)}")
    files = [Path(f"{output}.{suffix}") for suffix in ("index", "data-00000-of-00001")]
    return Export(
        path=os.fspath(output),
        bytes=sum(file.stat().st_size for file in files),
        variables=tuple(values),
    )
