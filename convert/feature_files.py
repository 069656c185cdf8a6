"""The files of features, written part by part from columns: `.npz` and Parquet."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from .columns import Columns
from .errors import ConvertError

__all__ = ["Rows", "writer"]

# Held in memory at a time.
_ROWS = 4096
_PREDICTIONS = (("classes", "class"), ("probabilities", "probability"))


@dataclass(frozen=True)
class Rows:
    """What is written of images: a row for each that was read.

    Attributes:
      columns: `file`, the position of the row's file; `features`; and with classes `class` and
        `probability`.
      files: Gives the names of all files, those that were not read too.
      longest: The number of characters of the longest name.
      folders: The names of the classes that the folders are; None if they are none.
      class_names: The names of the model's classes; None if they have none.
    """

    columns: Columns
    files: Callable[[], Iterable[str]]
    longest: int
    folders: Sequence[str] | None
    class_names: Sequence[str] | None

    def named(self) -> Iterator[tuple[list[str], list[int]]]:
        """The names of some rows' files and, if folders are classes, the classes' positions."""
        positions = {name: i for i, name in enumerate(self.folders or ())}
        names = enumerate(self.files())
        for part in self.columns.parts("file", _ROWS):
            wanted = set(part.tolist())
            last = int(part[-1])
            read = []
            for number, name in names:
                if number in wanted:
                    read.append(name)
                if number == last:
                    break
            yield read, [positions[name.partition("/")[0]] for name in read] if positions else []

    @property
    def classified(self) -> bool:
        """Whether there are predictions."""
        return "class" in self.columns.columns


def _npz(path: Path, rows: Rows) -> None:
    """An `.npz` as `numpy.savez` writes it, without compression."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:

        def write(name: str, dtype: Any, shape: tuple[int, ...], parts: Iterable) -> None:
            # Of a fixed date, so that equal arrays give equal files.
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as file:
                _npy(file, np.dtype(dtype), shape, parts)

        count, columns = rows.columns.rows, rows.columns
        for name, column in (("features", "features"), *_PREDICTIONS):
            if column in columns.columns:
                of = columns.columns[column]
                write(name, of.dtype, of.shape(count), columns.parts(column, _ROWS))
        write("files", f"<U{rows.longest}", (count,), (names for names, _ in rows.named()))
        if rows.folders:
            write("labels", "<i4", (count,), (labels for _, labels in rows.named()))
        for name, names in (("label_names", rows.folders), ("class_names", rows.class_names)):
            if names:
                write(name, np.array(names).dtype, (len(names),), [names])


def _npy(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...], parts: Iterable) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    for part in parts:
        file.write(np.ascontiguousarray(part, dtype).tobytes())


def _parquet(path: Path, rows: Rows) -> None:
    """A Parquet file with a row group for each part."""
    import pyarrow as arrow
    from pyarrow import parquet

    columns = rows.columns
    width = columns.columns["features"].width
    names = arrow.dictionary(arrow.int32(), arrow.string())
    fields = [("file", arrow.string()), ("features", arrow.list_(arrow.float32(), width))]
    if rows.folders:
        fields += [("label", arrow.int32()), ("label_name", names)]
    if rows.classified:
        fields += [("class", arrow.int32()), ("probability", arrow.float32())]
        if rows.class_names:
            fields += [("class_name", names)]
    schema = arrow.schema(fields)

    def column(name: str, part: dict[str, Any]) -> Any:
        if name == "features":
            return arrow.FixedSizeListArray.from_arrays(part["features"].ravel(), width)
        if name in ("label_name", "class_name"):
            dictionary = rows.folders if name == "label_name" else rows.class_names
            indices = arrow.array(part[name.removesuffix("_name")], arrow.int32())
            return arrow.DictionaryArray.from_arrays(indices, arrow.array(dictionary))
        return arrow.array(part[name], schema.field(name).type)

    stored = [name for name in ("features", "class", "probability") if name in columns.columns]
    # Dictionaries do not pay for features, which are all different.
    repeated = [name for name in schema.names if name.endswith("_name")]
    with parquet.ParquetWriter(path, schema, use_dictionary=repeated) as writer:
        parts = zip(*(columns.parts(name, _ROWS) for name in stored), strict=True)
        for (files, labels), values in zip(rows.named(), parts, strict=True):
            part = {"file": files, "label": labels, **dict(zip(stored, values, strict=True))}
            arrays = [column(name, part) for name in schema.names]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


_WRITERS = {".npz": _npz, ".parquet": _parquet}


def writer(output: Path) -> Callable[[Path, Rows], None]:
    """What writes rows to a file of the output's kind.

    Raises:
      ConvertError: There is no such kind, the output is a folder, or a library is missing.
    """
    if output.suffix not in _WRITERS:
        raise ConvertError(
            f"{output}: expected a name that ends in {' or '.join(_WRITERS)}", "output"
        )
    if output.is_dir():
        raise ConvertError(f"{output} cannot be written: it is a folder; name a file in it")
    if output.suffix == ".parquet" and not importlib.util.find_spec("pyarrow"):
        raise ConvertError(
            f"{output}: Parquet needs pyarrow: pip install 'mobilenets-tf2[parquet]', or write "
            "an .npz",
            "output",
        )
    return _WRITERS[output.suffix]
