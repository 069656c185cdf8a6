"""TensorFlow's TensorBundles: the files in which checkpoints and SavedModels keep variables.

Does not interpret the variables. TF-Slim's checkpoints are bundles, and so are the variables that
TensorFlow 2 saves; their readers tell them apart by the keys.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilenets.weights import bundle_index
from mobilenets.weights.errors import WeightsError, first_few

__all__ = ["Checkpoint", "find", "first_few", "is_there"]

_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}")
_FILE_OF_CHECKPOINT = re.compile(rf"(?P<prefix>.+?)(?:\.index|\.meta|{_SHARD.pattern})")


class Checkpoint:
    """A TensorBundle, open for reading: `<prefix>.index` and `<prefix>.data-NNNNN-of-NNNNN`.

    Values are read only on request, so an unreadable entry matters only if it is requested.

    Attributes:
      prefix: Path without `.index`.
      source: The checkpoint as the user named it.
      shapes: Shape of every variable by key, in sorted order.
      dtypes: NumPy's name of every variable's dtype by key, e.g. `"float32"`.

    Raises:
      WeightsError: A file of the checkpoint is missing, or the index is damaged.
    """

    def __init__(self, prefix: str | os.PathLike[str], source: str | None = None) -> None:
        self.prefix = Path(prefix)
        self.source = source or str(prefix)
        self._files = _files(self.prefix, self.source)
        try:
            # TensorFlow gets an index that is sound, or it would end the process.
            self._index = bundle_index.read(self._files[0])
            self._reader = tf.compat.v1.train.NewCheckpointReader(str(self.prefix))
        except _UNREADABLE as error:
            raise WeightsError(
                f"{self.source}: {self._files[0].name} is damaged or not a checkpoint's index "
                f"({_reason(error)}); copy or download it again"
            ) from error
        entries = self._index.entries
        self.shapes: dict[str, tuple[int, ...]] = {key: entries[key].shape for key in entries}
        self.dtypes: dict[str, str] = {key: entries[key].dtype for key in entries}

    def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """Reads the values of these variables only.

        Raises:
          WeightsError: Variables are missing, or their bytes are incomplete or fail the checksum.
        """
        values, unreadable, reason = {}, [], ""
        for key in keys:
            if key not in self.shapes:
                raise WeightsError(f"{self.source} holds no variable {key}")
            try:
                self._check(key, _is_number)
                values[key] = np.asarray(self._reader.get_tensor(key))
            except _UNREADABLE as error:
                unreadable.append(key)
                reason = reason or _reason(error)
        if unreadable:
            raise WeightsError(
                f"{self.source}: cannot read {first_few(unreadable)}: the data file is "
                f"incomplete or damaged ({reason}); copy or download it again"
            )
        return values

    def read_bytes(self, key: str) -> bytes:
        """The value of a scalar string; NumPy's strings would lose zero bytes at the end.

        Raises:
          WeightsError: As `read` does.
        """
        if key not in self.shapes:
            raise WeightsError(f"{self.source} holds no variable {key}")
        try:
            self._check(key, lambda dtype: dtype == tf.string)
            self._check_string(key)
            return bytes(self._reader.get_tensor(key))
        except _UNREADABLE as error:
            raise WeightsError(
                f"{self.source}: cannot read {key}: the data file is incomplete or damaged "
                f"({_reason(error)}); copy or download it again"
            ) from error

    def _check(self, key: str, is_wanted: Callable[[tf.DType], bool]) -> None:
        """Raises ValueError for a value of another kind, or that the data files cannot hold."""
        entry = self._index.entries[key]
        if not is_wanted(tf.as_dtype(entry.dtype)):
            raise ValueError(f"its dtype is {entry.dtype}")
        size = sum(path.stat().st_size for path in self._files[1:])
        shard = self._shard(entry)
        if entry.bytes > size or (not entry.sliced and entry.end > shard.stat().st_size):
            raise ValueError("it ends too early")

    def _check_string(self, key: str) -> None:
        """Raises ValueError for a string of another length than it says: TensorFlow believes it."""
        entry = self._index.entries[key]
        with self._shard(entry).open("rb") as file:
            file.seek(entry.start)
            stored = file.read(entry.end - entry.start)
        if entry.shape or entry.sliced or not bundle_index.is_string(stored):
            raise ValueError("it is no string")

    def _shard(self, entry: bundle_index.Entry) -> Path:
        return Path(f"{self.prefix}.data-{entry.shard:05}-of-{self._index.shards:05}")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over the bytes of the index and then of the data files.

        Raises:
          WeightsError: A file cannot be read.
        """
        digest = hashlib.sha256()
        try:
            for path in self._files:
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
        except OSError as error:
            raise WeightsError(f"{self.source}: cannot read {path}: {error.strerror}") from error
        return digest.hexdigest()


# get_tensor raises IndexError where the data file ends too early.
_UNREADABLE = (tf.errors.OpError, LookupError, OSError, RuntimeError, ValueError)


def _is_number(dtype: tf.DType) -> bool:
    return dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return " ".join(text.split())


def _files(prefix: Path, source: str) -> list[Path]:
    """The index, then the data files in order."""
    index = Path(f"{prefix}.index")
    if not index.is_file():
        raise WeightsError(f"{source}: the checkpoint's index {index.name} is missing")
    shards = sorted(
        path
        for path in index.parent.iterdir()
        if path.name.startswith(prefix.name) and _SHARD.fullmatch(path.name, len(prefix.name))
    )
    lacking: list[str] = []
    # An overwritten checkpoint may leave shards of two counts; the index knows the right one.
    for count in sorted({int(path.name[-5:]) for path in shards} or {1}):
        wanted = [Path(f"{prefix}.data-{shard:05}-of-{count:05}") for shard in range(count)]
        missing = [path.name for path in wanted if path not in shards]
        if not missing:
            return [index, *shards]
        lacking = lacking or missing
    raise WeightsError(f"{source}: the checkpoint's data file {first_few(lacking)} is missing")


def is_there(path: Path) -> bool:
    """Whether a path holds files of a bundle, complete or not.

    The files of a bundle are `<prefix>.index` and `<prefix>.data-NNNNN-of-NNNNN`.

    Args:
      path: A checkpoint's prefix or one of its files, or a folder.
    """
    if path.is_dir():
        return (
            (path / "variables").is_dir()
            or any(each.is_file() for each in path.glob("*.index"))
            or any(each.is_file() for each in path.glob("*.data-?????-of-?????"))
        )
    if path.is_file() and _FILE_OF_CHECKPOINT.fullmatch(path.name):
        return True
    return not path.is_file() and _files_of(path)


def _files_of(prefix: Path) -> bool:
    """Whether a prefix has any file of a checkpoint."""
    return prefix.parent.is_dir() and any(
        (match := _FILE_OF_CHECKPOINT.fullmatch(other)) and match["prefix"] == prefix.name
        for other in os.listdir(prefix.parent)
    )


def find(path: str | os.PathLike[str], source: str | None = None) -> Path:
    """The prefix of the checkpoint at a path.

    Args:
      path: A checkpoint's prefix (`run/model.ckpt-1450000`) or one of its files; a folder that
        holds one checkpoint, or several and a `checkpoint` file that says which is the latest; or
        the folder of a TF1 hub module or another SavedModel.
      source: The checkpoint's name in errors; None takes the path.

    Raises:
      WeightsError: There is no checkpoint, or there are several.
    """
    path = Path(path)
    if path.is_dir():
        return _prefix_in(path, source or str(path))
    file = _FILE_OF_CHECKPOINT.fullmatch(path.name)
    return path.with_name(file["prefix"]) if file and path.is_file() else path


def _prefix_in(folder: Path, source: str) -> Path:
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.index") if path.is_file())
    if not prefixes and (folder / "variables").is_dir():
        return folder / "variables" / "variables"
    # Other files may be called *.index as well.
    data = sorted(path.name for path in folder.iterdir() if _SHARD.search(path.name))
    complete = [
        prefix
        for prefix in prefixes
        if any(
            _SHARD.fullmatch(name, len(prefix.name))
            for name in data
            if name.startswith(prefix.name)
        )
    ]
    prefixes = complete or prefixes
    if len(prefixes) > 1 and (state := tf.train.get_checkpoint_state(str(folder))):
        # The state file may say where the checkpoint was written, not where it is now.
        latest = folder / Path(state.model_checkpoint_path).name
        if latest in prefixes:
            return latest
    if len(prefixes) > 1:
        names = first_few([prefix.name for prefix in prefixes])
        raise WeightsError(f"{source} holds several checkpoints: {names}; name one of them")
    if not prefixes:
        index = _SHARD.sub(".index", data[0]) if data else "*.index"
        raise WeightsError(f"{source}: the checkpoint's index {index} is missing")
    return prefixes[0]
