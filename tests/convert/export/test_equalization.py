"""Linear bottlenecks with channels of similar ranges: the same network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from convert.export.equalization import _groups, _largest, equalize
from convert.export.litert_source import copied
from mobilenets import MobileNet, Variant

SIZE = 64


@pytest.fixture
def network(randomise: Callable) -> Callable[..., MobileNet]:
    def network(family: str, classes: int | None = None) -> MobileNet:
        multiplier = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35}[family]
        return randomise(MobileNet(Variant(family, multiplier, SIZE), classes), seed=5)

    return network


def equalized(model: MobileNet, images: np.ndarray) -> MobileNet:
    changed = copied(model)
    equalize(changed, images)
    return changed


@pytest.mark.parametrize("classes", [None, 5], ids=["features", "classes"])
def test_the_outputs_stay_the_same(
    classes: int | None, network: Callable, random_images: Callable
) -> None:
    model, images = network("mobilenet_v2", classes), random_images(3, SIZE)
    expected = model(images).numpy()
    found = equalized(model, random_images(2, SIZE))(images).numpy()
    # Random networks multiply the noise of float32.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


def test_ranges_become_similar(network: Callable, random_images: Callable) -> None:
    model, images = network("mobilenet_v2"), random_images(2, SIZE)
    before, after = (_largest(each, images) for each in (model, equalized(model, images)))
    for group in _groups(model):
        ranges = [np.max([largest[each] for each in group], axis=0) for largest in (before, after)]
        old, new = (each.max() / each.min() for each in ranges)
        assert new == pytest.approx(old**0.25, rel=1e-3)
        assert ranges[0].max() == pytest.approx(ranges[1].max(), rel=1e-3)


def test_what_shortcuts_add_has_one_scale() -> None:
    model = MobileNet(Variant("mobilenet_v2", 0.35, 32))
    repeats = [len(group) for group in _groups(model)]
    # The paper's n; the last block of blocks with one stride is a group of its own.
    assert repeats == [1, 2, 3, 4, 3, 3, 1]


def test_a_channel_of_zeros(network: Callable, random_images: Callable) -> None:
    model, images = network("mobilenet_v2"), random_images(2, SIZE)
    norm = model.blocks[1].convolutions[-1].batch_norm
    for variable in (norm.gamma, norm.beta):
        values = variable.numpy()
        values[2] = 0
        variable.assign(values)
    expected = model(images).numpy()
    found = equalized(model, images)(images).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


def test_v1_has_nothing_linear(network: Callable, random_images: Callable) -> None:
    model = network("mobilenet_v1")
    for ours, theirs in zip(
        equalized(model, random_images(1, SIZE)).get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
