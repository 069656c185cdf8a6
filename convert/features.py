"""The features of all images in a folder, in one file."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from mobilenets import images
from mobilenets._version import __version__

from . import extractors, feature_files
from .columns import Column, Columns
from .errors import ConvertError
from .export.litert_run import probabilities
from .extractors import Extractor
from .feature_files import Rows
from .image_files import each_image, no_images

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

__all__ = ["Extracted", "extract"]

# Of the folder of an unfinished run; raise it when its files change.
_FORMAT = 1
_FILES, _SETTINGS, _LOCK = "files.txt", "settings.json", "lock"


@dataclass(frozen=True)
class Extracted:
    """What was written.

    Attributes:
      output: The file.
      images: The number of its rows.
      num_features: The length of the features.
      num_classes: The number of the model's classes; None without predictions.
      folders: The classes that the images' folders are, in alphabetical order; None if an image
        lies in no folder.
      image_size: Height and width that the images were resized to, in pixels.
      crop: `"central"` for the evaluation crop, `"none"` for the whole image.
      skipped: The files that could not be read, with the reason.
      resumed: How many of the images an earlier run, which was interrupted, had done.
      seconds: What this run took, without loading the model.
    """

    output: str
    images: int
    num_features: int
    num_classes: int | None
    folders: list[str] | None
    image_size: int
    crop: str
    skipped: dict[str, str]
    resumed: int
    seconds: float


def extract(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    crop: str = "central",
    batch_size: int = 32,
    image_size: int | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Extracted:
    """Writes the features of the images in a folder and, if the model has classes, predictions.

    Memory does not grow with the number of images. Until all are done, the results are in a hidden
    folder beside the output; if this function is interrupted, however that is, another call with
    the same arguments continues after the last whole batch and writes the same file, bit for bit.
    Where the model, a setting or an image differs, it starts afresh.

    An `.npz` has the arrays `features` (float32 `[images, num_features]`), `files` (paths within
    `directory`); with folders `labels` (int32 `[images]`) and `label_names`; with classes `classes`
    (int32 `[images]`, the most probable class), `probabilities` (float32, its probability) and, if
    they have names, `class_names`. A Parquet file has the columns `file`, `features`, `label`,
    `label_name`, `class`, `probability` and `class_name`, a row for each image.

    Args:
      source: As `extractors.opened` takes it.
      directory: Folder of images, which is searched recursively. If all lie in folders in it, the
        folders are their labels, as `keras.utils.image_dataset_from_directory` numbers them.
      output: The file to write; its name ends in `.npz` or `.parquet`. An older file is replaced.
      crop: `"central"` for Slim's evaluation crop; `"none"` for the whole image.
      batch_size: Images at a time, 1 or more.
      image_size: In pixels; None takes the model's own.
      on_note: Called with a line to tell the user about an earlier run.
      on_progress: Called with the number of images done and the number of all.

    Raises:
      ConvertError: The model cannot be loaded; there are no images, or none can be read; a feature
        is NaN or infinite; another process writes the same file; or it cannot be written. An older
        file stays as it is.
    """
    target, folder = Path(output), Path(directory)
    write = feature_files.writer(target)
    if not folder.is_dir():
        raise ConvertError(f"{folder}: no such folder", "images")
    model = extractors.opened(source, image_size)
    start = time.monotonic()
    try:
        with _unfinished(target) as work:
            listed = _listed(folder, work)
            columns = _opened(model, work, listed, crop, batch_size, on_note)
            with contextlib.closing(columns):
                resumed = columns.rows
                _run(model, columns, listed, crop, batch_size, on_progress)
            skipped = {k: v for note in columns.notes() for k, v in note["skipped"].items()}
            if not columns.rows:
                Columns.remove(work)
                raise ConvertError(
                    f"{folder}: no image can be read; {next(iter(skipped.values()))}"
                )
            rows = Rows(columns, listed.names, listed.longest, listed.folders, model.class_names)
            write(work / target.name, rows)
            os.replace(work / target.name, target)
    except OSError as error:
        where = error.filename or f"{target} cannot be written"
        raise ConvertError(f"{where}: {error.strerror or error}") from error
    return Extracted(
        output=os.fspath(target),
        images=columns.rows,
        num_features=model.num_features,
        num_classes=model.num_classes,
        folders=listed.folders,
        image_size=model.image_size,
        crop=crop,
        skipped=skipped,
        resumed=resumed,
        seconds=time.monotonic() - start,
    )


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """The folder of an unfinished run; it stays if there is something to continue from.

    Raises:
      ConvertError: Another process has it.
    """
    work = target.with_name(f".{target.name}.unfinished")
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("a") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConvertError(f"{target} is being written by another process") from None
        done = False
        try:
            yield work
            done = True
        finally:
            if done or not Columns.begun(work):
                shutil.rmtree(work, ignore_errors=True)


@dataclass(frozen=True)
class _Listed:
    """The images of a folder, whose names are in a file.

    Attributes:
      folder: The folder.
      file: A file with a name a line.
      count: Their number.
      longest: The number of characters of the longest name.
      folders: The first folders of all names, in alphabetical order; None if a name has none.
      digest: A hash of names, sizes and times of change.
    """

    folder: Path
    file: Path
    count: int
    longest: int
    folders: list[str] | None
    digest: str

    def names(self) -> Iterator[str]:
        with self.file.open(encoding="utf-8", newline="\n") as lines:
            yield from (line.removesuffix("\n") for line in lines)


def _listed(folder: Path, work: Path) -> _Listed:
    count, longest, digest = 0, 0, hashlib.sha256()
    folders: dict[str, None] | None = {}
    with (work / _FILES).open("w", encoding="utf-8", newline="\n") as lines:
        for entry in each_image(folder):
            name = os.path.relpath(entry.path, folder).replace(os.sep, "/")
            if not _writable(name):
                raise ConvertError(f"{folder}: rename {name!a}: only UTF-8 on one line is read")
            status = entry.stat()
            lines.write(f"{name}\n")
            digest.update(f"{name}\n{status.st_size} {status.st_mtime_ns}\n".encode())
            count, longest = count + 1, max(longest, len(name))
            first, inside, _ = name.partition("/")
            if not inside:
                folders = None
            elif folders is not None:
                folders[first] = None
    if not count:
        raise no_images(folder, "images")
    names = None if folders is None else list(folders)
    return _Listed(folder, work / _FILES, count, longest, names, digest.hexdigest())


def _writable(name: str) -> bool:
    """Whether a name fits on a line of UTF-8."""
    try:
        return not {"\n", "\r"} & set(name.encode().decode())
    except UnicodeEncodeError:
        return False


def _opened(
    model: Extractor,
    work: Path,
    listed: _Listed,
    crop: str,
    batch_size: int,
    on_note: Callable[[str], None],
) -> Columns:
    """The columns of an earlier run that was the same as this, or empty ones."""
    settings = {
        "format": _FORMAT,
        "libraries": f"{__version__}, TensorFlow {tf.__version__}",
        "model": model.fingerprint,
        "image size": model.image_size,
        "crop": crop,
        "batch size": batch_size,
        "images": listed.digest,
    }
    file = work / _SETTINGS
    if Columns.begun(work):
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = {}
        other = [name for name in settings if earlier.get(name) != settings[name]]
        if other:
            on_note(f"an interrupted run had other {', '.join(other)}: starting afresh")
            Columns.remove(work)
    file.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    types = {"file": Column("<i8"), "features": Column("<f4", model.num_features)}
    if model.num_classes:
        types |= {"class": Column("<i4"), "probability": Column("<f4")}
    columns = Columns(work, types)
    if columns.rows:
        on_note(f"continuing an interrupted run: {columns.rows} images are done")
    return columns


def _run(
    model: Extractor,
    columns: Columns,
    listed: _Listed,
    crop: str,
    batch_size: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Adds the batches that are not there yet."""
    start = columns.note["next"] if columns.note else 0
    cropping: Literal["central"] | None = "central" if crop == "central" else None
    base = tf.constant(os.fsencode(os.path.join(listed.folder, "")))
    lines = tf.data.TextLineDataset(os.fsencode(listed.file)).skip(start)
    dataset = images.batches(
        lines.map(lambda name: base + name),
        model.image_size,
        cropping,
        batch_size=batch_size,
        skip_unreadable=True,
    )
    names = itertools.islice(listed.names(), start, None)

    upto = start
    on_progress(upto, listed.count)
    for positions, batch in dataset:
        numbers = (positions.numpy() + start).tolist()
        passed = dict(zip(range(upto, numbers[-1] + 1), names, strict=False))
        upto += len(passed)
        values = _values(model, batch, [passed.pop(number) for number in numbers])
        skipped = _reasons(listed.folder, passed.values(), model.image_size, cropping)
        columns.append({"file": np.array(numbers), **values}, {"next": upto, "skipped": skipped})
        on_progress(upto, listed.count)
    if upto < listed.count:
        none = {name: np.zeros(column.shape(0)) for name, column in columns.columns.items()}
        skipped = _reasons(listed.folder, names, model.image_size, cropping)
        columns.append(none, {"next": listed.count, "skipped": skipped})
        on_progress(listed.count, listed.count)


def _values(model: Extractor, batch: tf.Tensor, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What the columns hold of images, but for their files."""
    features, *scores = model.run(batch)
    for each in (features, *scores):
        strange = np.flatnonzero(~np.isfinite(each).all(1))
        if len(strange):
            raise ConvertError(
                f"{model.source}: the outputs for {names[strange[0]]} are NaN or infinite"
            )
    if not scores:
        return {"features": features}
    shares = scores[0].astype(np.float64)
    shares = shares if model.softmax else probabilities(shares)
    return {"features": features, "class": scores[0].argmax(1), "probability": shares.max(1)}


def _reasons(
    folder: Path, names: Iterable[str], size: int, crop: Literal["central"] | None
) -> dict[str, str]:
    """Why each of these files was not read."""
    reasons = {}
    for name in names:
        try:
            images.load(folder / name, size, crop)
        except ValueError as error:
            reasons[name] = str(error)
        else:
            raise ConvertError(
                f"{folder / name} could not be read, and a moment later it could: run the command "
                "again, which continues"
            )
    return reasons
