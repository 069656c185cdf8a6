"""Modules for serving: what the trainable module gives, from constants."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from refusals import refused
from tiers import first_fast

import mobilenets
from mobilenets import MobileNet, MobileNetError, Variant, weights

VARIANTS = [
    Variant("mobilenet_v2", 0.35, 32),
    Variant("mobilenet_v1", 0.25, 32),
    # Its last kernels are too large to be folded at each call of a trainable module.
    Variant("mobilenet_v1", 0.5, 32),
    Variant("mobilenet_v1", 0.25, 32, quantized=True),
    Variant("mobilenet_v1", 0.25, 32, quantized="int8"),
]
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module", params=first_fast(VARIANTS), ids=str)
def model(
    request: pytest.FixtureRequest, randomise: Callable, random_images: Callable
) -> MobileNet:
    model = randomise(MobileNet(request.param, class_names=NAMES))
    if model.variant.quantized:
        # Ranges that fit; random ones clip everything.
        for name, variable in model.slim_variables.items():
            if name.endswith(("/min", "/max")):
                bound = -6.0 if name.endswith("min") else 6.0
                variable.assign(np.full(variable.shape, bound))
        model(random_images(8, 32), training=True, activation_range_momentum=0.0)
    return model


@pytest.fixture(scope="module")
def folder(model: MobileNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "module"
    mobilenets.save(model, folder, trainable=False)
    return folder


@pytest.fixture(scope="module")
def module(folder: Path) -> Any:
    return hub.load(str(folder))


def same(found: Any, expected: Any, model: MobileNet) -> None:
    expected = np.asarray(expected)
    # Folding rounds in another order; one value of 8 bits may round the other way.
    bound = np.ptp(expected) * (3 / 255 if model.variant.quantized else 1e-5) + 1e-6
    np.testing.assert_allclose(np.asarray(found), expected, atol=bound, rtol=0)


@pytest.mark.parametrize("size", [32, 45], ids=["own size", "another size"])
def test_every_call(model: MobileNet, module: Any, random_images: Callable, size: int) -> None:
    images = random_images(2, size)
    expected = model(images, return_endpoints=True)
    same(module(images), expected["default"], model)
    same(module(images, training=False), expected["default"], model)
    found = module(images, return_endpoints=True)
    assert found.keys() == expected.keys()
    for name, activation in expected.items():
        same(found[name], activation, model)
    signatures = module.signatures
    assert sorted(signatures) == ["image_classification", "image_feature_vector", "serving_default"]
    for name, signature in signatures.items():
        given = signature(images=tf.constant(images))["default"]
        features = name == "image_feature_vector"
        same(given, model.with_classes()(images) if features else expected["default"], model)


def test_hub_keras_layer(model: MobileNet, folder: Path, random_images: Callable) -> None:
    images = random_images(3, 32)
    layer = hub.KerasLayer(str(folder), trainable=False)
    same(tf_keras.Sequential([layer]).predict(images, verbose=0), model(images), model)
    assert layer.variables == []


def test_in_a_function_and_a_dataset(
    model: MobileNet, module: Any, random_images: Callable
) -> None:
    images = random_images(5, 32)
    expected = model(images)
    unknown = tf.TensorSpec([None, None, None, 3], tf.float32)
    same(tf.function(module, input_signature=[unknown], autograph=False)(images), expected, model)
    batches = tf.data.Dataset.from_tensor_slices(images).batch(2).map(module)
    same(np.concatenate(list(batches.as_numpy_iterator())), expected, model)


def test_an_empty_batch(model: MobileNet, module: Any) -> None:
    assert module(np.zeros((0, 32, 32, 3), np.float32)).shape == (0, 3)


def test_it_has_no_variables_and_the_class_names(module: Any) -> None:
    assert list(module.variables) == list(module.trainable_variables) == []
    assert list(module.regularization_losses) == []
    path = module.class_names.asset_path.numpy().decode()
    assert Path(path).read_text().split() == list(NAMES)


def test_the_model_stays_as_it_was(model: MobileNet, folder: Path, random_images: Callable) -> None:
    images = random_images(2, 32)
    before = model(images)
    convolution = model.convolutions[0]
    value = convolution.kernel.numpy()
    convolution.kernel.assign(2 * value)
    assert np.abs(model(images) - before).max() > 0
    convolution.kernel.assign(value)


def test_training_says_which_module_to_take(folder: Path, random_images: Callable) -> None:
    images = random_images(2, 32)
    classifier = tf_keras.Sequential(
        [hub.KerasLayer(str(folder), trainable=True), tf_keras.layers.Dense(2)]
    )
    classifier.compile("sgd", "mse")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is for serving .* take the module"):
        classifier.fit(images, np.zeros((2, 2)), verbose=0)


def test_load_refuses_it(folder: Path) -> None:
    with pytest.raises(MobileNetError, match=r"module is a module for serving, without variables"):
        mobilenets.load(folder)
    message = "module has no variables, like a module for serving: give the module or the weights"
    with refused(message), weights.open(folder):
        pass


def test_it_is_replaced_by_a_trainable_one(quick_save: None, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "module")
    trainable = MobileNet(Variant("mobilenet_v1", 0.25, 32))
    mobilenets.save(trainable, tmp_path / "module")
    assert len(mobilenets.load(tmp_path / "module").variables) == len(trainable.variables)


def test_keras_3_serves_it(model: MobileNet, folder: Path, random_images: Callable) -> None:
    layer = keras.layers.TFSMLayer(str(folder), call_endpoint="serving_default")
    images = random_images(2, 32)
    same(layer(images)["default"], model(images), model)
