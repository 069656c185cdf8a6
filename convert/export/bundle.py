"""Writes TF-Slim checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilenets.errors import not_written
from mobilenets.writing import written_beside

from ..errors import ConvertError, first_line

__all__ = ["write"]


def write(prefix: str | os.PathLike[str], variables: Mapping[str, np.ndarray]) -> None:
    """Writes a TensorBundle that TensorFlow 1 and 2 read: `<prefix>.index` and one data file.

    An existing checkpoint of the same prefix is replaced, once the new one is complete.

    Args:
      prefix: Prefix of the files; folders are created.
      variables: Value by name.

    Raises:
      ConvertError: The files cannot be written; none of them is left half-written.
    """
    target = Path(prefix)
    names = sorted(variables)
    try:
        with written_beside(target) as folder:
            with tf.device("CPU"):
                tf.raw_ops.SaveV2(
                    prefix=str(folder / target.name),
                    tensor_names=names,
                    shape_and_slices=[""] * len(names),
                    tensors=[tf.convert_to_tensor(np.asarray(variables[name])) for name in names],
                )
            # The index makes the checkpoint: the old index goes first, the new one comes last.
            Path(f"{target}.index").unlink(missing_ok=True)
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or first_line(error)
        else:
            reason = not_written(error.message)
        raise ConvertError(
            f"cannot write {target}: {reason}; choose a writable folder with space left"
        ) from error
