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
from programs import SAMPLE
from tiers import first_fast, slow

import mobilenets
from mobilenets import MobileNet, Variant
from mobilenets.channel_scaling import scale_between
from mobilenets.quantization import quantize_images
from mobilenets.spare_channels import repeat_channels

NAMES = ("mobilenet_v1_025_64", "mobilenet_v2_035_64")


@pytest.fixture(scope="module")
def batches(random_images: Callable) -> np.ndarray:
    return np.stack([random_images(4, 64), 0.5 * random_images(4, 64)])


@pytest.fixture(scope="module", params=first_fast(NAMES), ids=NAMES)
def model(request: pytest.FixtureRequest, randomise: Callable) -> MobileNet:
    model = randomise(MobileNet(request.param, class_names=["a", "b", "c"], dropout_rate=0.3))
    assert isinstance(model, MobileNet)
    # A trained head's, so that they decide on their range.
    model.logits.kernel.assign(10 * model.logits.kernel)
    return model


@pytest.fixture(scope="module")
def quantized(model: MobileNet, batches: np.ndarray) -> MobileNet:
    return model.quantized(batches)


@pytest.fixture(scope="module")
def int8(model: MobileNet, batches: np.ndarray) -> MobileNet:
    return model.quantized(batches, scheme="int8")


def scales_of(quantized: MobileNet, model: MobileNet) -> list[np.ndarray]:
    """The factors of the channels that each convolution reads, and of those of the last one."""
    pairs = zip(model.convolutions, quantized.convolutions, strict=True)
    return [np.ones(3, np.float32), *(scale_between(exact, ours) for exact, ours in pairs)]


def limits(weights: np.ndarray) -> list[float]:
    """The range of weights, which contains 0."""
    return [min(np.min(weights), 0), max(np.max(weights), 0)]


def copied(model: MobileNet) -> MobileNet:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def test_is_the_quantized_form_with_scaled_channels(model: MobileNet, quantized: MobileNet) -> None:
    expected = Variant(model.variant.family, model.variant.depth_multiplier, 64, quantized=True)
    assert quantized.variant == expected
    assert (quantized.class_names, quantized.dropout_rate) == (("a", "b", "c"), 0.3)
    scales = scales_of(quantized, model)
    assert np.mean(np.concatenate(scales) != 1) > 0.2
    for ours, theirs, read, written in zip(
        quantized.convolutions, model.convolutions, scales, scales[1:], strict=False
    ):
        found, kernel = ours.folded()[0], theirs.folded()[0]
        if ours.depthwise:
            kernel = kernel * (written / read)[:, np.newaxis]
        else:
            kernel = kernel * written / read[:, np.newaxis]
        # Few channels, whose weights were the largest, are limited.
        slope = (ours.batch_norm.gamma / theirs.batch_norm.gamma).numpy()
        assert slope.max() == 1
        assert np.mean(slope == 1) > 0.8
        kernel = kernel * (slope[:, np.newaxis] if ours.depthwise else slope)
        # Rounded, so that each weight makes up for the error of others.
        low, high = (each.numpy() for each in (ours.weights_quant.min, ours.weights_quant.max))
        step = (high - low) / 254
        np.testing.assert_allclose(found / step, np.round(found / step), rtol=0, atol=1e-2)
        np.testing.assert_allclose([low, high], limits(kernel), rtol=1e-4, atol=1e-7)
        assert 0 < np.abs(found - kernel).mean() < step
        np.testing.assert_array_equal(ours.batch_norm.moving_mean, theirs.batch_norm.moving_mean)
    for name, variable in model.slim_variables.items():
        assert quantized.slim_variables[name].trainable == variable.trainable
        if "/Logits/" in name:
            np.testing.assert_array_equal(quantized.slim_variables[name], variable)


@pytest.mark.parametrize("scheme", ["uint8", slow("int8")])
def test_dead_channels_repeat_live_ones(scheme: str, model: MobileNet, batches: np.ndarray) -> None:
    model = copied(model)
    norm = model.convolutions[0].batch_norm
    for variable, value in ((norm.gamma, 0.0), (norm.beta, -0.5)):
        variable.assign([*variable.numpy()[:-2], value, value])
    expected = copied(model)
    repeat_channels(expected.convolutions)
    found = model.quantized(batches, scheme=scheme)
    first, repeated = found.convolutions[0], expected.convolutions[0]
    assert (first.batch_norm.gamma.numpy()[-2:] != 0).all()
    # Their means are those of the channels that they repeat, also when they are corrected again.
    found.correct_means(model, batches[0])
    scale = scale_between(repeated, first)
    means = [each(2 * batches[0] - 1).numpy().mean((0, 1, 2)) for each in (first, repeated)]
    np.testing.assert_allclose(means[0] / scale, means[1], rtol=0, atol=0.02)
    if scheme == "uint8":
        # All channels are rounded in steps of the widest.
        assert np.abs(first.kernel - repeated.kernel).mean() < np.abs(repeated.kernel).max() / 127
    else:
        for name, variable in expected.slim_variables.items():
            if name.endswith("weights") and "/Logits/" not in name:
                # Rounded, so that each makes up for the error of others.
                error = np.abs(found.slim_variables[name].numpy() - variable.numpy()).mean()
                assert error < np.abs(variable.numpy()).max() / 127, name
            elif not name.endswith("/beta"):
                np.testing.assert_array_equal(found.slim_variables[name], variable, err_msg=name)
    np.testing.assert_array_equal(norm.gamma.numpy()[-2:], 0)


@pytest.mark.parametrize("scheme", first_fast(["uint8", "int8"]))
def test_channels_have_the_float_models_means(
    scheme: str, model: MobileNet, quantized: MobileNet, int8: MobileNet, batches: np.ndarray
) -> None:
    found = {"uint8": quantized, "int8": int8}[scheme]
    scales = scales_of(found, model)[1:]
    uncorrected = copied(found)
    for ours, theirs, scale in zip(
        uncorrected.convolutions, model.convolutions, scales, strict=True
    ):
        ours.batch_norm.beta.assign(scale * theirs.batch_norm.beta)
    images = batches.reshape(-1, *batches.shape[2:])
    again = copied(uncorrected)
    again.correct_means(model, images)

    def means(network: MobileNet) -> list[np.ndarray]:
        values = tf.constant(2 * images - 1)
        if network.variant.quantized:
            values = quantize_images(values)
        found = []
        for block in network.blocks:
            activations = block(values, return_endpoints=True)
            found += [tf.reduce_mean(each, [0, 1, 2]).numpy() for each in activations.values()]
            values = list(activations.values())[-1]
        return found

    expected = [mean * scale for mean, scale in zip(means(model), scales, strict=True)]
    shifts = [
        np.mean([np.abs(a - b).mean() for a, b in zip(means(each), expected, strict=True)])
        for each in (found, uncorrected, again)
    ]
    assert shifts[0] < 0.5 * shifts[1]
    assert shifts[2] < 0.5 * shifts[1]


def test_ranges_are_those_of_the_weights_and_of_the_batches(
    model: MobileNet, quantized: MobileNet, batches: np.ndarray
) -> None:
    found = quantized.logits.weights_quant.get_weights()
    np.testing.assert_array_equal(found, limits(quantized.logits.kernel))
    largest = max(model(batch).numpy().max() for batch in batches)
    assert quantized.logits.act_quant.max.numpy() == pytest.approx(largest, rel=1e-5)
    first, theirs = quantized.convolutions[0].act_quant, model.convolutions[0]
    scale = scales_of(quantized, model)[1]
    largest = [float(tf.reduce_max(scale * theirs(2 * batch - 1))) for batch in batches]
    assert largest[0] > 1.2 * largest[1]
    # The images and the weights are rounded before.
    assert first.max.numpy() == pytest.approx(np.mean(largest), rel=0.02)
    assert first.min.numpy() == 0


def test_int8_has_a_symmetric_range_for_each_channel(
    model: MobileNet, int8: MobileNet, batches: np.ndarray
) -> None:
    assert int8.variant == dataclasses.replace(model.variant, quantized="int8")
    for ours, theirs in zip(int8.convolutions, model.convolutions, strict=True):
        kernel, _ = theirs.folded()
        widest = np.abs(kernel.numpy().reshape(-1, ours.weights_quant.max.shape[0])).max(0)
        assert len(widest) == theirs.batch_norm.gamma.shape[0]
        np.testing.assert_allclose(ours.weights_quant.max.numpy(), widest, rtol=1e-5)
        np.testing.assert_array_equal(
            ours.weights_quant.min.numpy(), -ours.weights_quant.max.numpy()
        )
        # Its weights are rounded already.
        steps = ours.folded()[0].numpy().reshape(-1, len(widest)) / (widest / 127)
        np.testing.assert_allclose(steps, np.round(steps), rtol=0, atol=1e-2)
    assert int8.logits.weights_quant.max.shape == (3,)
    largest = max(model(batch).numpy().max() for batch in batches)
    assert int8.logits.act_quant.max.numpy() == pytest.approx(largest, rel=1e-5)
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
    constant = copied(int8)
    constant.make_constant()
    np.testing.assert_allclose(constant(batches[0]), int8(batches[0]), atol=1e-5)


def test_a_constant_channel_does_not_stretch_the_range(
    batches: np.ndarray, randomise: Callable
) -> None:
    model = randomise(MobileNet(NAMES[0]))
    layer = model.convolutions[1]
    variance, mean = layer.batch_norm.moving_variance.numpy(), layer.batch_norm.moving_mean.numpy()
    kernel = layer.kernel.numpy()
    # Dead for images of noise, though not for any: with the input gone its weights have drifted.
    first = model.convolutions[0]
    weights, offset = (each.numpy() for each in first.folded())
    shift = first.batch_norm.beta.numpy()
    shift[2] -= offset[2] + 0.9 * np.abs(weights[..., 2]).sum()
    first.batch_norm.beta.assign(shift)
    variance[2], mean[2], kernel[:, :, 2] = 1e-35, 0, 9
    layer.batch_norm.moving_variance.assign(variance)
    layer.batch_norm.moving_mean.assign(mean)
    layer.kernel.assign(kernel)
    widest = np.abs(layer.folded()[0].numpy()).reshape(9, -1).max(0)
    quantized = model.quantized(batches)
    assert widest[2] > 50 * np.delete(widest, 2).max()
    rounded = quantized.convolutions[1].weights_quant
    assert max(-rounded.min.numpy(), rounded.max.numpy()) < widest[2] / 50
    np.testing.assert_array_equal(quantized.convolutions[1].kernel[:, :, 2], 0)
    assert cosines(quantized(batches[0]).numpy(), model(batches[0]).numpy()).min() > 0.98
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)


@pytest.mark.slow
def test_a_steep_channel_leaves_steps_to_the_others(
    batches: np.ndarray, randomise: Callable
) -> None:
    """In a layer whose channels ReLU6 clips, so that none can be scaled."""
    model = randomise(MobileNet(NAMES[0]))
    norm = model.convolutions[0].batch_norm
    gamma = 10 * norm.gamma.numpy()
    gamma[2] *= 30
    norm.gamma.assign(gamma)
    quantized = model.quantized(batches)
    slope = quantized.convolutions[0].batch_norm.gamma.numpy() / gamma
    assert slope[2] < 0.3
    assert np.delete(slope, 2).min() > 0.9


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


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["uint8", "int8"])
def test_trains_and_is_saved_like_any_quantized_model(
    scheme: str,
    quantized: MobileNet,
    int8: MobileNet,
    batches: np.ndarray,
    tmp_path: Path,
    inference_alone: Callable,
) -> None:
    quantized = {"uint8": quantized, "int8": int8}[scheme]
    model = copied(quantized)
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


@pytest.mark.slow
@pytest.mark.slow
def test_an_empty_batch_changes_nothing(
    model: MobileNet, batches: np.ndarray, quantized: MobileNet
) -> None:
    again = model.quantized([batches[0][:0], batches[0], batches[0][:0], batches[1]])
    for ours, theirs in zip(again.get_weights(), quantized.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


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


@pytest.mark.parametrize("scheme", first_fast(["uint8", "int8"]))
@pytest.mark.parametrize("order", first_fast(["classes first", "quantized first"]))
def test_a_new_head_learns(order: str, scheme: str) -> None:
    images = np.full((4, 64, 64, 3), 0.02, np.float32)
    images[::2, 16:48, 30:34] = images[1::2, 30:34, 16:48] = 1
    model = mobilenets.load(SAMPLE)
    if order == "classes first":
        student = model.with_classes(2).quantized([images], scheme)
    else:
        student = model.quantized([images], scheme).with_classes(2)
    for convolution in student.convolutions:
        convolution.trainable = False
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(keras.optimizers.Adam(0.02), loss)
    history = student.fit(images, np.arange(4) % 2, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.2 < history[0]


@pytest.mark.slow
def test_takes_a_dataset_and_reduced_precision(batches: np.ndarray, randomise: Callable) -> None:
    model = randomise(MobileNet(NAMES[0], dtype="mixed_bfloat16"))
    found = model.quantized(tf.data.Dataset.from_tensor_slices(batches))
    assert found.dtype_policy.name == "float32"
    assert found.convolutions[5].act_quant.max.numpy() != 6


def test_refuses(quantized: MobileNet, batches: np.ndarray) -> None:
    with pytest.raises(ValueError, match="quantops is quantized already"):
        quantized.quantized(batches)
    given = tf.data.Dataset.from_tensor_slices(batches)
    with pytest.raises(ValueError, match=r"the images never end: .*images\.take"):
        MobileNet(NAMES[0]).quantized(given.repeat())
    with pytest.raises(TypeError, match="a batch must be images alone; got a tuple: leave"):
        MobileNet(NAMES[0]).quantized(given.map(lambda images: (images, 0)))
    with pytest.raises(ValueError, match="there are no images"):
        MobileNet(NAMES[0]).quantized(batches[:0])
    with pytest.raises(ValueError, match="there are no images"):
        MobileNet(NAMES[0]).quantized(batches[:, :0])
    other = MobileNet("mobilenet_v1_050_64")
    with pytest.raises(ValueError, match="is not the quantized form of mobilenet_v1_050_64"):
        quantized.correct_means(other, batches[0])
    with pytest.raises(ValueError, match="050_64 is not the quantized form of mobilenet_v1_050_64"):
        other.correct_means(other, batches[0])
    with pytest.raises(ValueError, match="scheme must be one of uint8, int8; got 'int4'"):
        MobileNet(NAMES[0]).quantized(batches, scheme="int4")
