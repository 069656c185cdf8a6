"""A module back to a TF-Slim checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from convert import checkpoint
from convert.errors import ConvertError
from convert.files import load_module
from mobilenets import MobileNet

__all__ = ["export"]


def export(
    module: str | os.PathLike[str] | MobileNet, prefix: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
    """Writes the variables of a module as a TensorBundle, under their Slim names.

    Beside them goes a `global_step` of 0: Slim's eval_image_classifier restores one.

    Args:
      module: A module's folder or what else `mobilenets.load` takes, or a model.
      prefix: Where to; `<prefix>.index` and one data file are written, or replaced.

    Returns:
      What was written: value by name, without `global_step`.

    Raises:
      ConvertError: The module cannot be read, or the checkpoint not written.
    """
    if os.fspath(prefix).endswith(os.sep) or Path(prefix).is_dir():
        raise ConvertError(
            f"{prefix} is a folder: say what the checkpoint in it is to be called, e.g. "
            f"{Path(prefix) / 'model.ckpt'}"
        )
    variables = load_module(module).slim_variables
    values = {name: variable.numpy() for name, variable in variables.items()}
    checkpoint.write(prefix, {**values, "global_step": np.array(0, np.int64)})
    written = checkpoint.Checkpoint(prefix).read(values)
    if wrong := [name for name in values if written[name].tobytes() != values[name].tobytes()]:
        raise ConvertError(f"{prefix} did not come out as written: {', '.join(wrong)}")
    return values
