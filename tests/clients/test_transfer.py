"""Transfer learning in both worlds: equal starts, and from ImageNet to digits.

From the sample's digits to others is what the notebooks do and assert.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow_hub as hub
import tf_keras

import mobilenets
import sample
from sample.digits import KEPT, digits

SAMPLE = Path(sample.__file__).parent
BATCH, MOMENTUM = 32, 0.9


@dataclass(frozen=True)
class Task:
    """Images and labels, to learn from and held out."""

    images: np.ndarray
    labels: np.ndarray
    new_images: np.ndarray
    new_labels: np.ndarray


def hub_features(module: Path, trainable: bool = True) -> Any:
    arguments = {"batch_norm_momentum": MOMENTUM}
    return hub.KerasLayer(str(module), trainable=trainable, arguments=arguments)


def native_features(module: Path, trainable: bool = True) -> Any:
    return mobilenets.load(module, trainable=trainable, batch_norm_momentum=MOMENTUM)


WORLDS: dict[str, tuple[ModuleType, Callable[..., Any]]] = {
    "hub": (tf_keras, hub_features),
    "native": (keras, native_features),
}


def untrained(module: Path, path: Path) -> None:
    """Writes a module of the same network with random weights."""
    mobilenets.save(mobilenets.MobileNet(mobilenets.load(module).variant), path)


def classifier(world: str, features: Any, task: Task) -> Any:
    api, _ = WORLDS[world]
    model = api.Sequential([features, api.layers.Dense(int(task.labels.max()) + 1)])
    model(task.images[:1])
    return model


def fit(world: str, model: Any, task: Task, rate: float, epochs: int) -> float:
    """Trains with a cosine schedule; the share of held-out images that are recognised."""
    api, _ = WORLDS[world]
    steps = epochs * -(-len(task.images) // BATCH)
    model.compile(
        api.optimizers.SGD(api.optimizers.schedules.CosineDecay(rate, steps), momentum=0.9),
        api.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(task.images, task.labels, BATCH, epochs, verbose=0)
    return model.evaluate(task.new_images, task.new_labels, verbose=0)[1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # Of both: they have the same generators but for Keras 3's own.
    keras.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sample's features, which were trained on the digits 0 to 4."""
    path = tmp_path_factory.mktemp("sample") / "feature_vector"
    mobilenets.save(mobilenets.load(SAMPLE).with_classes(None), path)
    return path


@pytest.fixture(scope="module")
def kept() -> Task:
    """The digits 5 to 9, which the sample has never seen."""
    return Task(*digits(KEPT))


@pytest.mark.slow
def test_both_worlds_start_from_equal_features(sample: Path, kept: Task) -> None:
    ours, theirs = (
        np.asarray(features(sample)(kept.new_images)) for _, features in WORLDS.values()
    )
    assert ours.shape == (len(kept.new_images), 256)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def all_digits() -> Task:
    """Sixty images of each digit to learn from, and half of the rest."""
    images, labels, more_images, more_labels = digits(range(10))
    images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
    chosen = np.concatenate([np.flatnonzero(labels == digit)[:60] for digit in range(10)])
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return Task(images[chosen], labels[chosen], images[rest[::2]], labels[rest[::2]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "world", "rate"),
    [
        ("checkpoints/mobilenet_v1_0.25_128", "hub", 0.05),
        ("hub_tf1/mobilenet_v2_035_128_feature_vector_2", "native", 0.01),
    ],
    ids=["v1-hub", "v2-native"],
)
def test_from_imagenet_to_digits(
    source: str,
    world: str,
    rate: float,
    reference_data: Path,
    all_digits: Task,
    tmp_path: Path,
    untraced: Callable,
) -> None:
    """Six epochs; as many from scratch leave twice as many mistakes."""
    module, random = tmp_path / "imagenet", tmp_path / "random"
    with untraced() if world == "native" else contextlib.nullcontext():
        mobilenets.save(mobilenets.load(reference_data / source).with_classes(None), module)
        untrained(module, random)
    _, features = WORLDS[world]
    tuned, scratch = (
        fit(world, classifier(world, features(path), all_digits), all_digits, rate, epochs=6)
        for path in (module, random)
    )
    assert tuned >= 0.97
    assert 1 - tuned <= 0.5 * (1 - scratch)
