"""The shipped sample: its digits, its checkpoint, the script that made it, the demonstration."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import mobilenets
import sample
from mobilenets.weights.bundle import Checkpoint
from sample.digits import KEPT, NAMES, TRAINED, digits
from tools import show_sample as show
from tools import train_sample as train

_PROJECT = Path(__file__).resolve().parents[2]
_SAMPLE = Path(sample.__file__).parent
_CLASS_NAMES = ("zero", "one", "two", "three", "four")


def _model_of(checkpoint: Checkpoint) -> mobilenets.MobileNet:
    model = mobilenets.MobileNet("mobilenet_v1_0.25_64", class_names=_CLASS_NAMES)
    values = checkpoint.read(model.slim_variables)
    for name, variable in model.slim_variables.items():
        variable.assign(values[name])
    return model


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return Checkpoint(_SAMPLE / "mobilenet_v1_0.25_64.ckpt")


@pytest.fixture(scope="module")
def model(shipped: Checkpoint) -> mobilenets.MobileNet:
    return _model_of(shipped)


def _as_set(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


class TestDigits:
    def test_images_are_the_source_enlarged_bilinearly(self) -> None:
        training, training_labels, held_out, held_out_labels = digits(range(10))
        found = np.concatenate([training, held_out])
        assert found.shape == (1797, 64, 64, 3)
        assert found.dtype == np.float32
        assert (found.min(), found.max()) == (0, 1)

        source = load_digits()
        # Pixel centres are half a pixel from the edge; beyond the outermost there is no slope.
        at = (np.arange(64) + 0.5) / 8 - 0.5
        weights = np.stack([np.interp(at, np.arange(8), row) for row in np.eye(8)], axis=1)
        expected = weights @ (source.images / 16) @ weights.T
        few, all_few = (
            images[:, 4::8, 4::8].reshape(1797, 64) for images in (found[..., 0], expected)
        )
        distances = (few**2).sum(1)[:, None] - 2 * few @ all_few.T + (all_few**2).sum(1)
        nearest = np.argmin(distances, axis=1)
        assert len(set(nearest)) == 1797
        for channel in range(3):
            np.testing.assert_allclose(found[..., channel], expected[nearest], atol=1e-6)
        np.testing.assert_array_equal(
            np.concatenate([training_labels, held_out_labels]), source.target[nearest]
        )

    def test_a_quarter_of_each_digit_is_held_out(self) -> None:
        _, training, _, held_out = digits(range(10))
        counts = np.bincount(load_digits().target)
        np.testing.assert_array_equal(np.bincount(training) + np.bincount(held_out), counts)
        np.testing.assert_allclose(np.bincount(held_out), counts / 4, atol=1)

    def test_no_image_is_on_both_sides(self) -> None:
        training, _, held_out, _ = digits(range(10))
        assert _as_set(training).isdisjoint(_as_set(held_out))

    def test_split_is_the_same_at_every_call(self) -> None:
        for once, again in zip(digits(TRAINED), digits(TRAINED), strict=True):
            np.testing.assert_array_equal(once, again)

    def test_held_out_images_are_held_out_from_every_choice(self) -> None:
        *_, all_held_out, _ = digits(range(10))
        *_, held_out, _ = digits((7, 2))
        assert _as_set(held_out) < _as_set(all_held_out)

    def test_labels_are_positions_among_the_classes(self) -> None:
        for of_all, of_two in zip(
            zip(*[iter(digits(range(10)))] * 2, strict=True),
            zip(*[iter(digits((8, 3)))] * 2, strict=True),
            strict=True,
        ):
            digit_of = {i.tobytes(): digit for i, digit in zip(*of_all, strict=True)}
            images, labels = of_two
            assert labels.dtype == np.int64
            assert [digit_of[i.tobytes()] for i in images] == [(8, 3)[label] for label in labels]

    def test_digits_five_to_nine_are_not_trained_on(self) -> None:
        training, labels, held_out, _ = digits(TRAINED)
        kept_training, _, kept_held_out, _ = digits(KEPT)
        kept = _as_set(kept_training) | _as_set(kept_held_out)
        assert len(kept) == np.count_nonzero(load_digits().target >= 5)
        assert kept.isdisjoint(_as_set(training) | _as_set(held_out))
        assert [NAMES[digit] for digit in TRAINED] == list(_CLASS_NAMES)
        assert set(labels) == {0, 1, 2, 3, 4}

    @pytest.mark.parametrize("classes", [(), (1, 1), (9, 10), (-1,)], ids=str)
    def test_other_classes_are_refused(self, classes: tuple[int, ...]) -> None:
        with pytest.raises(
            mobilenets.MobileNetError, match=r"different digits from 0 to 9; got \["
        ):
            digits(classes)


class TestShippedCheckpoint:
    def test_names_and_shapes_are_slims(self, shipped: Checkpoint) -> None:
        variant = mobilenets.Variant("mobilenet_v1", 0.25, 64)
        variables = mobilenets.MobileNet(variant, num_classes=5).slim_variables
        expected = {name: tuple(variable.shape) for name, variable in variables.items()}
        assert shipped.shapes == {**expected, "global_step": ()}
        # A few as Slim spells them, whatever the model says.
        assert shipped.shapes["MobilenetV1/Conv2d_0/weights"] == (3, 3, 3, 8)
        assert shipped.shapes["MobilenetV1/Conv2d_13_depthwise/depthwise_weights"] == (3, 3, 256, 1)
        assert shipped.shapes["MobilenetV1/Conv2d_13_pointwise/BatchNorm/moving_mean"] == (256,)
        assert shipped.shapes["MobilenetV1/Logits/Conv2d_1c_1x1/biases"] == (5,)

    def test_dtypes_are_slims(self, shipped: Checkpoint) -> None:
        expected = dict.fromkeys(shipped.shapes, "float32") | {"global_step": "int64"}
        assert shipped.dtypes == expected

    def test_is_at_most_1_2_mb(self) -> None:
        files = sorted(_SAMPLE.glob("mobilenet_v1_0.25_64.ckpt*"))
        assert [file.name.removeprefix("mobilenet_v1_0.25_64.ckpt") for file in files] == [
            ".data-00000-of-00001",
            ".index",
        ]
        assert sum(file.stat().st_size for file in files) <= 1_200_000

    def test_labels_are_one_a_line(self) -> None:
        assert (_SAMPLE / "labels.txt").read_text() == "zero\none\ntwo\nthree\nfour\n"

    def test_reads_held_out_digits(self, model: mobilenets.MobileNet) -> None:
        _, _, images, labels = digits(TRAINED)
        accuracy = np.mean(np.argmax(model(images), axis=1) == labels)
        assert accuracy >= 0.97

    def test_features_tell_unseen_digits_apart(self, model: mobilenets.MobileNet) -> None:
        """By the nearest class mean, on digits that it was not trained on: chance is 20 %."""
        parts = digits(KEPT)
        features = [
            np.squeeze(model(images, return_endpoints=True)["MobilenetV1/global_pool"], (1, 2))
            for images in (parts[0], parts[2])
        ]
        means = np.stack([features[0][parts[1] == label].mean(0) for label in range(5)])
        distances = np.linalg.norm(features[1][:, None] - means, axis=-1)
        assert np.mean(np.argmin(distances, axis=1) == parts[3]) >= 0.6


@pytest.fixture(scope="module")
def trained() -> tuple[mobilenets.MobileNet, list[float]]:
    """A model after two steps in each of two epochs, and what it said after each."""
    images, labels, *_ = digits(TRAINED)
    seen: list[float] = []
    return train.train(images[:70], labels[:70], _CLASS_NAMES, 2, seen.append), seen


class TestTraining:
    @pytest.mark.slow
    def test_a_few_steps_write_a_readable_checkpoint(
        self, trained: tuple[mobilenets.MobileNet, list[float]], tmp_path: Path
    ) -> None:
        network, seen = trained
        prefix = train.save(network, tmp_path)

        assert prefix == tmp_path / "mobilenet_v1_0.25_64.ckpt"
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "labels.txt",
            "mobilenet_v1_0.25_64.ckpt.data-00000-of-00001",
            "mobilenet_v1_0.25_64.ckpt.index",
        ]
        assert (tmp_path / "labels.txt").read_text() == "zero\none\ntwo\nthree\nfour\n"
        written = Checkpoint(prefix)
        # Two whole batches of 32 in each of two epochs.
        assert written.read(["global_step"])["global_step"] == 4
        assert written.dtypes["global_step"] == "int64"
        for name, variable in network.slim_variables.items():
            np.testing.assert_array_equal(written.read([name])[name], variable.numpy())
        assert len(seen) == 2
        assert all(0 <= accuracy <= 1 for accuracy in seen)

    @pytest.mark.slow
    def test_moves_every_variable_and_does_the_same_again(
        self, trained: tuple[mobilenets.MobileNet, list[float]]
    ) -> None:
        images, labels, *_ = digits(TRAINED)
        first = trained[0].slim_variables
        second = train.train(images[:70], labels[:70], _CLASS_NAMES, 2).slim_variables
        for name, variable in first.items():
            np.testing.assert_array_equal(variable.numpy(), second[name].numpy(), err_msg=name)
        for suffix, initial in (("beta", 0), ("gamma", 1), ("mean", 0), ("variance", 1)):
            for name, variable in first.items():
                if name.endswith(suffix):
                    assert np.any(variable.numpy() != initial), name

    @pytest.mark.slow
    def test_command_trains_on_the_training_part_alone(
        self,
        tmp_path: Path,
        model: mobilenets.MobileNet,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        given = {}

        def stand_in(images, labels, class_names, on_epoch):
            given.update(images=images, labels=labels, class_names=class_names)
            model.compile("sgd")
            return model

        monkeypatch.setattr(train, "train", stand_in)
        assert train.main(["--output", str(tmp_path)]) == 0
        images, labels, held_out, expected = digits(TRAINED)
        np.testing.assert_array_equal(given["images"], images)
        np.testing.assert_array_equal(given["labels"], labels)
        assert tuple(given["class_names"]) == _CLASS_NAMES
        right = np.sum(np.argmax(model(held_out), axis=1) == expected)
        assert (
            f"{right / 226:.2%} of 226 held-out digits right ({right})" in capsys.readouterr().out
        )
        assert (tmp_path / "mobilenet_v1_0.25_64.ckpt.index").is_file()

    @pytest.mark.slow
    def test_unwritable_output_is_one_line(
        self,
        tmp_path: Path,
        model: mobilenets.MobileNet,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        model.compile("sgd")
        monkeypatch.setattr(train, "train", lambda *args, **kwargs: model)
        (tmp_path / "file").touch()
        assert train.main(["--output", str(tmp_path / "file")]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: cannot write ")


@pytest.fixture(scope="module")
def modules(
    tmp_path_factory: pytest.TempPathFactory, shipped: Checkpoint, inference_alone: Callable
) -> Callable[[str], Path]:
    """Classification modules, by what they say: `digits` is the sample's, `three` a monomaniac."""

    @functools.cache
    def modules(name: str) -> Path:
        saved = _model_of(shipped)
        if name == "three":
            variables = saved.slim_variables
            kernel = variables["MobilenetV1/Logits/Conv2d_1c_1x1/weights"]
            kernel.assign(np.zeros(kernel.shape))
            variables["MobilenetV1/Logits/Conv2d_1c_1x1/biases"].assign([0, 0, 0, 1, 0])
        folder = tmp_path_factory.mktemp(name) / "sample" / "classification"
        with inference_alone():
            mobilenets.save(saved, folder)
        return folder

    return modules


@dataclass(frozen=True)
class _Shown:
    """What `show` returned, printed and drew."""

    accuracy: float
    printed: str
    picture: Path


@pytest.fixture(scope="module")
def shown(modules: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Shown]:
    done = {}
    for name in ("digits", "three"):
        folder = modules(name)
        picture = tmp_path_factory.mktemp(name) / "new" / "picture.png"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            accuracy = show.show(folder, picture)
        done[name] = _Shown(accuracy, printed.getvalue(), picture)
    return done


def _red(picture: Path) -> float:
    """The share of red pixels."""
    pixels = matplotlib.image.imread(picture)[..., :3]
    return float(np.mean((pixels[..., 0] > 0.6) & (pixels[..., 1:].max(-1) < 0.3)))


class TestShow:
    @pytest.mark.slow
    def test_reports_the_accuracy_that_it_measured(
        self, shown: dict[str, _Shown], model: mobilenets.MobileNet
    ) -> None:
        _, _, images, labels = digits(TRAINED)
        right = np.sum(np.argmax(model(images), axis=1) == labels)
        assert shown["digits"].accuracy == right / 226
        output = shown["digits"].printed
        assert f"{right / 226:.1%} ({right} right)" in output
        assert "226 images" in output
        assert "sample/classification" in output
        assert "83 of 137 variables" in output
        assert "feature vector" not in output
        picture = shown["digits"].picture
        assert [path.name for path in picture.parent.iterdir()] == [picture.name]

    @pytest.mark.slow
    def test_reports_a_bad_accuracy_too(self, shown: dict[str, _Shown]) -> None:
        *_, labels = digits(TRAINED)
        accuracy = shown["three"].accuracy
        assert accuracy == np.mean(labels == 3)
        assert f"{accuracy:.1%} ({np.sum(labels == 3)} right)" in shown["three"].printed

    @pytest.mark.slow
    def test_picture_shows_digits_and_marks_wrong_ones(self, shown: dict[str, _Shown]) -> None:
        pixels = matplotlib.image.imread(shown["digits"].picture)[..., :3]
        assert pixels.shape[0] > 500
        assert pixels.shape[1] > 800
        # The greys of enlarged strokes; text alone has few.
        assert np.mean((pixels > 0.1) & (pixels < 0.9)) > 0.15
        few, many = (_red(shown[name].picture) for name in ("digits", "three"))
        # Four rows of five are wrong.
        assert many > 0.01
        assert many > 5 * few

    @pytest.mark.slow
    def test_tries_the_feature_vector_beside(
        self,
        modules: Callable,
        module: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(show, "_draw", lambda *arguments: Figure())
        shutil.copytree(modules("digits"), tmp_path / "classification")
        shutil.copytree(module("mobilenet_v1"), tmp_path / "feature_vector")
        show.show(tmp_path / "classification", tmp_path / "picture.png")
        row = next(r for r in capsys.readouterr().out.splitlines() if "feature vector" in r)
        assert "[226, 256]" in row

    def _refused(self, capsys: pytest.CaptureFixture[str], *arguments: Path) -> str:
        """The one line that the command says instead."""
        module, picture = arguments
        assert show.main([str(module), "--output", str(picture)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    def test_absent_module(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = self._refused(capsys, tmp_path / "none", tmp_path / "picture.png")
        assert f"{tmp_path / 'none'} holds no SavedModel: make convert-sample" in line

    def test_damaged_module(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "saved_model.pb").write_bytes(b"damaged")
        assert "cannot be loaded" in self._refused(capsys, tmp_path, tmp_path / "picture.png")

    @pytest.mark.parametrize("num_classes", [None, 7], ids=["features", "unnamed"])
    def test_another_module(
        self,
        num_classes: int | None,
        module: Callable[..., Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = module("mobilenet_v1", num_classes)
        line = self._refused(capsys, folder, tmp_path / "picture.png")
        assert "expected the classes zero, one, two, three, four; found none" in line
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_unwritable_picture(
        self,
        modules: Callable,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(show, "_draw", lambda *arguments: Figure())
        (tmp_path / "file").touch()
        line = self._refused(capsys, modules("digits"), tmp_path / "file" / "picture.png")
        assert f"{tmp_path / 'file' / 'picture.png'} cannot be written" in line
        (tmp_path / "folder").mkdir()
        line = self._refused(capsys, modules("digits"), tmp_path / "folder")
        assert f"{tmp_path / 'folder'} cannot be written" in line
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]

    @pytest.mark.slow
    def test_command_prints_the_table_and_nothing_else(
        self, modules: Callable, tmp_path: Path
    ) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        picture = tmp_path / "picture.png"
        run = subprocess.run(
            [
                *(sys.executable, "-m", "tools.show_sample"),
                *(str(modules("digits")), "--output", str(picture)),
            ],
            cwd=_PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, "")
        rows = [line.split()[0] for line in run.stdout.splitlines() if line.strip()]
        assert rows == ["module", "held-out", "accuracy", "logits", "trainable", "picture"]
        assert picture.is_file()
