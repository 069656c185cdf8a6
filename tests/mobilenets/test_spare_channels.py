"""Dead channels that repeat live ones: the same network, with finer steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mobilenets
from convert.export.litert_source import copied
from mobilenets import MobileNet, Variant
from mobilenets.spare_channels import STEP, repeat_channels
from sample.digits import TRAINED, digits

SIZE = 64
SAMPLE = Path(__file__).parents[2] / "sample" / "mobilenet_v1_0.25_64.ckpt"
DEAD = {"mobilenet_v1": {0: [1, 4, 6], 2: [0, 3]}, "mobilenet_v2": {0: [2, 3, 9]}}


def repeated(model: MobileNet, step: float = STEP) -> MobileNet:
    changed = copied(model)
    repeat_channels(changed.convolutions, step)
    return changed


def kill(model: MobileNet, channels: dict[int, list[int]]) -> MobileNet:
    """Makes output channels of convolutions 0 for every image."""
    for position, dead in channels.items():
        norm = model.convolutions[position].batch_norm
        for variable, value in ((norm.gamma, 0.0), (norm.beta, -0.5)):
            values = variable.numpy()
            values[dead] = value
            variable.assign(values)
    return model


@pytest.fixture
def network(randomise: Callable) -> Callable[..., MobileNet]:
    def network(family: str, classes: int | None = None) -> MobileNet:
        multiplier = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35}[family]
        model = randomise(MobileNet(Variant(family, multiplier, SIZE), classes), seed=5)
        return kill(model, DEAD[family])

    return network


@pytest.mark.parametrize("classes", [None, 5], ids=["features", "classes"])
@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2"])
def test_exact_repetitions_change_nothing(
    family: str, classes: int | None, network: Callable, random_images: Callable
) -> None:
    model, images = network(family, classes), random_images(3, SIZE)
    expected = model(images).numpy()
    found = repeated(model, step=0)
    # Random networks multiply the noise of float32, V2 most.
    np.testing.assert_allclose(found(images), expected, rtol=0, atol=5e-5 * np.abs(expected).max())
    for position, dead in DEAD[family].items():
        assert (found.convolutions[position].batch_norm.gamma.numpy()[dead] != 0).all()


def test_a_trained_network() -> None:
    model = kill(mobilenets.load(SAMPLE), {0: [0], 2: [5]})
    images = digits(TRAINED)[0][:8]
    expected = model(images).numpy()
    exact = repeated(model, step=0)(images).numpy()
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    shifted = repeated(model)(images).numpy()
    assert 1e-5 < np.abs(shifted - expected).mean() < 0.01 * expected.std()


@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2"])
def test_rounding_costs_less(family: str, network: Callable, random_images: Callable) -> None:
    """Of the first two activations, to 8 bits."""
    model, images = network(family), 2 * random_images(8, SIZE) - 1
    # The one live channel is repeated by all others.
    kill(model, {0: [*range(1, model.convolutions[0].filters)]})

    def noise(model: MobileNet) -> float:
        first, depthwise, last = model.convolutions[:3]
        exact = last(depthwise(first(images)))
        rounded = last(on_steps(depthwise(on_steps(first(images)))))
        return np.std(rounded - exact)

    def on_steps(values: tf.Tensor) -> tf.Tensor:
        return tf.round(values / STEP) * STEP

    assert noise(repeated(model)) < 0.4 * noise(model)


@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2"])
def test_shifts_are_taken_back(family: str, network: Callable, random_images: Callable) -> None:
    """Where ReLU6 clips nothing, except at borders."""
    model, images = network(family), 2 * random_images(2, SIZE) - 1
    first, depthwise, last = model.convolutions[:3]
    for convolution in (first, depthwise):
        convolution.batch_norm.gamma.assign(0.1 * convolution.batch_norm.gamma)
        convolution.batch_norm.beta.assign(0 * convolution.batch_norm.beta + 3)
    # Its own channels all live.
    last.batch_norm.beta.assign(0 * last.batch_norm.beta + 1)
    kill(model, {0: DEAD[family][0]})
    ours, theirs = (
        each.convolutions[2](each.convolutions[1](each.convolutions[0](images))).numpy()
        for each in (repeated(model), model)
    )
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], theirs[:, 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_without_dead_channels_nothing_changes(randomise: Callable) -> None:
    model = randomise(MobileNet(Variant("mobilenet_v1", 0.25, SIZE)), seed=5)
    for ours, theirs in zip(repeated(model).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_without_life(network: Callable, random_images: Callable) -> None:
    model = kill(network("mobilenet_v1"), {0: [*range(8)]})
    images = random_images(2, SIZE)
    expected = model(images).numpy()
    found = repeated(model, step=0)(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


def test_inputs_without_bounds_tell_nothing(network: Callable) -> None:
    """A linear bottleneck may make any channel of the next expansion live."""
    model = network("mobilenet_v2")
    expansion = model.convolutions[3]
    kernel, norm = expansion.kernel.numpy(), expansion.batch_norm
    # 0 for inputs in [0, 6], but not for negative ones.
    kernel[..., 0] = -1
    expansion.kernel.assign(kernel)
    beta = norm.beta.numpy()
    beta[0] = -9
    norm.beta.assign(beta)
    np.testing.assert_array_equal(repeated(model).convolutions[3].kernel, expansion.kernel)
