"""References and Keras files do not depend on the user's Keras settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tf_keras
from closeness import values_of
from tiers import first_fast, slow

from convert import keras_settings
from convert.export import keras_weights
from convert.export.litert_source import opened
from convert.references import applications
from mobilenets import MobileNet, Variant

SETTINGS = {
    "channels_first": lambda: keras.config.set_image_data_format("channels_first"),
    "float64": lambda: keras.config.set_floatx("float64"),
    "float16": lambda: keras.config.set_floatx("float16"),
    "mixed": lambda: keras.config.set_dtype_policy("mixed_bfloat16"),
    "tf_keras channels_first": lambda: tf_keras.backend.set_image_data_format("channels_first"),
    "tf_keras float16": lambda: tf_keras.backend.set_floatx("float16"),
    "tf_keras mixed": lambda: tf_keras.mixed_precision.set_global_policy("mixed_bfloat16"),
}


def state() -> tuple[str, ...]:
    return (
        keras.config.image_data_format(),
        keras.config.floatx(),
        keras.config.dtype_policy().name,
        tf_keras.backend.image_data_format(),
        tf_keras.backend.floatx(),
        tf_keras.mixed_precision.global_policy().name,
    )


STANDARD = ("channels_last", "float32", "float32") * 2


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    """One setting after another is the user's; all are as before afterwards."""
    policy = keras.config.dtype_policy()
    try:
        SETTINGS[request.param]()
        yield request.param
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(policy)
        tf_keras.backend.set_image_data_format("channels_last")
        tf_keras.backend.set_floatx("float32")
        tf_keras.mixed_precision.set_global_policy("float32")


def test_the_users_settings_come_back(setting: str) -> None:
    before = state()
    assert before != STANDARD
    with pytest.raises(KeyError), keras_settings.standard():  # noqa: PT012
        assert state() == STANDARD
        raise KeyError
    assert state() == before


# The reference is of Keras 3.
@pytest.mark.parametrize(
    "setting", [slow(name) if "tf_keras" in name else name for name in SETTINGS], indirect=True
)
def test_the_reference_is_the_same(expected: tuple[Callable, np.ndarray], setting: str) -> None:
    reference, outputs = expected
    before = state()
    found = reference()
    assert state() == before
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, outputs)


@pytest.fixture(scope="module", params=first_fast(["mobilenet_v1", "mobilenet_v2"]))
def expected(
    request: pytest.FixtureRequest, random_images: Callable, randomise: Callable
) -> tuple[Callable[[], np.ndarray], np.ndarray]:
    """What computes a reference's outputs, and they before any setting is the user's."""
    # The library's own models are another matter.
    model = randomise(MobileNet(Variant(request.param, 0.5, 32), 3))
    values = values_of(model)
    images = random_images(2, 32)

    def reference() -> np.ndarray:
        return applications.outputs(applications.reference(model.variant, values, 3), images)

    return reference, reference()


@pytest.mark.parametrize("kerases", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_keras_file_loads_the_same(kerases, setting, random_images, tmp_path) -> None:
    with keras_settings.standard():
        kerases.utils.set_random_seed(0)
        model = kerases.Sequential(
            [
                kerases.layers.Input((32, 32, 3)),
                kerases.layers.Conv2D(4, 3),
                kerases.layers.GlobalAveragePooling2D(),
            ]
        )
        model.save(tmp_path / "m.keras")
        images = random_images(2, 32)
        expected = np.asarray(model(images))
    found = np.asarray(opened(tmp_path / "m.keras").call(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_weights_files_are_checked_all_the_same(module, tmp_path, suffix) -> None:
    keras.config.set_image_data_format("channels_first")
    try:
        done = keras_weights.export(module("mobilenet_v1", 7), tmp_path / f"w{suffix}")
    finally:
        keras.config.set_image_data_format("channels_last")
    assert done.largest_difference <= 1e-4 * done.largest_output
