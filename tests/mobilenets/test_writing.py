"""Files and folders arrive complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilenets.writing import written_beside


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replaced"])
def test_what_is_written_arrives(kind: str, replacing: bool, tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"
    for text in ("old", "new") if replacing else ("new",):
        with written_beside(target) as folder:
            entry = folder / "target"
            if kind == "folder":
                entry.mkdir()
                entry /= "file"
            entry.write_text(text)
            (folder / "target.labels").write_text(text)
            assert not any("target" in name and text in name for name in names(tmp_path / "new"))
    assert names(tmp_path / "new") == ["target", "target.labels"]
    found = target if kind == "file" else target / "file"
    assert (found.read_text(), (tmp_path / "new" / "target.labels").read_text()) == ("new", "new")
    assert target.stat().st_mode & 0o777 == (0o644 if kind == "file" else 0o755)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failed_block_leaves_the_old(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    (target / "file" if kind == "folder" else target).write_text("old")
    with pytest.raises(KeyError), written_beside(target) as folder:  # noqa: PT012
        (folder / "target").mkdir()
        raise KeyError
    assert names(tmp_path) == ["target"]
    assert (target / "file" if kind == "folder" else target).read_text() == "old"


def test_what_is_neither_a_file_nor_a_folder_stays(tmp_path: Path) -> None:
    """Root could replace /dev/null."""
    target = tmp_path / "pipe"
    os.mkfifo(target)
    with pytest.raises(OSError, match="neither a file nor a folder"), written_beside(target):
        pytest.fail("nothing is to be written")
    assert names(tmp_path) == ["pipe"]
    assert target.is_fifo()


@pytest.mark.parametrize("target", ["", ".", "..", "/", "folder/.."])
def test_a_path_without_a_name_is_refused(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="the path ends in no name"), written_beside(target):
        pytest.fail("nothing is to be written")
    assert names(tmp_path) == []


def test_the_target_moves_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace
    monkeypatch.setattr(
        "os.replace", lambda old, new: (moved.append(Path(new).name), replace(old, new))
    )
    with written_beside(tmp_path / "b") as folder:
        for name in "cab":
            (folder / name).write_text("")
    assert (sorted(moved), moved[-1]) == (["a", "b", "c"], "b")


def test_a_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "module"
    target.mkdir()
    (target / "file").write_text("old")
    # What is there in between, were there two steps.
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("the target is absent now"))
    with written_beside(target) as folder:
        (folder / "module").mkdir()
        (folder / "module" / "file").write_text("new")
    assert names(tmp_path) == ["module"]
    assert (target / "file").read_text() == "new"


def test_an_older_folder_survives_a_failed_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenets.writing._exchanged", lambda one, other: False)
    target = tmp_path / "module"
    target.mkdir()
    (target / "file").write_text("old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == target and self.parent.name == "new":
            raise OSError("no space")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space"), written_beside(target) as folder:  # noqa: PT012
        (folder / "module").mkdir()
        (folder / "module" / "file").write_text("new")
    assert names(tmp_path) == ["module"]
    assert (target / "file").read_text() == "old"


@pytest.mark.parametrize("target", ["/dev/null/file", "/proc/file"])
def test_where_nothing_can_be_written(target: str) -> None:
    with pytest.raises(OSError), written_beside(target) as folder:  # noqa: PT011
        (folder / "file").write_text("")


@contextlib.contextmanager
def writing(target: Path, then: str = "") -> Iterator[subprocess.Popen]:
    """A process that is about to write the target."""
    program = f"""
import sys, time
from convert import light
from mobilenets import writing
with writing.written_beside(sys.argv[1]) as folder:
    (folder / "file").write_text("half")
    {then}
    print("begun", flush=True)
    time.sleep(100)
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, target], stdout=subprocess.PIPE, cwd=root, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    with writing(tmp_path / "target"):
        pass
    (left,) = names(tmp_path)
    assert left.startswith(".target.")
    with writing(tmp_path / "target"):
        (live,) = names(tmp_path)
        assert live != left
        with written_beside(tmp_path / "target") as folder:
            (folder / "target").write_text("whole")
        assert names(tmp_path) == [live, "target"]


def test_what_a_killed_process_was_about_to_replace_is_back(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    moved = "import os; os.rename(sys.argv[1], folder.parent / 'old' / 'target')"
    with writing(tmp_path / "target", moved):
        pass
    assert "target" not in names(tmp_path)
    with pytest.raises(KeyError), written_beside(tmp_path / "target"):
        raise KeyError
    assert names(tmp_path) == ["target"]


def test_a_folder_that_another_process_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making and locking it."""
    makes, made = tempfile.mkdtemp, []

    def make(*arguments: object) -> str:
        made.append(makes(*arguments))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr("tempfile.mkdtemp", make)
    with written_beside(tmp_path / "target") as folder:
        (folder / "target").write_text("whole")
    assert (names(tmp_path), len(made)) == (["target"], 2)
