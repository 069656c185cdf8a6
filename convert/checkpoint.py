"""Opens the sources of a conversion, with the converter's own error, and writes checkpoints."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from convert.download import unpack
from convert.errors import ConvertError
from mobilenets.checkpoint import (
    WEIGHTS,
    Checkpoint,
    CheckpointError,
    Selection,
    find,
    identify,
    num_classes,
    select,
)

__all__ = [
    "WEIGHTS",
    "Checkpoint",
    "Selection",
    "identify",
    "num_classes",
    "open_source",
    "select",
    "write",
]

_ARCHIVE = re.compile(r".+\.(?:tgz|tar\.gz)", re.IGNORECASE)


@contextlib.contextmanager
def open_source(source: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Opens the checkpoint that a path speaks of; it can be read until the context ends.

    Args:
      source: What `mobilenets.checkpoint.find` finds; or a `.tgz` or `.tar.gz` that holds one
        checkpoint, which is unpacked to a temporary folder.

    Raises:
      ConvertError: There is no such file, or no checkpoint, or several; or it is incomplete or
        damaged. What the library says of the checkpoint within the context becomes one, too.
    """
    name = os.fspath(source)
    with contextlib.ExitStack() as stack:
        try:
            if _ARCHIVE.fullmatch(name) and os.path.isfile(name):
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="checkpoint-"))
                prefix = unpack(name, folder)
            else:
                prefix = find(name)
            checkpoint = Checkpoint(prefix, name)
        except CheckpointError as error:
            raise ConvertError(str(error)) from error
        except OSError as error:
            raise ConvertError(f"cannot read {name}: {error.strerror or error}") from error
        try:
            yield checkpoint
        except CheckpointError as error:
            raise ConvertError(str(error)) from error


def write(prefix: str | os.PathLike[str], variables: Mapping[str, np.ndarray]) -> None:
    """Writes a TensorBundle that TensorFlow 1 and 2 read: `<prefix>.index` and one data file.

    An existing checkpoint of the same prefix is replaced, once the new one is complete.

    Args:
      prefix: Where to; folders are created.
      variables: Value by name.

    Raises:
      ConvertError: The files cannot be written; none of them is left half-written.
    """
    target = Path(prefix)
    names = sorted(variables)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            with tf.device("CPU"):
                tf.raw_ops.SaveV2(
                    prefix=str(Path(folder, target.name)),
                    tensor_names=names,
                    shape_and_slices=[""] * len(names),
                    tensors=[tf.convert_to_tensor(np.asarray(variables[name])) for name in names],
                )
            # Without its index a checkpoint is none: an old one goes first, the new comes last.
            Path(f"{target}.index").unlink(missing_ok=True)
            for path in sorted(Path(folder).iterdir()):
                os.replace(path, target.with_name(path.name))
    except (OSError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(error.message.split())
        raise ConvertError(
            f"cannot write {target}: {reason or error}; choose a folder that can be written and "
            "has space left"
        ) from error
