"""Columns of arrays that grow by batches in a folder: a killed program continues where it was."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Column", "Columns"]

_BATCHES = "batches.jsonl"


@dataclass(frozen=True)
class Column:
    """The type of a column.

    Attributes:
      dtype: Of its values, as NumPy spells it, such as `<f4`.
      width: The length of each row's vector; None for one value a row.
    """

    dtype: str
    width: int | None = None

    @property
    def row_bytes(self) -> int:
        """The size of a row."""
        return np.dtype(self.dtype).itemsize * (1 if self.width is None else self.width)

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape of a number of rows."""
        return (rows,) if self.width is None else (rows, self.width)


class Columns:
    """Columns in the files of a folder, one each, and a file with a line for each batch.

    A line has the checksum of its batch. On opening, the first batch that is not wholly there ends
    what is kept, whatever the program or the machine died of.

    Attributes:
      columns: The type of each, by name.
      rows: The number of rows.
      note: What was noted with the last batch; None before the first.
    """

    def __init__(self, folder: Path, columns: Mapping[str, Column]) -> None:
        """Opens the folder's columns; those that are not there are empty.

        Raises:
          OSError: The files cannot be opened.
        """
        self._folder, self.columns = folder, dict(columns)
        self.rows, self.note, kept = 0, None, 0
        self._lines = (folder / _BATCHES).open("a+b")
        self._files = {name: (folder / name).open("a+b") for name in columns}
        for file in self._files.values():
            file.seek(0)
        self._lines.seek(0)
        for line in self._lines:
            found = self._batch(line)
            if found is None:
                break
            rows, self.note = found
            self.rows += rows
            kept += len(line)
        for name, file in self._files.items():
            file.truncate(self.rows * self.columns[name].row_bytes)
        self._lines.truncate(kept)

    @staticmethod
    def begun(folder: Path) -> bool:
        """Whether a folder has a batch, or the beginning of one."""
        lines = folder / _BATCHES
        return lines.exists() and lines.stat().st_size > 0

    @staticmethod
    def remove(folder: Path) -> None:
        """Makes a folder one without batches; what it has else of them is overwritten."""
        (folder / _BATCHES).unlink()

    def _batch(self, line: bytes) -> tuple[int, Any] | None:
        """The number of rows and the note of the next batch; None if it is damaged."""
        try:
            found = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            found = None
        if found is None:
            return None
        checksum = 0
        for name, file in self._files.items():
            content = file.read(found["rows"] * self.columns[name].row_bytes)
            checksum = zlib.crc32(content, checksum)
        return (found["rows"], found["note"]) if checksum == found["crc32"] else None

    def append(self, batch: Mapping[str, np.ndarray], note: Any) -> None:
        """Adds a batch.

        Args:
          batch: An array for each column, of the same number of rows.
          note: Anything that JSON takes.

        Raises:
          OSError: The disk is full or not writable.
        """
        checksum, (rows,) = 0, {len(values) for values in batch.values()}
        for name, file in self._files.items():
            content = np.ascontiguousarray(batch[name], self.columns[name].dtype).tobytes()
            checksum = zlib.crc32(content, checksum)
            file.write(content)
            file.flush()
        line = json.dumps({"rows": rows, "crc32": checksum, "note": note})
        self._lines.write(line.encode() + b"\n")
        self._lines.flush()
        self.rows += rows
        self.note = note

    def notes(self) -> Iterator[Any]:
        """What was noted with each batch."""
        with (self._folder / _BATCHES).open("rb") as lines:
            yield from (json.loads(line)["note"] for line in lines)

    def parts(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """A column's values, a number of rows at a time."""
        column = self.columns[name]
        with (self._folder / name).open("rb") as file:
            for start in range(0, self.rows, rows):
                count = min(rows, self.rows - start)
                content = file.read(count * column.row_bytes)
                yield np.frombuffer(content, column.dtype).reshape(column.shape(count))

    def close(self) -> None:
        """Closes the files."""
        for file in (self._lines, *self._files.values()):
            # What a full disk did not take is still in the buffer, and counts in no line.
            with contextlib.suppress(OSError):
                file.close()
