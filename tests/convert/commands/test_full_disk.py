"""Commands, and `save`, whose files find no room: one line, and nothing half-written.

The system's limit on the size of a file stands for the full disk: writes beyond it fail, those of
TensorFlow and HDF5 too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import SAMPLE, in_turn, writers
from tiers import first_fast

import mobilenets

OUT = Path("out")
COMMANDS = writers(Path("models"), Path("photos"), OUT)
# What an interrupted run continues from.
UNFINISHED = ".unfinished/"
ONE_LINE = re.compile(r"error: (?!.*function_node)(?!.*\[Op:).*[Ff]ile too large.*\n")


def limit(size: int) -> None:
    """From now on, writes fail where they would make a file larger than `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit(size)
    try:
        yield
    finally:
        limit(soft)


@pytest.fixture(autouse=True)
def _in_its_own_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)


def files() -> dict[str, bytes]:
    found = {str(path): path for path in OUT.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if UNFINISHED not in name}


def restore(content: dict[str, bytes]) -> None:
    """Makes these the files of the output."""
    if OUT.exists():
        shutil.rmtree(OUT)
    OUT.mkdir()
    for name, data in content.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


def sizes(whole: dict[str, bytes]) -> tuple[int, ...]:
    """Limits that are met at the first byte, in a header, and at the last byte."""
    largest = max(map(len, whole.values()))
    return 0, min(1_000, largest // 2), largest - 1


@pytest.mark.parametrize("name", first_fast(COMMANDS))
def test_no_room(name: str, command: Callable) -> None:
    arguments = COMMANDS[name]
    if name in ("evaluate", "publish"):
        labels = SAMPLE.with_name("labels.txt")
        assert command("checkpoint", SAMPLE, "--labels", labels, "--output", "models")[0] == 0
    OUT.mkdir()
    assert command(*arguments)[0] == 0
    whole = files()
    for size in sizes(whole):
        restore({})
        with no_file_beyond(size):
            code, _, said = command(*arguments)
        assert code == 2, size
        assert ONE_LINE.fullmatch(said.splitlines(keepends=True)[-1]), said
        # Each module, each archive is whole, or not there.
        assert files().items() <= whole.items(), size
        assert len(files()) < len(whole)
    if name not in ("checkpoint", "publish"):
        restore(whole)
        with no_file_beyond(0):
            assert command(*arguments)[0] == 2
        assert files() == whole
    restore({})
    assert command(*arguments)[0] == 0
    assert files().keys() == whole.keys()


@pytest.mark.slow
def test_no_room_for_all(published_checkpoints: Callable[..., Path], command: Callable) -> None:
    """In workers; each variant is an outcome of its own, and the next run makes what failed."""
    checkpoints = published_checkpoints("mobilenet_v1_0.25_128", "mobilenet_v1_0.25_160")
    arguments = ("all", "--checkpoints", checkpoints, "--output", OUT.absolute(), "--jobs", "2")
    arguments += ("--offline", "--only", "mobilenet_v1_025_1[26][08]", "--json")
    assert command(*arguments)[0] == 0
    whole = files()
    for size in sizes(whole):
        restore({})
        # Workers keep the limits of the process that started the first.
        done = in_turn([arguments], functools.partial(limit, size))
        said, end = done.stdout.split("<end ")
        if not size:
            # Not even for a temporary file: no worker starts.
            assert end == "2>"
            assert "error: No usable temporary directory found" in done.stderr
            assert files() == {}
            continue
        assert end == "1>", (size, done.stderr)
        for outcome in json.loads(said):
            assert outcome["status"] == "failed"
            assert ONE_LINE.fullmatch(f"error: {outcome['detail']}\n"), outcome
        assert files().items() <= whole.items(), size
        assert len(files()) < len(whole)
    assert command(*arguments)[0] == 0
    assert files().keys() == whole.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trainable", "serving"])
def test_no_room_to_save(kind: str) -> None:
    """A new module, and one over another."""
    model = mobilenets.load(SAMPLE)
    save = functools.partial(mobilenets.save, model, OUT / "module", trainable=kind == "trainable")
    save()
    whole = files()
    for size in sizes(whole):
        for before in ({}, whole):
            restore(before)
            with no_file_beyond(size), pytest.raises(OSError, match=r"[Ff]ile too large") as caught:
                save()
            assert "function_node" not in str(caught.value)
            assert files() == before
    save()
    assert files().keys() == whole.keys()
