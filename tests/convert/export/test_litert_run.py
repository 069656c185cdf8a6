"""What is said of a LiteRT model: what it computes, and whether XNNPACK does."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from closeness import cosines

from convert.export.litert_float import float_model
from convert.export.litert_run import LiteModel, compare, probabilities
from mobilenets import MobileNet, Variant


def converted(function, size=8):
    images = tf.TensorSpec([1, size, size, 3], tf.float32)
    function = tf.function(function, autograph=False).get_concrete_function(images)
    return tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module()).convert()


@pytest.fixture(scope="module")
def means():
    """The mean of each colour, doubled."""
    return converted(lambda images: 2 * tf.reduce_mean(images, [1, 2]))


def test_it_runs(means, random_images):
    (image,) = random_images(1, 8)
    (output,) = LiteModel(means).run(image)
    np.testing.assert_allclose(output, 2 * image.mean((0, 1)), rtol=1e-5)
    assert LiteModel(means).latency() > 0


def test_whether_xnnpack_computes_all(means):
    assert LiteModel(means).in_xnnpack
    # Cumulative sums are none of XNNPACK's.
    partly = converted(lambda images: tf.cumsum(2 * tf.reduce_mean(images, [1, 2]), axis=1))
    assert not LiteModel(partly).in_xnnpack


def test_a_classifier_is_compared(means, random_images):
    """Of any function, by what comes out."""
    images = random_images(4, 8)
    images[:, :, :, 0] += 0.5
    images[1:, :, :, 1] += 0.5

    def module(image):
        """Says the first class of all."""
        return 2 * image.mean((1, 2)) * [[2, 1, 1]]

    found = compare(means, module, images)
    ours = 2 * images.mean((1, 2))
    wanted = np.concatenate([module(image[None]) for image in images])
    assert (found.images, found.in_xnnpack) == (4, True)
    assert 0 < found.top1 < 1
    assert found.top1 == np.mean(ours.argmax(1) == 0)
    assert found.difference == pytest.approx(np.abs(ours - wanted).max(), rel=1e-5)
    assert found.cosine == pytest.approx(cosines(ours, wanted).min(), rel=1e-6)


@pytest.fixture(scope="module")
def two(randomise):
    """Two networks of the same shapes, with other weights."""
    variant = Variant("mobilenet_v1", 0.25, 32)
    return [randomise(MobileNet(variant, 5), seed) for seed in (1, 2)]


def test_logits_are_compared_and_the_features_before_them(two, random_images):
    one, other = two
    images = random_images(3, 32)
    found = compare(float_model(one), other, images)
    ours, theirs = (model(images).numpy().astype(float) for model in two)
    assert found.top1 == np.mean(ours.argmax(1) == theirs.argmax(1))
    difference = np.abs(probabilities(ours) - probabilities(theirs)).max()
    assert found.difference == pytest.approx(difference, abs=1e-5)
    ours, theirs = (model.with_classes()(images).numpy() for model in two)
    assert found.cosine == pytest.approx(cosines(ours, theirs).min(), abs=1e-5)


def test_features_are_compared(two, random_images):
    one, other = (model.with_classes() for model in two)
    images = random_images(3, 32)
    found = compare(float_model(one), other, images)
    ours, theirs = one(images).numpy(), other(images).numpy()
    assert found.top1 is None
    assert found.difference == pytest.approx(np.abs(ours - theirs).max(), rel=1e-4)
    assert found.cosine == pytest.approx(cosines(ours, theirs).min(), abs=1e-5)


@pytest.mark.parametrize("dtype", [tf.uint8, tf.int8], ids=lambda dtype: dtype.name)
def test_integer_models_take_pixels(dtype, random_images):
    images = tf.TensorSpec([1, 8, 8, 3], tf.float32)
    function = tf.function(lambda images: tf.reduce_mean(images, [1, 2]), autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(images)], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ends = np.stack([np.zeros((8, 8, 3)), np.ones((8, 8, 3))]).astype(np.float32)
    converter.representative_dataset = lambda: ([image[None]] for image in ends)
    converter.inference_input_type = converter.inference_output_type = dtype
    model = LiteModel(converter.convert())
    for image in (*ends, *random_images(2, 8)):
        np.testing.assert_allclose(model.run(image)[0], image.mean((0, 1)), rtol=0, atol=0.005)
