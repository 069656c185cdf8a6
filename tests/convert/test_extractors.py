"""Models of every kind: their features, and their scores if they have classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from closeness import cosines
from refusals import one_line
from tiers import slow

import mobilenets
from convert.errors import ConvertError
from convert.export.litert_float import float_model
from convert.extractors import Extractor, opened
from mobilenets import MobileNet, Variant

SIZE = 32
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def network(randomise: Callable) -> MobileNet:
    return randomise(MobileNet(Variant("mobilenet_v1", 0.25, SIZE), class_names=NAMES))


@pytest.fixture(scope="module")
def images(random_images: Callable) -> np.ndarray:
    brightness = np.linspace(0.2, 1, 4, dtype=np.float32)[:, None, None, None]
    return np.round(255 * random_images(4, SIZE) * brightness) / np.float32(255)


@pytest.fixture(scope="module")
def features(network: MobileNet, images: np.ndarray) -> np.ndarray:
    endpoints = network(images, return_endpoints=True)
    return endpoints["MobilenetV1/global_pool"][:, 0, 0].numpy()


def check(found: Extractor, images: np.ndarray, *expected: np.ndarray) -> None:
    outputs = found.run(tf.constant(images))
    assert [each.dtype for each in outputs] == [np.float32] * len(expected)
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-4)
    assert found.num_features == expected[0].shape[1]
    assert found.num_classes == (expected[1].shape[1] if len(expected) > 1 else None)


def test_a_module(
    network: MobileNet, images: np.ndarray, features: np.ndarray, tmp_path: Path, quick_save: None
) -> None:
    mobilenets.save(network, tmp_path / "m")
    found = opened(tmp_path / "m")
    check(found, images, features, network(images).numpy())
    assert (found.image_size, found.class_names, found.softmax) == (SIZE, NAMES, False)


@pytest.mark.slow
def test_a_feature_vector(
    network: MobileNet, images: np.ndarray, features: np.ndarray, tmp_path: Path, quick_save: None
) -> None:
    mobilenets.save(network.with_classes(), tmp_path / "f")
    check(opened(tmp_path / "f"), images, features)
    assert opened(tmp_path / "f", 48).image_size == 48


@pytest.mark.slow
def test_fingerprints(network: MobileNet, tmp_path: Path, quick_save: None) -> None:
    """Of the features, the scores and the names."""
    models = [network, network.with_classes(), network.with_classes(class_names=NAMES)]
    renamed = MobileNet.from_config({**network.get_config(), "class_names": ["a", "b", "c"]})
    renamed.set_weights(network.get_weights())
    for i, model in enumerate([*models, renamed]):
        mobilenets.save(model, tmp_path / str(i))
    found = [opened(tmp_path / str(i)).fingerprint for i in (0, 1, 2, 3, 0)]
    assert len(set(found)) == 4
    assert found[0] == found[-1]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [True, False], ids=["classes", "features"])
def test_a_module_for_serving(
    classes: bool, network: MobileNet, images: np.ndarray, features: np.ndarray, tmp_path: Path
) -> None:
    model = network if classes else network.with_classes()
    mobilenets.save(model, tmp_path / "module", trainable=False)
    found = opened(tmp_path / "module")
    check(found, images, features, *([network(images).numpy()] if classes else []))
    assert found.class_names == (NAMES if classes else None)


@pytest.mark.parametrize("precision", ["float32", slow("int8")])
@pytest.mark.parametrize("classes", [True, slow(False)], ids=["classes", "features"])
def test_litert_models(
    classes: bool,
    precision: str,
    network: MobileNet,
    images: np.ndarray,
    features: np.ndarray,
    tmp_path: Path,
) -> None:
    model = network if classes else network.with_classes()
    calibration = {"images": images} if precision == "int8" else {}
    (tmp_path / "m.tflite").write_bytes(float_model(model, precision, **calibration))
    (tmp_path / "m.tflite.labels.txt").write_text("\n".join(NAMES))
    found = opened(tmp_path / "m.tflite")
    if precision == "float32":
        check(found, images, features, *([network(images).numpy()] if classes else []))
    else:
        assert cosines(found.run(tf.constant(images))[0], features).min() > 0.99
    assert (found.num_features, found.class_names) == (256, NAMES if classes else None)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["softmax", None, "none"], ids=["softmax", "logits", "no head"])
def test_keras_classifiers(
    head: str | None,
    network: MobileNet,
    images: np.ndarray,
    features: np.ndarray,
    tmp_path: Path,
) -> None:
    """The features are what the head takes."""
    keras.utils.set_random_seed(1)
    dense = [] if head == "none" else [keras.layers.Dense(4, activation=head)]
    model = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            network.with_classes(),
            *dense,
        ]
    )
    model.save(tmp_path / "m.keras")
    found = opened(tmp_path / "m.keras")
    check(found, images, features, *([np.array(model(255 * images))] if dense else []))
    assert found.softmax == (head == "softmax")


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantops"])
def test_tf_keras_classifiers(
    quantized: bool, images: np.ndarray, tmp_path: Path, inference_alone: Callable
) -> None:
    tf_keras.utils.set_random_seed(1)
    backbone = MobileNet(Variant("mobilenet_v1", 0.25, SIZE, quantized=quantized))
    with inference_alone():
        mobilenets.save(backbone, tmp_path / "module")
    layer = hub.KerasLayer(str(tmp_path / "module"))
    model = tf_keras.Sequential([tf_keras.layers.Input((SIZE, SIZE, 3)), layer])
    expected = model(images).numpy()
    model.add(tf_keras.layers.Dense(4, activation="softmax"))
    model.save(tmp_path / "folder")
    check(opened(tmp_path / "folder"), images, expected, model(images).numpy())


@pytest.mark.slow
def test_a_sigmoid_is_refused(network: MobileNet, tmp_path: Path) -> None:
    dense = keras.layers.Dense(4, activation="sigmoid")
    inputs = keras.layers.Input((SIZE, SIZE, 3))
    keras.Sequential([inputs, network.with_classes(), dense]).save(tmp_path / "m.keras")
    with pytest.raises(ConvertError, match=one_line("its classes are independent")):
        opened(tmp_path / "m.keras")
