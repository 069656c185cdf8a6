"""What is timed beside each other computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from closeness import assert_close, cosines

import mobilenets
from benchmarks import contenders, conversion

NAMES = ("mobilenet_v1_025_64", "mobilenet_v2_035_64")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / "benchmarks"
    monkeypatch.setattr(contenders, "_FOLDER", folder)


@pytest.mark.parametrize("name", NAMES)
def test_inference(name: str) -> None:
    runs = contenders.inference(name, 2)
    assert list(runs) == ["module", "in a tf.function", "keras", "tf_keras", "LiteRT"]
    expected = np.asarray(runs["module"]())
    assert expected.shape[0] == 2
    assert expected.std() > 0.01
    for run in runs.values():
        assert_close(run(), expected, 1e-4)
    assert_close(contenders.module_alone(name, 2)["module"](), expected, 1e-4)


def test_reduced_inference_is_of_the_same_network() -> None:
    """Random networks make much of a rounding: outputs are alike, no more."""
    runs = contenders.reduced_inference(NAMES[0], 2)
    expected = np.asarray(runs["module"]())
    for run in runs.values():
        assert cosines(np.asarray(run(), np.float32), expected).min() > 0.8


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
    for name, run in contenders.loading(NAMES[0]).items():
        assert len(run().trainable_variables) == 81, name


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
