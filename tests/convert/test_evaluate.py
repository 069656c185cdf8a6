"""Accuracy on labelled images, and how models compare with the first."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
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
from convert.evaluate import Loss, evaluate, paired_interval
from convert.export import slim
from convert.export.litert_float import float_model
from mobilenets import MobileNet


def picture(path: Path, brightness: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((40, 40, 3), brightness, np.uint8)
    path.write_bytes(tf.io.encode_png(image).numpy())
    return path


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory, untraced: Callable) -> Path:
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
    with untraced():
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
        [brightness],
        pictures,
        batch_size=batch_size,
        on_progress=lambda *counts: seen.append(counts),
    )
    assert (done.images, done.image_size, done.losses) == (10, 32, [])
    (found,) = done.models
    assert (found.model, found.variant) == (str(brightness), "mobilenet_v1_025_32")
    assert found.top1 == pytest.approx(50)
    assert found.top5 == pytest.approx(80)
    assert (found.published_top1, found.published_top5, found.compared) == (None, None, None)
    assert found.bytes == sum(f.stat().st_size for f in brightness.rglob("*") if f.is_file())
    assert found.milliseconds > 0
    assert (done.layout, done.crop) == ("folders by name", "central")
    assert seen[0] == (0, 10)
    assert seen[-1] == (10, 10)
    assert len(seen) == -(-10 // batch_size) + 1


@pytest.mark.slow
def test_equal_logits_count_once(quick_save: None, tmp_path: Path) -> None:
    model = MobileNet("mobilenet_v1_025_32", 10)
    model.logits.kernel.assign(np.zeros(model.logits.kernel.shape))
    mobilenets.save(model, tmp_path / "constant")
    for i in range(10):
        picture(tmp_path / "images" / str(i) / "a.png")
    (done,) = evaluate([tmp_path / "constant"], tmp_path / "images").models
    assert (done.top1, done.top5) == (pytest.approx(10), pytest.approx(50))


@pytest.mark.parametrize(("crop", "brightest"), [("central", 0), ("none", 1)])
def test_crop(
    crop: str, brightest: float, inverse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A white frame lies beyond the central crop."""
    image = np.full((64, 64, 3), 0, np.uint8)
    image[:4] = image[-4:] = image[:, :4] = image[:, -4:] = 255
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "frame.png").write_bytes(tf.io.encode_png(image).numpy())
    seen: list[float] = []
    original = evaluation.images.load

    def load(path: tf.Tensor, size: int, crop: str | None) -> tf.Tensor:
        loaded = original(path, size, crop)
        tf.py_function(lambda x: seen.append(float(x)), [tf.reduce_max(loaded)], [])
        return loaded

    monkeypatch.setattr(evaluation.images, "load", load)
    assert evaluate([inverse], tmp_path, crop=crop).crop == crop
    assert seen == [brightest]


def test_errors(brightness: Path, pictures: Path, module: Callable, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=one_line("absent: no such folder")):
        evaluate([tmp_path / "absent"], pictures)
    with pytest.raises(ConvertError, match=one_line("feature vector: evaluate its classification")):
        evaluate([module("mobilenet_v1")], pictures)
    picture(tmp_path / "a" / "fine.png")
    for name in ("broken.png", "cut.jpg"):
        (tmp_path / "a" / name).write_bytes(b"\xff\xd8\xff not an image")
    with pytest.raises(ConvertError, match=one_line("broken.png.*cut.jpg")):
        evaluate([brightness], tmp_path)


def test_command_line(
    command: Callable, brightness: Path, inverse: Path, pictures: Path, tmp_path: Path
) -> None:
    code, out, err = command("evaluate", brightness, "--images", pictures, "--json")
    assert code == 0
    done = json.loads(out)
    (found,) = done["models"]
    assert (found["top1"], found["top5"], done["images"]) == (50.0, 80.0, 10)
    assert "Traceback" not in err
    assert command("evaluate", inverse, "--images", tmp_path)[0] == 2


def test_table(
    brightness: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, figures = evaluation.Evaluated, {"published_top1": 41.5, "published_top5": 66.3}
    figures |= {"bytes": 1234, "milliseconds": 1.5, "model": "m"}
    monkeypatch.setattr(evaluation, "Evaluated", lambda **fields: plain(**(fields | figures)))
    assert main(["evaluate", str(brightness), "--images", str(pictures)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\n +m +1,234 +1\.50 +50\.0 +80\.0 *\n", text)
    assert "10 images, folders by name; central crop at 32 px." in text
    assert "mobilenet_v1_025_32: top-1 41.5 %, top-5 66.3 % on ILSVRC-2012's 50,000" in text
    assert "Compared" not in text


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
    (done,) = evaluate([source], tmp_path).models
    assert (done.top1, done.top5) == (100 * 7 / 8, 100)
    assert (done.published_top1, done.published_top5) == (41.5, 66.3)


@pytest.fixture(scope="module")
def inverse(brightness: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LiteRT model: of a white image `a` has the highest logit, of a black one `g`."""
    model = mobilenets.load(brightness)
    for variable in (model.logits.kernel, model.logits.biases):
        variable.assign(-variable.numpy())
    file = tmp_path_factory.mktemp("inverse") / "model.tflite"
    file.write_bytes(float_model(model))
    return file


@pytest.mark.parametrize("batch_size", first_fast([4, 32]))
def test_models_are_compared_with_the_first(
    batch_size: int, brightness: Path, inverse: Path, pictures: Path
) -> None:
    seen: list[tuple[int, int]] = []
    done = evaluate(
        [brightness, inverse],
        pictures,
        batch_size=batch_size,
        on_progress=lambda *counts: seen.append(counts),
    )
    first, second = done.models
    assert (first.top1, second.top1) == (pytest.approx(50), pytest.approx(20))
    # `c` is the third of the white ones, as are `a` the first and `g` the last.
    assert second.top5 == pytest.approx(50)
    assert (second.variant, second.bytes) == (None, inverse.stat().st_size)
    assert first.compared is None
    found = second.compared
    assert (found.difference, found.agreement) == (pytest.approx(-30), 0)
    # The white ones that are `a` are gained; four `g` and the black `a` are lost.
    assert (found.low / 100, found.high / 100) == pytest.approx(paired_interval(2, 5, 10))
    probabilities = [
        tf.nn.softmax(mobilenets.load(brightness)(np.full((1, 32, 32, 3), v, np.float32)))[0]
        for v in (0, 1)
    ]
    differences = [float(np.abs(each - each[::-1]).max()) for each in map(np.array, probabilities)]
    mean = (differences[0] + 9 * differences[1]) / 10
    assert found.mean_difference == pytest.approx(mean, rel=1e-4)
    assert found.worst_difference == pytest.approx(max(differences), rel=1e-4)
    assert done.losses == [Loss(6, "g", 4, [4, 0], [None, "a"])]
    assert (seen[0], seen[-1], len(seen)) == ((0, 20), (20, 20), 2 * -(-10 // batch_size) + 1)


@pytest.fixture
def by_position(pictures: Path, tmp_path: Path) -> Path:
    """The pictures in folders named by position, for a model without names."""
    for name, position in (("a", "0"), ("c", "2"), ("g", "6")):
        shutil.copytree(pictures / name, tmp_path / "images" / position)
    return tmp_path / "images"


def test_the_first_against_a_copy(inverse: Path, by_position: Path, tmp_path: Path) -> None:
    """No difference, and an interval that still has a width."""
    copy = shutil.copy(inverse, tmp_path / "copy.tflite")
    done = evaluate([inverse, copy], by_position)
    found = done.models[1].compared
    assert (found.difference, found.agreement) == (0, 100)
    assert (found.mean_difference, found.worst_difference) == (0, 0)
    assert found.high == pytest.approx(-found.low)
    assert found.high > 10
    assert done.losses == []


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        # By hand: 3/12 - 6/12 with 1.959964 sqrt((9/12 - 1/16) / 12); 1.959964 sqrt(2) / 500;
        # 2/3 - 1/3 with 1.959964 sqrt((1 - 1/9) / 3).
        ((2, 5, 10), (-0.719131, 0.219131)),
        ((0, 0, 498), (-0.005544, 0.005544)),
        ((1, 0, 1), (-0.733536, 1.0)),
    ],
    ids=["both", "equal", "at the end"],
)
def test_paired_interval(counts: tuple[int, int, int], interval: tuple[float, float]) -> None:
    assert paired_interval(*counts) == pytest.approx(interval, abs=1e-6)


def test_predictions(brightness: Path, inverse: Path, pictures: Path, tmp_path: Path) -> None:
    evaluate([brightness, inverse], pictures, batch_size=4, csv=tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    columns = [f"{m} {what}" for m in (brightness, inverse) for what in ("class", "probability")]
    assert header == ["file", "class", *columns]
    assert [row[0] for row in rows] == [
        path.relative_to(pictures).as_posix() for path in sorted(pictures.rglob("*.png"))
    ]
    by_file = {row[0]: row[1:3] + row[4:5] for row in rows}
    assert by_file["a/black.png"] == ["a", "a", "g"]
    assert by_file["g/0.png"] == ["g", "g", "a"]
    probability = tf.nn.softmax(mobilenets.load(brightness)(np.ones((1, 32, 32, 3), np.float32)))
    (row,) = (row for row in rows if row[0] == "g/0.png")
    assert float(row[3]) == pytest.approx(float(np.max(probability)), abs=1e-5)


def test_nothing_is_left_of_predictions(inverse: Path, by_position: Path, tmp_path: Path) -> None:
    """An image late among them is damaged; an older file stays."""
    (by_position / "6" / "z.png").write_bytes(b"\xff\xd8\xff not an image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p.csv").write_text("old")
    for name in ("p.csv", "new.csv"):
        with pytest.raises(ConvertError, match=one_line("z.png")):
            evaluate([inverse], by_position, batch_size=4, csv=tmp_path / "out" / name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.csv"]
    assert (tmp_path / "out" / "p.csv").read_text() == "old"
    with pytest.raises(ConvertError, match=one_line("out cannot be written: it is a folder")):
        evaluate([inverse], by_position, csv=tmp_path / "out")


@pytest.mark.parametrize(
    ("variant", "classes", "message"),
    [
        ("mobilenet_v1_0.25_64", 7, r"64.ckpt takes 64-pixel images, but .*tflite 32-pixel ones"),
        (
            "mobilenet_v1_0.25_32",
            5,
            r"32.ckpt has 5 classes, but .*tflite 7: compare models of the",
        ),
    ],
    ids=["size", "classes"],
)
def test_models_that_do_not_compare(
    variant: str,
    classes: int,
    message: str,
    inverse: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    other = tmp_path / f"{variant}.ckpt"
    slim.export(MobileNet(variant, classes), other)
    with pytest.raises(ConvertError, match=one_line(message)):
        evaluate([inverse, other], pictures, csv=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
    ("names", "other_class"),
    first_fast(
        [
            # In another order.
            (list("abdcefg"), 2),
            # In another spelling.
            (["A", "b", "c", "d, as in dog", "e", "other", "G"], None),
            (list("hijklmn"), 0),
            (None, None),
        ],
        2,
    ),
)
@pytest.mark.parametrize("first", first_fast([True, False]))
def test_names_of_classes_agree(
    names: list | None,
    other_class: int | None,
    first: bool,
    brightness: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    other = mobilenets.load(brightness).with_classes(7, class_names=names)
    other.save(file := tmp_path / "m.keras")
    models = [file, brightness] if first else [brightness, file]
    if other_class is None:
        assert len(evaluate(models, pictures).models) == 2
    else:
        message = f"class {other_class} of .*, but of .*: compare models of the same classes in"
        with pytest.raises(ConvertError, match=one_line(message)):
            evaluate(models, pictures)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_name_that_the_predictions_cannot_hold(
    brightness: Path, tmp_path: Path, command: Callable
) -> None:
    file = picture(tmp_path / "images" / "g" / "0.png", 255)
    os.rename(file, os.fsencode(file.with_name("b")) + b"\xe9.png")
    arguments = ("evaluate", brightness, "--images", tmp_path / "images")
    assert command(*arguments)[0] == 0
    code, _, error = command(*arguments, "--csv", tmp_path / "p.csv")
    assert code == 2
    assert error.endswith(r"rename 'g/b\udce9.png': the predictions are written in UTF-8" + "\n")
    assert not (tmp_path / "p.csv").exists()


def test_a_model_given_twice(inverse: Path, pictures: Path) -> None:
    with pytest.raises(ConvertError, match=one_line("is given twice")):
        evaluate([inverse, str(inverse)], pictures)


def test_table_of_several(
    brightness: Path, inverse: Path, pictures: Path, command: Callable, tmp_path: Path
) -> None:
    arguments = ("evaluate", brightness, inverse, "--images", pictures)
    code, text, _ = command(*arguments, "--csv", tmp_path / "p.csv")
    assert code == 0
    low, high = (100 * end for end in paired_interval(2, 5, 10))
    assert re.search(rf" 20\.0 +50\.0 +-30\.0 +{low:+.1f} to \{high:+.1f} +0\.0 ", text)
    assert re.search(r"\n +g +4 +4 +0 +a *\n", text)
    assert "The largest losses, 1 of 1 classes" in text
    assert f"Predictions: {tmp_path / 'p.csv'}" in text
    code, text, _ = command(*arguments, "--json")
    done = json.loads(text)
    assert (code, done["models"][1]["compared"]["agreement"]) == (0, 0.0)
    (loss,) = done["losses"]
    assert loss == {
        "position": 6,
        "name": "g",
        "images": 4,
        "right": [4, 0],
        "taken_for": [None, "a"],
    }


@pytest.mark.slow
def test_photographs_in_several_precisions(reference_data: Path, tmp_path: Path) -> None:
    """Forty of ImageNet's photographs, in folders by synset, beside Google's own file."""
    for folder in sorted((reference_data / "imagenet_sample").iterdir())[::12][:40]:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / folder.name).symlink_to(folder)
    source = reference_data / "checkpoints_2018" / "mobilenet_v1_0.25_224"
    done = evaluate(
        [source / "mobilenet_v1_0.25_224.ckpt", source / "mobilenet_v1_0.25_224.tflite"],
        tmp_path / "images",
    )
    first, second = done.models
    assert (done.images, done.layout) == (40, "folders by synset")
    assert (first.top1, first.top5) == (62.5, 82.5)
    assert (second.top1, second.top5) == (62.5, 82.5)
    assert second.compared.agreement == 100
    assert second.compared.worst_difference < 1e-4
