"""Columns that grow by batches: what is kept of a folder, however its last program ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.columns import Column, Columns

TYPES = {"number": Column("<i8"), "vector": Column("<f4", 3)}


def batch(start: int, rows: int) -> dict[str, np.ndarray]:
    numbers = np.arange(start, start + rows)
    return {"number": numbers, "vector": numbers[:, None] + np.array([0.25, 0.5, 0.75])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two batches, of four and of two rows."""
    columns = Columns(tmp_path, TYPES)
    columns.append(batch(0, 4), "first")
    columns.append(batch(4, 2), "second")
    columns.close()
    return tmp_path


def values(columns: Columns) -> list[int]:
    numbers = [each for part in columns.parts("number", 4) for each in part.tolist()]
    vectors = [each for part in columns.parts("vector", 4) for each in part.tolist()]
    assert vectors == [[n + 0.25, n + 0.5, n + 0.75] for n in numbers]
    return numbers


def test_values_come_back_in_parts(folder: Path) -> None:
    columns = Columns(folder, TYPES)
    assert (columns.rows, columns.note, [*columns.notes()]) == (6, "second", ["first", "second"])
    assert [part.shape for part in columns.parts("vector", 4)] == [(4, 3), (2, 3)]
    assert [part.dtype for part in columns.parts("number", 6)] == [np.int64]
    assert values(columns) == [*range(6)]


def cut(file: Path, missing: int) -> None:
    file.write_bytes(file.read_bytes()[:-missing])


def zeros(file: Path, count: int) -> None:
    """What a file system may leave after the power failed."""
    content = file.read_bytes()
    file.write_bytes(content[:-count] + bytes(count))


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        (lambda folder: None, 6),
        (lambda folder: (folder / "vector").open("ab").write(b"of a third batch"), 6),
        (lambda folder: (folder / "batches.jsonl").open("ab").write(b'{"rows": 2, "cr'), 6),
        (lambda folder: cut(folder / "batches.jsonl", 1), 4),
        (lambda folder: cut(folder / "vector", 1), 4),
        (lambda folder: zeros(folder / "vector", 5), 4),
        (lambda folder: (folder / "number").unlink(), 0),
        (lambda folder: zeros(folder / "batches.jsonl", 5), 4),
    ],
    ids=["none", "more", "a line begun", "no line end", "cut", "zeros", "absent", "line of zeros"],
)
def test_whole_batches_are_kept(damage, rows: int, folder: Path) -> None:
    damage(folder)
    columns = Columns(folder, TYPES)
    assert columns.rows == rows
    assert columns.note == {6: "second", 4: "first", 0: None}[rows]
    columns.append(batch(rows, 3), "third")
    columns.close()
    again = Columns(folder, TYPES)
    assert (again.rows, again.note) == (rows + 3, "third")
    assert values(again) == [*range(rows + 3)]


def test_removed(folder: Path) -> None:
    assert Columns.begun(folder)
    Columns.remove(folder)
    assert not Columns.begun(folder)
    columns = Columns(folder, TYPES)
    assert (columns.rows, columns.note) == (0, None)
    columns.append(batch(0, 1), None)
    assert values(columns) == [0]


def test_a_batch_of_nothing_keeps_its_note(tmp_path: Path) -> None:
    columns = Columns(tmp_path, TYPES)
    columns.append({name: np.zeros(column.shape(0)) for name, column in TYPES.items()}, {"a": 1})
    columns.close()
    assert (Columns(tmp_path, TYPES).rows, Columns(tmp_path, TYPES).note) == (0, {"a": 1})
