"""From a float network to its quantized sister: weights, ranges, what stays as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
from closeness import cosines
from tiers import first_fast, slow

import mobilenets
from mobilenets import MobileNet, Variant

NAMES = ("mobilenet_v1_025_64", "mobilenet_v2_035_64")


@pytest.fixture(scope="module")
def batches(random_images: Callable) -> np.ndarray:
    return np.stack([random_images(4, 64), 0.5 * random_images(4, 64)])


@pytest.fixture(scope="module", params=first_fast(NAMES), ids=NAMES)
def model(request: pytest.FixtureRequest, randomise: Callable) -> MobileNet:
    model = randomise(MobileNet(request.param, class_names=["a", "b", "c"], dropout_rate=0.3))
    assert isinstance(model, MobileNet)
    return model


@pytest.fixture(scope="module")
def quantized(model: MobileNet, batches: np.ndarray) -> MobileNet:
    return model.quantized(batches)


@pytest.fixture(scope="module")
def int8(model: MobileNet, batches: np.ndarray) -> MobileNet:
    return model.quantized(batches, scheme="int8")


def test_is_the_quantized_form_with_the_same_weights(
    model: MobileNet, quantized: MobileNet
) -> None:
    expected = Variant(model.variant.family, model.variant.depth_multiplier, 64, quantized=True)
    assert quantized.variant == expected
    assert (quantized.class_names, quantized.dropout_rate) == (("a", "b", "c"), 0.3)
    for name, variable in model.slim_variables.items():
        found = quantized.slim_variables[name]
        # The offsets make up for the shifts of the rounded weights.
        tolerance = 0.6 if name.endswith("/beta") else 0
        np.testing.assert_allclose(found.numpy(), variable.numpy(), 0, tolerance, err_msg=name)
        assert found.trainable == variable.trainable


@pytest.mark.parametrize("scheme", first_fast(["uint8", "int8"]))
def test_channels_have_the_float_models_means(
    scheme: str, model: MobileNet, quantized: MobileNet, int8: MobileNet, batches: np.ndarray
) -> None:
    found = {"uint8": quantized, "int8": int8}[scheme]
    uncorrected = keras.models.clone_model(found)
    uncorrected.set_weights(found.get_weights())
    for ours, theirs in zip(uncorrected.convolutions, model.convolutions, strict=True):
        ours.batch_norm.beta.assign(theirs.batch_norm.beta)
    images = batches.reshape(-1, *batches.shape[2:])
    again = keras.models.clone_model(uncorrected)
    again.set_weights(uncorrected.get_weights())
    again.correct_means(model, images)
    expected, *both = (
        [
            tf.reduce_mean(value, [0, 1, 2]).numpy()
            for name, value in each(images, return_endpoints=True).items()
            if value.shape.rank == 4 and "global_pool" not in name
        ]
        for each in (model, found, uncorrected, again)
    )
    assert len(expected) > 20
    shifts = [
        np.mean([np.abs(a - b).mean() for a, b in zip(means, expected, strict=True)])
        for means in both
    ]
    assert shifts[0] < 0.5 * shifts[1]
    assert shifts[2] < 0.5 * shifts[1]


def test_ranges_are_those_of_the_weights_and_of_the_batches(
    model: MobileNet, quantized: MobileNet, batches: np.ndarray
) -> None:
    for ours, theirs in zip(quantized.convolutions, model.convolutions, strict=True):
        kernel, _ = theirs._folded()
        found = [ours.weights_quant.min.numpy(), ours.weights_quant.max.numpy()]
        expected = [min(tf.reduce_min(kernel), 0), max(tf.reduce_max(kernel), 0)]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    first, theirs = quantized.convolutions[0].act_quant, model.convolutions[0]
    largest = [float(tf.reduce_max(theirs(2 * batch - 1))) for batch in batches]
    assert largest[0] > 1.2 * largest[1]
    # The images and the weights are rounded before.
    assert first.max.numpy() == pytest.approx(np.mean(largest), rel=0.02)
    assert first.min.numpy() == 0


def test_int8_has_a_symmetric_range_for_each_channel(
    model: MobileNet, int8: MobileNet, batches: np.ndarray
) -> None:
    assert int8.variant == dataclasses.replace(model.variant, quantized="int8")
    for ours, theirs in zip(int8.convolutions, model.convolutions, strict=True):
        kernel, _ = theirs._folded()
        widest = np.abs(kernel.numpy().reshape(-1, ours.weights_quant.max.shape[0])).max(0)
        assert len(widest) == theirs.batch_norm.gamma.shape[0]
        np.testing.assert_allclose(ours.weights_quant.max.numpy(), widest, rtol=1e-5)
        np.testing.assert_array_equal(
            ours.weights_quant.min.numpy(), -ours.weights_quant.max.numpy()
        )
    assert int8.logits.weights_quant.max.shape == (3,)
    # Unlike uint8, int8 rounds the pooled features.
    pooled = int8.with_classes()(batches[0]).numpy()
    steps = pooled / (int8.pool_quant.max.numpy() / 255)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert len(np.unique(np.round(steps))) > 100


@pytest.mark.parametrize("scheme", ["uint8", "int8"])
def test_computes_nearly_the_same(
    scheme: str, model: MobileNet, quantized: MobileNet, int8: MobileNet, batches: np.ndarray
) -> None:
    quantized = {"uint8": quantized, "int8": int8}[scheme]
    found, expected = (m.with_classes()(batches[0]).numpy() for m in (quantized, model))
    assert not np.array_equal(found, expected)
    # Measured with random weights, which carry every rounding on: 0.975 after V2's 52 layers.
    assert cosines(found, expected).min() > 0.96


def test_a_module_for_serving_has_the_ranges_of_channels(
    int8: MobileNet, batches: np.ndarray
) -> None:
    constant = keras.models.clone_model(int8)
    constant.set_weights(int8.get_weights())
    constant.make_constant()
    np.testing.assert_allclose(constant(batches[0]), int8(batches[0]), atol=1e-5)


def test_a_constant_channel_does_not_stretch_the_range(
    batches: np.ndarray, randomise: Callable
) -> None:
    model = randomise(MobileNet(NAMES[0]))
    layer = model.convolutions[1]
    variance, mean = layer.batch_norm.moving_variance.numpy(), layer.batch_norm.moving_mean.numpy()
    kernel = layer.kernel.numpy()
    # A dead channel: with the input gone its weights have drifted, and its mean is all there is.
    before = model.convolutions[0].batch_norm
    scale, shift = before.gamma.numpy(), before.beta.numpy()
    scale[2], shift[2], variance[2], mean[2], kernel[:, :, 2] = 0, -1, 1e-35, 0, 9
    before.gamma.assign(scale)
    before.beta.assign(shift)
    layer.batch_norm.moving_variance.assign(variance)
    layer.batch_norm.moving_mean.assign(mean)
    layer.kernel.assign(kernel)
    widest = np.abs(layer._folded()[0].numpy()).reshape(9, -1).max(0)
    quantized = model.quantized(batches)
    assert widest[2] > 50 * np.delete(widest, 2).max()
    rounded = quantized.convolutions[1].weights_quant
    bounds = max(-rounded.min.numpy(), rounded.max.numpy())
    assert bounds == pytest.approx(np.delete(widest, 2).max(), rel=1e-5)
    assert cosines(quantized(batches[0]).numpy(), model(batches[0]).numpy()).min() > 0.98
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)


@pytest.mark.slow
def test_frozen_layers_stay_frozen_and_have_ranges(
    batches: np.ndarray, randomise: Callable
) -> None:
    model = randomise(MobileNet(NAMES[1], 3))
    expected = model.quantized(batches)
    for block in model.blocks[:5]:
        block.trainable = False
    found = model.quantized(batches)
    assert [b.trainable for b in found.blocks] == [b.trainable for b in model.blocks]
    for name, variable in expected.slim_variables.items():
        np.testing.assert_array_equal(found.slim_variables[name].numpy(), variable.numpy())


@pytest.mark.parametrize("scheme", ["uint8", slow("int8")])
def test_trains_and_is_saved_like_any_quantized_model(
    scheme: str,
    quantized: MobileNet,
    int8: MobileNet,
    batches: np.ndarray,
    tmp_path: Path,
    inference_alone: Callable,
) -> None:
    quantized = {"uint8": quantized, "int8": int8}[scheme]
    model = keras.models.clone_model(quantized)
    model.set_weights(quantized.get_weights())
    model.compile(
        keras.optimizers.SGD(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Tracing a graph would take longer than the step.
        run_eagerly=scheme == "uint8",
    )
    before = model.get_weights()
    model.fit(batches[0], np.arange(4) % 3, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    expected = model(batches[0]).numpy()
    with inference_alone():
        mobilenets.save(model, tmp_path / "module")
    layer = hub.KerasLayer(str(tmp_path / "module"), trainable=True)
    np.testing.assert_array_equal(layer(batches[0]), expected)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(batches[0]), expected)
    again = mobilenets.load(tmp_path / "module")
    assert again.variant == loaded.variant == quantized.variant
    np.testing.assert_array_equal(again(batches[0]), expected)


def test_other_classes_can_be_saved_after_one_step(
    quantized: MobileNet, batches: np.ndarray, tmp_path: Path, untraced: Callable
) -> None:
    """The first step sees logits of zeros, whose range would be empty."""
    model = quantized.with_classes(2)
    model(batches[0], training=True)
    with untraced():
        mobilenets.save(model, tmp_path / "module")
    again = mobilenets.load(tmp_path / "module")
    np.testing.assert_array_equal(again(batches[0]), model(batches[0]))


def test_takes_a_dataset_and_reduced_precision(batches: np.ndarray, randomise: Callable) -> None:
    model = randomise(MobileNet(NAMES[0], dtype="mixed_bfloat16"))
    found = model.quantized(tf.data.Dataset.from_tensor_slices(batches))
    assert found.dtype_policy.name == "float32"
    assert found.convolutions[5].act_quant.max.numpy() != 6


def test_refuses(quantized: MobileNet, batches: np.ndarray) -> None:
    with pytest.raises(ValueError, match="quantops is quantized already"):
        quantized.quantized(batches)
    with pytest.raises(ValueError, match="there are no images"):
        MobileNet(NAMES[0]).quantized(batches[:0])
    other = MobileNet("mobilenet_v1_050_64")
    with pytest.raises(ValueError, match="is not the quantized form of mobilenet_v1_050_64"):
        quantized.correct_means(other, batches[0])
    with pytest.raises(ValueError, match="050_64 is not the quantized form of mobilenet_v1_050_64"):
        other.correct_means(other, batches[0])
    with pytest.raises(ValueError, match="scheme must be one of uint8, int8; got 'int4'"):
        MobileNet(NAMES[0]).quantized(batches, scheme="int4")
