"""Accuracy on labelled images: every layout of folders, and every way to get it wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from refusals import one_line
from tiers import first_fast

import mobilenets
from convert import evaluate as evaluation
from convert.__main__ import main
from convert.errors import ConvertError
from convert.evaluate import evaluate, labelled
from mobilenets import MobileNet

SYNSETS = [f"n{10_000_000 + 7 * i}" for i in range(1000)]


def picture(path: Path, brightness: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((40, 40, 3), brightness, np.uint8)
    path.write_bytes(tf.io.encode_png(image).numpy())
    return path


def empty(folder: Path, *names: str) -> Path:
    """Files that are called like images; finding them does not decode them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


class TestLabelled:
    def found(self, folder: Path, *arguments) -> dict[str, int]:
        result = labelled(folder, *arguments)
        assert result.paths == sorted(result.paths)
        return {
            str(path.relative_to(folder)): label
            for path, label in zip(result.paths, result.labels, strict=True)
        }

    def test_folders_by_name(self, tmp_path: Path) -> None:
        empty(tmp_path, "Hot_Dog/a.jpg", "Hot_Dog/nested/b.JPEG", "owl/c.png", ".hidden/d.png")
        empty(tmp_path, "owl/notes.txt", "owl/.e.png", "nothing/notes.txt")
        names = ["background", "owl", "hot dog", "crane"]
        assert self.found(tmp_path, 4, names) == {
            "Hot_Dog/a.jpg": 2,
            "Hot_Dog/nested/b.JPEG": 2,
            "owl/c.png": 1,
        }

    @pytest.mark.parametrize("names", [None, ["zero", "one", "two", "x"]], ids=["unnamed", "named"])
    def test_folders_by_position(self, names: list[str] | None, tmp_path: Path) -> None:
        empty(tmp_path, "3/a.png", "0/b.png")
        assert self.found(tmp_path, 4, names) == {"0/b.png": 0, "3/a.png": 3}

    def test_numbers_may_be_names(self, tmp_path: Path) -> None:
        empty(tmp_path, "3/a.png", "0/b.png")
        assert self.found(tmp_path, 2, ["3", "0"]) == {"0/b.png": 1, "3/a.png": 0}

    @pytest.mark.parametrize(("num_classes", "background"), [(1000, 0), (1001, 1)])
    def test_folders_by_synset(self, num_classes: int, background: int, tmp_path: Path) -> None:
        empty(tmp_path, *(f"{synset}/a.JPEG" for synset in SYNSETS))
        names = mobilenets.images.class_names()[-num_classes:]
        found = self.found(tmp_path, num_classes, names)
        assert list(found.values()) == [*range(background, num_classes)]

    def test_unnamed_classes_in_alphabetical_order(self, tmp_path: Path) -> None:
        empty(tmp_path, "b/2.png", "a/3.png", "C/1.png")
        assert self.found(tmp_path, 3) == {"C/1.png": 0, "a/3.png": 1, "b/2.png": 2}

    def validation(self, folder: Path, count: int = 5) -> Path:
        return empty(folder / "val", *(f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, count + 1)))

    def test_ground_truth_of_synsets(self, tmp_path: Path) -> None:
        """As Slim's list; some of its images are not there."""
        folder = self.validation(tmp_path)
        (folder / "ILSVRC2012_val_00000002.JPEG").unlink()
        truth = tmp_path / "labels.txt"
        truth.write_text("\n".join([*reversed(SYNSETS), SYNSETS[0]]) + "\n")
        assert self.found(folder, 1001, None, truth) == {
            "ILSVRC2012_val_00000001.JPEG": 1000,
            "ILSVRC2012_val_00000003.JPEG": 998,
            "ILSVRC2012_val_00000004.JPEG": 997,
            "ILSVRC2012_val_00000005.JPEG": 996,
        }

    @pytest.mark.parametrize(
        ("files", "num_classes", "names", "message"),
        [
            ([], 3, None, "has no images"),
            (["notes.txt"], 3, None, "has no images"),
            (["a.png"], 3, None, "images, but no folder for each class: .* pass the ground truth"),
            (["a/1.png", "b/1.png"], 3, None, "2 folders for the module's 3 unnamed classes"),
            (["a/1.png", "d/1.png"], 3, ["a", "b", "c"], "no class called 'd'; its 3 classes are"),
            (["0/1.png", "3/1.png"], 3, None, "/3: the module has 3 classes, from 0 to 2"),
            (["crane/1.png"], 3, ["a", "crane", "Crane"], "/crane: several classes have that name"),
            (["n01440764/1.png"], 1001, None, "1 synsets: only all 1000 .* after the classes"),
            (
                [f"{i}/1.png" for i in range(1000)],
                1001,
                None,
                "0 is the background: name .* 1",
            ),
            (
                [f"{s}/1.png" for s in SYNSETS],
                5,
                None,
                "ImageNet's synsets, but .* 5 classes",
            ),
        ],
        ids=[
            "empty",
            "no-images",
            "flat",
            "too-few",
            "unknown",
            "beyond",
            "ambiguous",
            "part",
            "shifted",
            "not-imagenet",
        ],
    )
    def test_folders_that_do_not_tell(
        self,
        files: list[str],
        num_classes: int,
        names: list[str] | None,
        message: str,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(ConvertError, match=one_line(message)):
            labelled(empty(tmp_path, *files), num_classes, names)

    def test_absent_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConvertError, match=one_line("absent: no such folder")):
            labelled(tmp_path / "absent", 3)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("490\n361\n", "'490' is not a synset; expected one synset per line"),
            ("n01440764 1\n", "'1' is not a synset"),
            ("n01440764\nn01440765\n", "2 synsets: only all 1000"),
            ("", "0 synsets: only all 1000"),
        ],
        ids=["devkit", "columns", "part", "empty"],
    )
    def test_ground_truth_that_does_not_tell(self, text: str, message: str, tmp_path: Path) -> None:
        folder = self.validation(tmp_path, 2)
        truth = tmp_path / "truth.txt"
        truth.write_text(text)
        with pytest.raises(ConvertError, match=one_line(message)):
            labelled(folder, 1001, None, truth)

    def test_ground_truth_needs_numbered_files(self, tmp_path: Path) -> None:
        truth = tmp_path / "truth.txt"
        truth.write_text("\n".join(SYNSETS))
        for name in ("cat.png", "ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00001001.JPEG"):
            with pytest.raises(ConvertError, match=one_line(f"{name} has no line")):
                labelled(empty(tmp_path / Path(name).stem, name), 1001, None, truth)
        with pytest.raises(ConvertError, match=one_line("absent.txt cannot be read")):
            labelled(self.validation(tmp_path), 1001, None, tmp_path / "absent.txt")
        with pytest.raises(ConvertError, match=one_line("for images in one folder; .* has none")):
            labelled(empty(tmp_path / "folders", "a/1.png"), 1001, None, truth)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module of seven classes: of a white image `g` has the highest logit, then `f`, `e` …"""
    model = MobileNet("mobilenet_v1_025_32", class_names=list("abcdefg"))
    black, white = (
        model(np.full((1, 32, 32, 3), v, np.float32), return_endpoints=True)[
            "MobilenetV1/global_pool"
        ][0, 0, 0].numpy()
        for v in (0, 1)
    )
    direction = (white - black) / np.sum((white - black) ** 2)
    slopes = np.arange(7) - 3
    model.logits.kernel.assign((direction[:, None] * slopes)[None, None])
    model.logits.biases.assign(-slopes * (direction @ (black + white)) / 2)
    folder = tmp_path_factory.mktemp("brightness") / "classification"
    mobilenets.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures: of the white ones `g` is right, `c` among the top five, `a` the last."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, count in (("g", 4), ("c", 3), ("a", 2)):
        for i in range(count):
            picture(folder / name / f"{i}.png", 255)
    picture(folder / "a" / "black.png", 0)
    return folder


@pytest.mark.parametrize("batch_size", first_fast([4, 1, 32]))
def test_accuracy(brightness: Path, pictures: Path, batch_size: int) -> None:
    seen: list[tuple[int, int]] = []
    done = evaluate(
        brightness,
        pictures,
        batch_size=batch_size,
        on_progress=lambda *counts: seen.append(counts),
    )
    assert (done.images, done.variant, done.image_size) == (10, "mobilenet_v1_025_32", 32)
    assert done.top1 == pytest.approx(50)
    assert done.top5 == pytest.approx(80)
    assert (done.published_top1, done.published_top5) == (None, None)
    assert (done.layout, done.crop) == ("folders by name", "central")
    assert seen[0] == (0, 10)
    assert seen[-1] == (10, 10)
    assert len(seen) == -(-10 // batch_size) + 1


@pytest.mark.slow
def test_equal_logits_count_once(tmp_path: Path) -> None:
    model = MobileNet("mobilenet_v1_025_32", 10)
    model.logits.kernel.assign(np.zeros(model.logits.kernel.shape))
    mobilenets.save(model, tmp_path / "constant")
    for i in range(10):
        picture(tmp_path / "images" / str(i) / "a.png")
    done = evaluate(tmp_path / "constant", tmp_path / "images")
    assert (done.top1, done.top5) == (pytest.approx(10), pytest.approx(50))


@pytest.mark.parametrize(("crop", "brightest"), [("central", 0), ("none", 1)])
def test_crop(
    crop: str, brightest: float, brightness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A white frame lies beyond the central crop."""
    image = np.full((64, 64, 3), 0, np.uint8)
    image[:4] = image[-4:] = image[:, :4] = image[:, -4:] = 255
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "frame.png").write_bytes(tf.io.encode_png(image).numpy())
    seen: list[float] = []
    original = evaluation.images.load

    def load(path: tf.Tensor, size: int, crop: str | None) -> tf.Tensor:
        loaded = original(path, size, crop)
        tf.py_function(lambda x: seen.append(float(x)), [tf.reduce_max(loaded)], [])
        return loaded

    monkeypatch.setattr(evaluation.images, "load", load)
    assert evaluate(brightness, tmp_path, crop=crop).crop == crop
    assert seen == [brightest]


def test_errors(brightness: Path, pictures: Path, module: Callable, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=one_line("absent: no such folder")):
        evaluate(tmp_path / "absent", pictures)
    with pytest.raises(ConvertError, match=one_line("feature vector: evaluate its classification")):
        evaluate(module("mobilenet_v1"), pictures)
    picture(tmp_path / "a" / "fine.png")
    for name in ("broken.png", "cut.jpg"):
        (tmp_path / "a" / name).write_bytes(b"\xff\xd8\xff not an image")
    with pytest.raises(ConvertError, match=one_line("broken.png.*cut.jpg")):
        evaluate(brightness, tmp_path)


def test_command_line(command: Callable, brightness: Path, pictures: Path, tmp_path: Path) -> None:
    code, out, err = command("evaluate", brightness, "--images", pictures, "--json")
    assert code == 0
    done = json.loads(out)
    assert (done["top1"], done["top5"], done["images"]) == (50.0, 80.0, 10)
    assert "Traceback" not in err
    assert command("evaluate", brightness, "--images", tmp_path)[0] == 2


def test_table(
    brightness: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, figures = evaluation.Evaluation, {"published_top1": 41.5, "published_top5": 66.3}
    monkeypatch.setattr(evaluation, "Evaluation", lambda **fields: plain(**(fields | figures)))
    assert main(["evaluate", str(brightness), "--images", str(pictures)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"mobilenet_v1_025_32 +10 +50\.0 +80\.0 +41\.5 +66\.3", text)
    assert "Classes: folders by name; central crop at 32 px." in text
    assert "50,000 validation images" in text


def test_photographs(reference_data: Path, tmp_path: Path) -> None:
    """Real weights; all photographs but one lie in the folder of the class they are taken for."""
    source = reference_data / "checkpoints" / "mobilenet_v1_0.25_128"
    photographs = sorted(
        path for path in (reference_data / "photos").iterdir() if path.suffix in (".bmp", ".jpg")
    )
    batch = mobilenets.images.load_batch(photographs, 128)
    predictions = mobilenets.images.decode_predictions(mobilenets.load(source)(batch), 2)
    for i, (photograph, (first, second)) in enumerate(zip(photographs, predictions, strict=True)):
        target = tmp_path / (second if i == 0 else first).name / photograph.name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(photograph)
    done = evaluate(source, tmp_path)
    assert (done.top1, done.top5) == (100 * 7 / 8, 100)
    assert (done.published_top1, done.published_top5) == (41.5, 66.3)
