"""Channels with factors: the same network, whose layers' weights have similar ranges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from closeness import assert_close
from tiers import first_fast

from mobilenets import MobileNet, Variant
from mobilenets.channel_scaling import factors, scale_between, scale_channels

SIZE = 64
FAMILIES = ("mobilenet_v1", "mobilenet_v2")
families = pytest.mark.parametrize("family", first_fast(FAMILIES), ids=FAMILIES)


@pytest.fixture
def network(randomise: Callable) -> Callable[[str], MobileNet]:
    """A network with weights of very different sizes among the channels of a layer."""

    def network(family: str) -> MobileNet:
        multiplier = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35}[family]
        model = randomise(MobileNet(Variant(family, multiplier, SIZE)), seed=5)
        random = np.random.default_rng(6)
        for convolution in model.convolutions:
            norm = convolution.batch_norm
            small = 10 ** random.uniform(-1.5, 0, norm.gamma.shape)
            norm.gamma.assign(norm.gamma.numpy() * small)
            norm.beta.assign(np.abs(norm.beta.numpy()) * small + 0.1)
        return model

    return network


def scaled(model: MobileNet, images: np.ndarray) -> tuple[MobileNet, list[np.ndarray]]:
    changed = MobileNet.from_config(model.get_config())
    changed.set_weights(model.get_weights())
    found = factors(model.blocks, changed.convolutions, 2 * images - 1)
    scale_channels(changed.convolutions, found)
    return changed, found


@families
def test_the_outputs_stay_the_same(family: str, network: Callable, random_images: Callable) -> None:
    model, images = network(family), random_images(3, SIZE)
    changed, scales = scaled(model, images)
    assert np.mean(np.concatenate(scales) != 1) > 0.3
    assert_close(changed(images), model(images), 1e-4)


def largest_outputs(model: MobileNet, images: np.ndarray) -> list[np.ndarray]:
    """The largest output of each convolution, by channel."""
    values, found = tf.constant(2 * images - 1), []
    for block in model.blocks:
        activations = list(block(values, return_endpoints=True).values())
        count = len(getattr(block, "convolutions", [block]))
        found += [each.numpy().max((0, 1, 2)) for each in activations[:count]]
        values = activations[-1]
    return found


@families
def test_ranges_of_weights_become_similar(
    family: str, network: Callable, random_images: Callable
) -> None:
    model, images = network(family), random_images(3, SIZE)
    changed, _ = scaled(model, images)
    # A channel that is 0 for these images keeps its scale: for others it may not be.
    live = [largest > 0 for largest in largest_outputs(model, images)]

    def fullness(convolution, live: np.ndarray) -> float:
        """What 8 bits make use of: the channels' largest weights as shares of the layer's."""
        kernel = np.abs(convolution.folded()[0].numpy())
        largest = kernel.max((0, 1, 3) if convolution.depthwise else (0, 1, 2))[live]
        return largest.mean() / largest.max()

    before, after = (
        np.mean([fullness(*each) for each in zip(found.convolutions, live, strict=True)])
        for found in (model, changed)
    )
    assert after > 1.5 * before


@families
def test_what_relu6_clips_or_what_is_linear_keeps_its_scale(
    family: str, network: Callable, random_images: Callable
) -> None:
    model, images = network(family), random_images(3, SIZE)
    norm = model.convolutions[1].batch_norm
    beta = norm.beta.numpy()
    beta[:3] = 7
    norm.beta.assign(beta)
    found = factors(model.blocks, model.convolutions, 2 * images - 1)
    np.testing.assert_array_equal(found[1][:3], 1)
    assert (found[1][3:] != 1).any()
    np.testing.assert_array_equal(found[-1], 1)
    for scale, convolution in zip(found, model.convolutions, strict=True):
        if not convolution.activation:
            np.testing.assert_array_equal(scale, 1)


def test_no_channel_gets_few_steps(network: Callable, random_images: Callable) -> None:
    """Each has a step of 6 / 255, whatever its values."""
    model, images = network("mobilenet_v1"), random_images(3, SIZE)
    norm = model.convolutions[1].batch_norm
    # Large weights, which small ones read, want a smaller scale.
    for variable in (norm.gamma, norm.beta):
        variable.assign(variable.numpy() * np.array([0.02, 50] * (variable.shape[0] // 2)))
    scales, largest = scaled(model, images)[1], largest_outputs(model, images)
    below = [scale < 1 for scale in scales]
    assert any(each.any() for each in below)
    for each, scale, most in zip(below, scales, largest, strict=True):
        assert (scale[each] * most[each] > 0.99).all()


def test_factors_are_found_again(network: Callable, random_images: Callable) -> None:
    model = network("mobilenet_v1")
    changed, scales = scaled(model, random_images(3, SIZE))
    for exact, found, scale in zip(model.convolutions, changed.convolutions, scales, strict=True):
        np.testing.assert_allclose(scale_between(exact, found), scale, rtol=1e-5)
        np.testing.assert_array_equal(found.batch_norm.gamma, exact.batch_norm.gamma)
        same = scale == 1
        np.testing.assert_array_equal(scale_between(exact, found)[same], 1)


def test_a_channel_of_zeros_and_one_without_variance(
    network: Callable, random_images: Callable
) -> None:
    model, images = network("mobilenet_v1"), random_images(3, SIZE)
    kernel, norm = model.convolutions[2].kernel.numpy(), model.convolutions[2].batch_norm
    kernel[..., 0] = 0
    model.convolutions[2].kernel.assign(kernel)
    for variable, value in ((norm.moving_variance, 0), (norm.gamma, 1e-4)):
        values = variable.numpy()
        values[1] = value
        variable.assign(values)
    changed, scales = scaled(model, images)
    # The moving variance has no room for more than 1.
    assert scales[2][0] == 1
    assert scales[2][1] <= 1
    np.testing.assert_allclose(
        scale_between(model.convolutions[2], changed.convolutions[2]), scales[2], 1e-5
    )
    assert (changed.convolutions[2].batch_norm.moving_variance.numpy() >= 0).all()
    assert_close(changed(images), model(images), 1e-4)
