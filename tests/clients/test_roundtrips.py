"""Native Keras files, and a model that is trained in Keras 3 and served by TensorFlow Hub."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow_hub as hub
from tiers import first_fast

import mobilenets
from mobilenets import MobileNet, Variant

VARIANTS = [
    Variant("mobilenet_v1", 0.25, 32),
    Variant("mobilenet_v2", 0.35, 32),
    Variant("mobilenet_v1", 0.25, 32, quantized=True),
]
CLASSES = 3


@pytest.fixture(params=first_fast(VARIANTS), ids=str)
def variant(request):
    return request.param


def same_variables(ours, theirs):
    assert list(ours.slim_variables) == list(theirs.slim_variables)
    for name, variable in ours.slim_variables.items():
        np.testing.assert_array_equal(theirs.slim_variables[name].numpy(), variable.numpy(), name)


def classifier(features):
    return keras.Sequential([features, keras.layers.Dense(CLASSES, name="head")])


def test_a_classifier_on_features(variant, randomise, random_images, tmp_path):
    model = classifier(randomise(MobileNet(variant)))
    images = random_images(2, 32)
    expected = model(images)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras")(images), expected
    )
    model.save_weights(tmp_path / "model.weights.h5")
    again = classifier(MobileNet(variant))
    again.build((None, 32, 32, 3))
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS[1:], ids=str)
def test_trained_natively_saved_and_served(
    variant, randomise, random_images, tmp_path, untraced, inference_alone
):
    """A module, fine-tuned in Keras 3, is a module again; hub.KerasLayer serves what it learned."""
    with untraced():
        mobilenets.save(randomise(MobileNet(variant)), tmp_path / "module")
    features = mobilenets.load(tmp_path / "module")
    before = {name: v.numpy() for name, v in features.slim_variables.items()}
    images = random_images(8, 32)
    old = features(images).numpy()
    model = classifier(features)
    model.compile(
        keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(images, np.arange(8) % CLASSES, batch_size=4, epochs=2, verbose=0)
    trained = {
        name for name, v in features.slim_variables.items() if (v.numpy() != before[name]).any()
    }
    learning = {name for name, v in features.slim_variables.items() if v.trainable}
    if features.variant.quantized:
        # Random activations leave their ranges, and gradients end where they do.
        learning = {"MobilenetV1/Conv2d_13_pointwise/weights"}
    assert learning <= trained

    with inference_alone():
        mobilenets.save(features, tmp_path / "tuned")
    served = hub.KerasLayer(str(tmp_path / "tuned"), trainable=True)
    found = served(images).numpy()
    atol = 5e-5 * np.abs(found).max()
    np.testing.assert_allclose(found, features(images, training=False), rtol=0, atol=atol)
    assert np.abs(found - old).max() > 1e-3
    again = mobilenets.load(tmp_path / "tuned")
    same_variables(features, again)
    # The first module is as it was.
    np.testing.assert_allclose(mobilenets.load(tmp_path / "module")(images), old, rtol=0, atol=atol)
