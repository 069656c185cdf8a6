"""The networks of `keras.applications` get each weight where it belongs.

The table of layers' names is the library's. Nothing here or in the comparison of a conversion
relies on it: a wrong name shows in the order of the layers and in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiers import first_fast

from convert import verify
from convert.errors import ConvertError
from convert.files import values_by_name
from convert.references import applications
from mobilenets import Variant, load
from mobilenets.weights.keras_names import application_layers

VARIANTS = {"mobilenet_v1": ("mobilenet_v1", 0.25, 64), "mobilenet_v2": ("mobilenet_v2", 0.35, 64)}
# Two scopes of each family whose variables have the same shapes, so that no shape tells them apart.
TWINS = {
    "mobilenet_v1": ("Conv2d_8_pointwise", "Conv2d_9_pointwise"),
    "mobilenet_v2": ("expanded_conv_14/expand", "expanded_conv_15/expand"),
}


@pytest.fixture(params=first_fast(VARIANTS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def values(family: str, module: Callable[..., Path]) -> dict[str, np.ndarray]:
    return values_by_name(load(module(family, 7)))


def test_layers_from_the_image_to_the_logits_hold_slims_variables_in_order(
    family: str, values: dict[str, np.ndarray]
) -> None:
    network = applications.reference(Variant(*VARIANTS[family]), values, 7)
    found = [each for layer in network.layers for each in layer.get_weights()]
    for (name, expected), weight in zip(values.items(), found, strict=True):
        np.testing.assert_array_equal(weight, expected.reshape(weight.shape), err_msg=name)


@pytest.mark.parametrize("part", first_fast([0, 1]), ids=["convolution", "batch norm"])
def test_a_wrong_name_would_be_noticed(
    family: str,
    part: int,
    values: dict[str, np.ndarray],
    module: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = dict(zip(TWINS[family], reversed(TWINS[family]), strict=True))

    def wrong(scope: str) -> tuple[str, str]:
        names = list(application_layers(scope))
        names[part] = application_layers(other.get(scope, scope))[part]
        return names[0], names[1]

    variant = Variant(*VARIANTS[family])
    verify.Original(variant, values, 7).compare(module(family, 7), "classification")
    monkeypatch.setattr(applications, "application_layers", wrong)
    with pytest.raises(ConvertError, match="does not agree with keras"):
        verify.Original(variant, values, 7).compare(module(family, 7), "classification")


def test_both_outputs_are_those_of_the_two_networks(
    family: str, values: dict[str, np.ndarray], random_images: Callable
) -> None:
    variant = Variant(*VARIANTS[family])
    images = random_images(2, applications.input_size(variant))
    found = applications.both_outputs(applications.reference(variant, values, 7), images)
    for kind, classes in (("feature_vector", None), ("classification", 7)):
        network = applications.reference(variant, values, classes)
        expected = applications.outputs(network, images)
        np.testing.assert_allclose(found[kind], expected, rtol=1e-5, atol=1e-5)
        alone = applications.both_outputs(network, images)
        np.testing.assert_array_equal(alone[kind], expected)
        assert set(alone) == {"feature_vector"} | ({kind} if classes else set())
