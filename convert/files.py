"""Modules in, files out: what every export reads, and how it writes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from convert.errors import ConvertError
from mobilenets import MobileNet, load
from mobilenets.checkpoint import CheckpointError

__all__ = ["load_module", "write_model", "written_beside"]


def load_module(module: str | os.PathLike[str] | MobileNet) -> MobileNet:
    """The native model of whatever `mobilenets.load` takes; a model is returned as it is.

    Raises:
      ConvertError: It is nothing of that kind, or damaged.
    """
    if isinstance(module, MobileNet):
        return module
    try:
        return load(module)
    except (CheckpointError, FileNotFoundError) as error:
        raise ConvertError(str(error)) from error
    except Exception as error:
        # Whatever is wrong with the files, TensorFlow says it in a class of its own.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not reason.startswith(os.fspath(module)):
            reason = f"{module} is not a module that can be loaded: {reason}"
        raise ConvertError(reason) from error


@contextlib.contextmanager
def written_beside(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write in; what is there when the block ends moves to the target's folder.

    The file called as the target moves last. If the block fails, nothing has been there.

    Raises:
      ConvertError: The files cannot be written.
    """
    target = Path(target)
    try:
        if target.is_dir():
            raise ConvertError(
                f"{target} cannot be written: it is a folder; name the file that is to be in it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            yield Path(folder)
            for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == target.name):
                os.replace(path, target.with_name(path.name))
    except OSError as error:
        raise ConvertError(f"{target} cannot be written: {error.strerror or error}") from error


def write_model(
    file: str | os.PathLike[str], content: bytes, class_names: Sequence[str] | None
) -> str | None:
    """Writes a model's file and, beside it, the names of its classes, one a line.

    Returns:
      `<file>.labels.txt`; None without names.

    Raises:
      ConvertError: They cannot be written; nothing is left of them.
    """
    target = Path(file)
    labels = target.with_name(f"{target.name}.labels.txt")
    with written_beside(target) as folder:
        (folder / target.name).write_bytes(content)
        if class_names:
            text = "".join(f"{name}\n" for name in class_names)
            (folder / labels.name).write_text(text, encoding="utf-8")
    return str(labels) if class_names else None
