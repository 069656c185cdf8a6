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

import numpy as np
import pytest
import tensorflow as tf
from programs import in_turn
from tiers import first_fast

import mobilenets
from convert.export import slim

SAMPLE = Path(__file__).resolve().parents[3] / "sample" / "mobilenet_v1_0.25_64.ckpt"
MODULE = "models/mobilenet_v1_025_64/classification"
COMMANDS = {
    "slim": ("slim", SAMPLE, "--output", "out/m.ckpt"),
    "keras-weights": ("keras-weights", SAMPLE, "--output", "out/w.h5"),
    "keras-weights for Keras 3": ("keras-weights", SAMPLE, "--output", "out/w.weights.h5"),
    "lite": ("lite", SAMPLE, "--output", "out/m.tflite"),
    "features": ("features", SAMPLE, "--images", "photos", "--output", "out/f.npz"),
    "features as Parquet": ("features", SAMPLE, "--images", "photos", "--output", "out/f.parquet"),
    "evaluate": ("evaluate", MODULE, "--images", "photos", "--csv", "out/p.csv"),
    "checkpoint": ("checkpoint", SAMPLE, "--output", "out"),
    "publish": ("publish", "models", "--output", "out"),
}
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


@pytest.fixture
def photos(tmp_path: Path, random_images: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working directory."""
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(random_images(3, 80)):
        path = Path("photos", "zero", f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = tf.constant(np.round(image * 255).astype(np.uint8))
        path.write_bytes(tf.io.encode_png(pixels).numpy())


@pytest.fixture
def published_checkpoints(tmp_path: Path) -> Callable[..., Path]:
    """`published_checkpoints(*slim_names)`: a folder of them, with random weights."""

    def published_checkpoints(*names: str) -> Path:
        for name in names:
            model = mobilenets.MobileNet(name)
            slim.export(model, tmp_path / "checkpoints" / f"{name}.ckpt")
        return tmp_path / "checkpoints"

    return published_checkpoints


def files(folder: str) -> dict[str, bytes]:
    found = {str(path): path for path in Path(folder).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if UNFINISHED not in name}


@pytest.mark.parametrize("name", first_fast(COMMANDS, 2))
def test_no_room(name: str, photos: None, command: Callable) -> None:
    arguments = COMMANDS[name]
    if name in ("evaluate", "publish"):
        labels = SAMPLE.with_name("labels.txt")
        assert command("checkpoint", SAMPLE, "--labels", labels, "--output", "models")[0] == 0
    assert command(*arguments)[0] == 0
    whole = files("out")
    largest = max(map(len, whole.values()))
    # Of the first byte, of a header, of the last byte.
    for size in (0, min(1_000, largest // 2), largest - 1):
        shutil.rmtree("out")
        Path("out").mkdir()
        with no_file_beyond(size):
            code, _, said = command(*arguments)
        assert code == 2, size
        assert ONE_LINE.fullmatch(said.splitlines(keepends=True)[-1]), said
        # Each module, each archive is whole, or not there.
        assert files("out").items() <= whole.items(), size
        assert len(files("out")) < len(whole)
    for path, content in whole.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)
    if name not in ("checkpoint", "publish"):
        with no_file_beyond(0):
            assert command(*arguments)[0] == 2
        assert files("out") == whole
    shutil.rmtree("out")
    assert command(*arguments)[0] == 0
    assert files("out").keys() == whole.keys()


@pytest.mark.slow
def test_no_room_for_all(
    photos: None, published_checkpoints: Callable[..., Path], command: Callable
) -> None:
    """In workers; each variant is an outcome of its own, and the next run makes what failed."""
    checkpoints = published_checkpoints("mobilenet_v1_0.25_128", "mobilenet_v1_0.25_160")
    arguments = ("all", "--checkpoints", checkpoints, "--output", "out", "--jobs", "2")
    arguments += ("--offline", "--only", "mobilenet_v1_025_1[26][08]", "--json")
    assert command(*arguments)[0] == 0
    whole = files("out")
    largest = max(map(len, whole.values()))
    for size in (0, min(1_000, largest // 2), largest - 1):
        shutil.rmtree("out")
        Path("out").mkdir()
        # Workers keep the limits of the process that started the first.
        done = in_turn([arguments], functools.partial(limit, size))
        said, end = done.stdout.split("<end ")
        if not size:
            # Not even for a temporary file: no worker starts.
            assert end == "2>"
            assert "error: No usable temporary directory found" in done.stderr
            assert files("out") == {}
            continue
        assert end == "1>", (size, done.stderr)
        for outcome in json.loads(said):
            assert outcome["status"] == "failed"
            assert ONE_LINE.fullmatch(f"error: {outcome['detail']}\n"), outcome
        assert files("out").items() <= whole.items(), size
        assert len(files("out")) < len(whole)
    assert command(*arguments)[0] == 0
    assert files("out").keys() == whole.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trainable", "serving"])
def test_no_room_to_save(kind: str, photos: None) -> None:
    """A new module, and one over another."""
    model = mobilenets.load(SAMPLE)
    mobilenets.save(model, "out/module", trainable=kind == "trainable")
    whole = files("out")
    largest = max(map(len, whole.values()))
    for size in (0, min(1_000, largest // 2), largest - 1):
        for before in ({}, whole):
            if not before:
                shutil.rmtree("out")
            with no_file_beyond(size), pytest.raises(OSError, match=r"[Ff]ile too large") as caught:
                mobilenets.save(model, "out/module", trainable=kind == "trainable")
            assert "function_node" not in str(caught.value)
            assert files("out") == before
            for path, content in whole.items():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_bytes(content)
    mobilenets.save(model, "out/module", trainable=kind == "trainable")
    assert files("out").keys() == whole.keys()
