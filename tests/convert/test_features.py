"""The features of a folder of images: what is written, what is skipped, and interrupted runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from programs import ROOT
from refusals import one_line
from tiers import first_fast, slow

import mobilenets
from convert import extractors, feature_files
from convert.columns import Columns
from convert.errors import ConvertError
from convert.extractors import Extractor
from convert.features import Extracted, extract
from mobilenets import MobileNet, Variant

SIZE = 32
NAMES = ("cat", "dog", "owl")


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    return path


FILES = ["a/1.png", "a/2.png", "b c/1.png", "b c/z/3.png", "b c/ü.png", "d/1.png", "d/2.png"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for seed, name in enumerate(FILES):
        picture(tmp_path / "images" / name, seed)
    return tmp_path / "images"


def means(batch: tf.Tensor) -> np.ndarray:
    """Features of an image that tell it from the others, and depend on it alone."""
    return np.array(batch).mean((1, 2)) @ np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]])


def stub(run: Callable | None = None, **changes: Any) -> Extractor:
    """Four features, and scores of three classes."""

    def both(batch: tf.Tensor) -> tuple[np.ndarray, ...]:
        features = means(batch).astype(np.float32)
        return features, 10 * features[:, :3]

    fields: dict[str, Any] = {
        "source": "stub",
        "run": run or both,
        "softmax": False,
        "image_size": SIZE,
        "num_features": 4,
        "num_classes": 3,
        "class_names": NAMES,
        "fingerprint": "stub",
    }
    return Extractor(**(fields | changes))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[[Extractor], None]:
    """`model(stub(…))`: what every source opens as; at first `stub()`."""

    def model(extractor: Extractor) -> None:
        monkeypatch.setattr(extractors, "opened", lambda source, image_size: extractor)

    model(stub())
    return model


def features_of(paths: list[Path]) -> np.ndarray:
    return means(mobilenets.images.load_batch(paths, SIZE))


@pytest.mark.parametrize("batch_size", first_fast([2, 7, 32]))
def test_npz(batch_size: int, pictures: Path, tmp_path: Path, model: Callable) -> None:
    seen: list[tuple[int, int]] = []
    done = extract(
        "stub",
        pictures,
        tmp_path / "new" / "f.npz",
        batch_size=batch_size,
        on_progress=lambda *counts: seen.append(counts),
    )
    with np.load(tmp_path / "new" / "f.npz") as file:
        found = dict(file)
    expected = features_of([pictures / name for name in FILES])
    shares = np.array(tf.nn.softmax(10 * expected[:, :3]))
    np.testing.assert_allclose(found["features"], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["classes"], shares.argmax(1))
    np.testing.assert_allclose(found["probabilities"], shares.max(1), rtol=0, atol=1e-6)
    assert found["files"].tolist() == FILES
    assert found["labels"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert found["label_names"].tolist() == ["a", "b c", "d"]
    assert found["class_names"].tolist() == list(NAMES)
    types = {name: values.dtype.str for name, values in found.items()}
    assert types == {
        "features": "<f4",
        "classes": "<i4",
        "probabilities": "<f4",
        "labels": "<i4",
        "files": "<U11",
        "label_names": "<U3",
        "class_names": "<U3",
    }
    assert done == Extracted(
        output=str(tmp_path / "new" / "f.npz"),
        images=7,
        num_features=4,
        num_classes=3,
        folders=["a", "b c", "d"],
        image_size=SIZE,
        crop="central",
        skipped={},
        resumed=0,
        seconds=done.seconds,
    )
    assert (seen[0], seen[-1], len(seen)) == ((0, 7), (7, 7), 1 + -(-7 // batch_size))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["f.npz"]


def test_parquet(pictures: Path, tmp_path: Path, model: Callable) -> None:
    """The values of the `.npz`, with a row for each image."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for name in ("f.npz", "f.parquet"):
        extract("stub", pictures, tmp_path / name, batch_size=2)
    table = parquet.read_table(tmp_path / "f.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("file", "string"),
        ("features", "fixed_size_list<element: float>[4]"),
        ("label", "int32"),
        ("label_name", "dictionary<values=string, indices=int32, ordered=0>"),
        ("class", "int32"),
        ("probability", "float"),
        ("class_name", "dictionary<values=string, indices=int32, ordered=0>"),
    ]
    found = table.to_pydict()
    with np.load(tmp_path / "f.npz") as arrays:
        for column, array in (
            *(("file", "files"), ("features", "features"), ("label", "labels")),
            *(("class", "classes"), ("probability", "probabilities")),
        ):
            assert found[column] == arrays[array].tolist()
    assert found["label_name"] == [name.partition("/")[0] for name in FILES]
    assert found["class_name"] == [NAMES[position] for position in found["class"]]


@pytest.mark.parametrize("suffix", [".npz", slow(".parquet")])
def test_features_alone(suffix: str, pictures: Path, tmp_path: Path, model: Callable) -> None:
    """No predictions without classes, and no labels if an image lies in no folder."""
    picture(pictures / "c.png", 9)

    def run(batch: tf.Tensor) -> tuple[np.ndarray, ...]:
        return (means(batch).astype(np.float32),)

    model(stub(run, num_classes=None, class_names=None))
    done = extract("stub", pictures, tmp_path / f"f{suffix}")
    assert (done.images, done.num_classes, done.folders) == (8, None, None)
    if suffix == ".npz":
        with np.load(tmp_path / "f.npz") as found:
            assert {*found} == {"features", "files"}
            assert found["files"].tolist() == [*FILES[:5], "c.png", *FILES[5:]]
    else:
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        assert parquet.read_schema(tmp_path / "f.parquet").names == ["file", "features"]


def test_probabilities_stay(pictures: Path, tmp_path: Path, model: Callable) -> None:
    """No second softmax, and no names."""
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)

    def run(batch: tf.Tensor) -> tuple[np.ndarray, ...]:
        return means(batch), np.repeat(scores, len(batch), 0)

    model(stub(run, softmax=True, class_names=None))
    extract("stub", pictures, tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as found:
        assert found["probabilities"].tolist() == [scores.max()] * 7
        assert "class_names" not in found


@pytest.mark.parametrize("crop", ["none", slow("central")])
def test_crop(crop: str, pictures: Path, tmp_path: Path, model: Callable) -> None:
    extract("stub", pictures, tmp_path / "f.npz", crop=crop)
    paths = [pictures / name for name in FILES]
    expected = means(mobilenets.images.load_batch(paths, SIZE, None if crop == "none" else crop))
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".npz", slow(".parquet")])
def test_unreadable_files(
    suffix: str, pictures: Path, tmp_path: Path, model: Callable, command: Callable
) -> None:
    """First, last, and a whole batch in the middle."""
    broken = ["a/0.jpg", "b c/0.gif", "b c/00.png", "b c/000.png", "d/3.bmp"]
    for name in broken:
        (pictures / name).write_bytes(b"\xff\xd8\xff not an image")
    output = tmp_path / f"f{suffix}"
    arguments = ("features", "stub", "--images", pictures, "--output", output, "--batch-size", 2)
    code, text, _ = command(*arguments, "--json")
    done = json.loads(text)
    assert (code, done["images"], [*done["skipped"]]) == (1, 7, sorted(broken))
    assert "cannot load" in done["skipped"]["a/0.jpg"]
    if suffix == ".npz":
        with np.load(output) as found:
            assert found["files"].tolist() == FILES
            expected = features_of([pictures / name for name in FILES])
            np.testing.assert_allclose(found["features"], expected, rtol=0, atol=1e-6)
    code, text, _ = command(*arguments)
    assert code == 1
    assert "5 files are not in it:\n" in text
    assert f"  cannot load '{pictures}/d/3.bmp': " in text


def test_a_file_that_can_be_read_after_all(
    pictures: Path, tmp_path: Path, model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed once must not be missing silently: the same command tries again."""
    content = (pictures / "d/1.png").read_bytes()
    times = os.stat(pictures / "d/1.png")
    (pictures / "d/1.png").write_bytes(b"x" * len(content))
    os.utime(pictures / "d/1.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    original = mobilenets.images.load

    def repaired(source: Any, *arguments: Any) -> tf.Tensor:
        if isinstance(source, Path):
            (pictures / "d/1.png").write_bytes(content)
            os.utime(pictures / "d/1.png", ns=(times.st_atime_ns, times.st_mtime_ns))
        return original(source, *arguments)

    monkeypatch.setattr(mobilenets.images, "load", repaired)
    with pytest.raises(ConvertError, match=one_line("d/1.png could not be read, and a moment")):
        extract("stub", pictures, tmp_path / "f.npz", batch_size=2)
    done = extract("stub", pictures, tmp_path / "f.npz", batch_size=2)
    assert (done.images, done.resumed, done.skipped) == (7, 4, {})


class Stop(BaseException):
    """As sudden as a signal."""


def interrupted(after: int, *arguments: Any, **options: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        extract(*arguments, on_progress=stop, **options)


@pytest.mark.parametrize("suffix", [".npz", slow(".parquet")])
def test_an_interrupted_run_continues(
    suffix: str, pictures: Path, tmp_path: Path, model: Callable
) -> None:
    """With the same file, bit for bit, and what was skipped before."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (pictures / "a" / "0.jpg").write_bytes(b"\xff\xd8\xff not an image")
    (tmp_path / "in one").mkdir()
    whole = extract("stub", pictures, tmp_path / "in one" / f"f{suffix}", batch_size=2)
    output = tmp_path / f"f{suffix}"
    output.write_text("old")
    interrupted(3, "stub", pictures, output, batch_size=2)
    interrupted(7, "stub", pictures, output, batch_size=2)
    assert output.read_text() == "old"
    computed: list[int] = []
    both = stub().run
    model(stub(lambda batch: computed.append(len(batch)) or both(batch)))
    notes: list[str] = []
    done = extract("stub", pictures, output, batch_size=2, on_note=notes.append)
    assert notes == ["continuing an interrupted run: 6 images are done"]
    assert (done.images, done.resumed, sum(computed)) == (7, 6, 1)
    assert done.skipped == whole.skipped
    assert {*done.skipped} == {"a/0.jpg"}
    assert output.read_bytes() == (tmp_path / "in one" / output.name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, "images", "in one"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda pictures, model: {"batch_size": 3}, "batch size"),
        (lambda pictures, model: picture(pictures / "d/2.png", 99), "images"),
        slow(lambda pictures, model: {"crop": "none"}, "crop"),
        slow(lambda pictures, model: model(stub(fingerprint="other")), "model"),
        slow(lambda pictures, model: (pictures / "d/2.png").rename(pictures / "d/3.png"), "images"),
    ],
    ids=["batch size", "another image", "crop", "model", "another name"],
)
def test_another_run_starts_afresh(
    change: Callable, named: str, pictures: Path, tmp_path: Path, model: Callable
) -> None:
    interrupted(4, "stub", pictures, tmp_path / "f.npz", batch_size=2)
    options = change(pictures, model)
    options = {"batch_size": 2} | (options if isinstance(options, dict) else {})
    notes: list[str] = []
    done = extract("stub", pictures, tmp_path / "f.npz", on_note=notes.append, **options)
    assert notes == [f"an interrupted run had other {named}: starting afresh"]
    assert (done.images, done.resumed) == (7, 0)


@pytest.mark.parametrize(
    ("output", "prepare", "message"),
    [
        ("f.csv", None, r"f.csv: expected a name that ends in .npz or .parquet"),
        ("d.npz", lambda folder: (folder / "d.npz").mkdir(), "it is a folder; name a file in it"),
        ("f.npz", lambda folder: (folder / "images").rename(folder / "x"), "no such folder"),
        (
            "f.npz",
            lambda folder: [each.unlink() for each in (folder / "images").rglob("*.png")],
            r"images: no .bmp, .*, .png in it",
        ),
        (
            "f.npz",
            lambda folder: [each.write_text("no") for each in (folder / "images").rglob("*.png")],
            "images: no image can be read; cannot load '.*a/1.png'",
        ),
        (
            "f.npz",
            lambda folder: picture(folder / "images" / "a\nb.png", 0),
            r"images: rename 'a\\nb.png': only UTF-8 on one line is read",
        ),
        (
            "f.npz",
            lambda folder: (folder / "images" / os.fsdecode(b"\xff.png")).touch(),
            r"images: rename '\\udcff.png': only UTF-8 on one line is read",
        ),
    ],
    ids=["kind", "folder", "absent", "empty", "unreadable", "line break", "not UTF-8"],
)
def test_errors(
    output: str,
    prepare: Callable | None,
    message: str,
    pictures: Path,
    tmp_path: Path,
    model: Callable,
) -> None:
    if prepare:
        prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConvertError, match=one_line(message)):
        extract("stub", pictures, tmp_path / output)
    assert sorted(tmp_path.iterdir()) == before


def test_no_pyarrow(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the model is loaded."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConvertError, match=one_line("pip install 'mobilenets-tf2.parquet.'")):
        extract("absent", pictures, tmp_path / "f.parquet")


@pytest.mark.parametrize("which", [0, 1], ids=["features", "scores"])
def test_features_that_are_not_finite(
    which: int, pictures: Path, tmp_path: Path, model: Callable
) -> None:
    def run(batch: tf.Tensor) -> tuple[np.ndarray, ...]:
        outputs = stub().run(batch)
        outputs[which][1, 2] = np.nan
        return outputs

    model(stub(run))
    with pytest.raises(ConvertError, match=one_line("stub: the outputs for a/2.png are NaN")):
        extract("stub", pictures, tmp_path / "f.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_file_that_another_process_writes(
    pictures: Path, tmp_path: Path, model: Callable
) -> None:
    interrupted(4, "stub", pictures, tmp_path / "f.npz", batch_size=2)
    with (tmp_path / ".f.npz.unfinished" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConvertError, match=one_line("f.npz is being written by another")):
            extract("stub", pictures, tmp_path / "f.npz", batch_size=2)
    assert extract("stub", pictures, tmp_path / "f.npz", batch_size=2).resumed == 4


def test_a_full_disk(
    pictures: Path, tmp_path: Path, model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done stays."""
    append, batches = Columns.append, []

    def full(columns: Columns, *batch: Any) -> None:
        batches.append(batch)
        if len(batches) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(columns, *batch)

    monkeypatch.setattr(Columns, "append", full)
    with pytest.raises(ConvertError, match=one_line("f.npz cannot be written: No space left")):
        extract("stub", pictures, tmp_path / "f.npz", batch_size=2)
    assert not (tmp_path / "f.npz").exists()
    assert extract("stub", pictures, tmp_path / "f.npz", batch_size=2).resumed == 4


@pytest.mark.slow
def test_memory_does_not_grow(
    tmp_path: Path, model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten times the images, what Python and NumPy hold at most grows by less than a batch."""
    width, batch_size = 4096, 32
    monkeypatch.setattr(feature_files, "_ROWS", batch_size)
    peaks: list[int] = []
    limit = 4 * width * batch_size
    held: list[str] = []

    def run(batch: tf.Tensor) -> tuple[np.ndarray, ...]:
        if len(peaks) == 2 and tracemalloc.get_traced_memory()[0] > peaks[1] + limit:
            held[:] = map(str, tracemalloc.take_snapshot().statistics("lineno")[:10])
        return (np.zeros((len(batch), width), np.float32),)

    model(stub(run, num_features=width, num_classes=None, class_names=None, image_size=8))
    first = picture(tmp_path / "one.png", 0)
    # The first run loads what it needs.
    for i, count in enumerate((100, 100, 1000)):
        folder = tmp_path / f"images {i}"
        folder.mkdir()
        for number in range(count):
            os.link(first, folder / f"{number:05}.png")
        tracemalloc.start()
        extract("stub", folder, tmp_path / "f.npz", batch_size=batch_size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < limit, "\n".join(held)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, randomise: Callable, untraced: Any) -> Path:
    """A module with three classes."""
    folder = tmp_path_factory.mktemp("small") / "classification"
    with untraced():
        network = MobileNet(Variant("mobilenet_v1", 0.25, SIZE), class_names=NAMES)
        mobilenets.save(randomise(network), folder)
    return folder


@pytest.mark.slow
def test_command_line(small: Path, pictures: Path, tmp_path: Path, command: Callable) -> None:
    output = tmp_path / "f.npz"
    code, text, err = command("features", small, "--images", pictures, "--output", output)
    assert (code, "Traceback" in err) == (0, False)
    first, second = text.splitlines()
    assert first == (
        f"{output}: 7 images, central crop at 32 px; 256 features each, labels of 3 folders, "
        "predictions of 3 classes."
    )
    assert second.startswith("7 images in ")
    batch = mobilenets.images.load_batch([pictures / name for name in FILES], SIZE)
    logits = mobilenets.load(small)(batch)
    with np.load(output) as found:
        np.testing.assert_array_equal(found["classes"], np.argmax(logits, 1))
        shares = tf.reduce_max(tf.nn.softmax(logits), 1)
        np.testing.assert_allclose(found["probabilities"], shares, rtol=0, atol=1e-5)
        assert found["features"].shape == (7, 256)


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "convert", "features", *map(str, arguments), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_killed_process_continues(suffix: str, small: Path, tmp_path: Path) -> None:
    """With SIGKILL among the batches; the file is that of a run in one go, bit for bit."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    count, batch_size, output = 1000, 4, tmp_path / f"f{suffix}"
    pictures = [picture(tmp_path / "images" / "a" / f"{i}.png", i) for i in range(100)]
    for i in range(100, count):
        os.link(pictures[i % 100], tmp_path / "images" / "a" / f"{i}.png")
    arguments = (small, "--images", tmp_path / "images", "--batch-size", batch_size, "--output")
    first = started(*arguments, output)
    lines = tmp_path / f".{output.name}.unfinished" / "batches.jsonl"
    while first.poll() is None and (not lines.exists() or lines.stat().st_size < 2000):
        time.sleep(0.002)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert not output.exists()
    text, err = started(*arguments, output).communicate()
    done = json.loads(text)
    assert done["images"] == count
    assert batch_size <= done["resumed"] < count
    assert f"continuing an interrupted run: {done['resumed']} images are done" in err
    (tmp_path / "in one").mkdir()
    started(*arguments, tmp_path / "in one" / output.name).communicate()
    assert output.read_bytes() == (tmp_path / "in one" / output.name).read_bytes()
    assert not lines.parent.exists()


RESIDENT = """
import resource, sys
from convert.__main__ import main
assert main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_resident_memory_does_not_grow(small: Path, tmp_path: Path) -> None:
    """Of the whole process, by less than the images that it has seen more of (108 MB)."""
    first = picture(tmp_path / "one.png", 0)
    peaks = []
    for count in (1000, 10_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(first, folder / f"{number:05}.png")
        arguments = ["features", small, "--images", folder, "--output", tmp_path / "f.npz"]
        done = subprocess.run(
            [sys.executable, "-c", RESIDENT, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.splitlines()[-1]) / 1e3)
    assert peaks[1] - peaks[0] < 9000 * SIZE * SIZE * 3 * 4 / 1e6 / 3, peaks
