"""What is timed beside each other computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from closeness import assert_close, cosines

import mobilenets
from benchmarks import contenders, conversion, photographs, threads

NAMES = ("mobilenet_v1_025_64", "mobilenet_v2_035_64")
SAMPLE = Path(__file__).parents[2] / "sample" / "mobilenet_v1_0.25_64.ckpt"
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / "benchmarks"
    monkeypatch.setattr(contenders, "_FOLDER", folder)


@pytest.mark.parametrize("name", NAMES)
def test_inference(name: str) -> None:
    runs = contenders.inference(name, 2)
    ours = ["module", "in a tf.function", "for serving, in a tf.function"]
    assert list(runs) == [*ours, "keras", "tf_keras", "LiteRT"]
    expected = np.asarray(runs["module"]())
    assert expected.shape[0] == 2
    assert expected.std() > 0.01
    for run in runs.values():
        assert_close(run(), expected, 1e-4)
    assert_close(contenders.module_alone(name, 2)["module"](), expected, 1e-4)


def test_reduced_inference_is_of_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trained weights, which keep a rounding as small as it was.

    The contenders' own are random, and each batch norm brings what ReLU left of a layer back to
    unit variance: a rounding grows by a fifth from layer to layer, from 0.4 % after the first of 27
    to 40 % after the last, and features have a cosine of 0.967. Trained weights stay at 1.4 %.
    """
    name = NAMES[0]
    trained = mobilenets.load(SAMPLE, variant=name).with_classes(None)
    mobilenets.save(trained, tmp_path / name / "feature_vector")
    monkeypatch.setattr(contenders, "_FOLDER", tmp_path)
    runs = contenders.reduced_inference(name, 2)
    expected = np.asarray(runs.pop("module")())
    # Measured: a cosine of 0.99995 and 1.2 % of the largest feature; bounds are twice the
    # distance. Two images have 0.963, or the comparison would show little.
    assert cosines(expected[:1], expected[1:]).max() < 0.98
    for run in runs.values():
        found = np.asarray(run(), np.float32)
        assert cosines(found, expected).min() > 0.9999
        assert_close(found, expected, 0.025)
    # The last is rounded on every processor.
    assert np.abs(found - expected).max() > 1e-3 * expected.max()


def test_predictions() -> None:
    runs = contenders.predictions(NAMES[0], 1)
    expected = np.asarray(runs["module"]())
    assert len(expected) == 4
    for run in runs.values():
        assert_close(run(), expected, 1e-4)


@pytest.mark.parametrize("measure", [contenders.training, contenders.reduced_training])
def test_training_takes_so_many_steps(measure) -> None:
    for run in measure(NAMES[0], 2, 3).values():
        history = run()
        assert history.params["steps"] == 3
        assert np.isfinite(history.history["loss"]).all()


def test_loading() -> None:
    runs = contenders.loading(NAMES[0])
    serving = runs.pop("for serving")()
    assert serving(contenders.images(1, 64)).shape == (1, 256)
    for name, run in runs.items():
        assert len(run().trainable_variables) == 81, name


def test_one_epoch_trains_the_same_head_either_way(tmp_path: Path) -> None:
    """In later epochs the order of the images differs."""
    random = np.random.default_rng(0)
    for i in range(7):
        path = tmp_path / f"class_{i % 2}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (70, 80, 3)).astype(np.uint8)
        path.write_bytes(tf.io.encode_png(pixels).numpy())
    runs = photographs.heads(NAMES[0], tmp_path, 1)
    once, every = (runs[name]() for name in ("features once", "in every epoch"))
    assert [layer.trainable for layer in every.layers] == [True, False, True]
    for found, expected in zip(once.get_weights(), every.layers[-1].get_weights(), strict=True):
        assert np.abs(expected).max() > 0
        assert_close(found, expected, 1e-4)


def test_a_process_for_each_setting_of_threads(capfd: pytest.CaptureFixture[str]) -> None:
    module = contenders.module(NAMES[0])
    capfd.readouterr()
    with threads.contenders(module, 64) as runs:
        assert list(runs) == list(threads.SETTINGS)
        for batch in (1, 2):
            for run in runs.values():
                run(batch, 2)
    assert capfd.readouterr() == ("", "")


def test_a_process_that_ends_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SETTINGS", {"default": (0, 0)})
    with (
        pytest.raises(RuntimeError, match="ended with 1"),
        threads.contenders(tmp_path, 64) as runs,
    ):
        runs["default"](1, 2)


def test_a_checkpoint_to_convert(tmp_path: Path) -> None:
    prefix = conversion.random_checkpoint("mobilenet_v1_025_128", tmp_path)
    model = mobilenets.load(prefix)
    assert (str(model.variant), model.num_classes) == ("mobilenet_v1_025_128", 1001)


def test_a_conversion_is_measured() -> None:
    seconds, gigabytes = conversion.one("mobilenet_v1_025_128")
    assert seconds > 1
    assert 0.1 < gigabytes < 10


def test_a_conversion_that_fails_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="failed with 2"):
        conversion._run("checkpoint", "absent", "--output", "absent")
