"""The networks are NHWC and float32 whatever Keras's own configuration says."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import mobilenets
from mobilenets import MobileNet
from mobilenets.blocks import DepthwiseSeparable, InvertedResidual

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ["mobilenet_v1_025_32", "mobilenet_v2_035_32", "mobilenet_v1_025_32/quantops"]
FORMATS = ["channels_last", "channels_first"]
FLOATS = ["float32", "float64", "float16", "bfloat16"]
# None leaves the policy to floatx.
POLICIES = [None, "float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_image_data_format(before[0])
    keras.config.set_floatx(before[1])
    keras.config.set_dtype_policy(before[2])


def configure(data_format: str, floatx: str, policy: str | None) -> None:
    keras.config.set_image_data_format(data_format)
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy or floatx)


def results(variant: str, images: np.ndarray) -> list[np.ndarray]:
    """What a network computes in inference and in a step of training."""
    keras.utils.set_random_seed(0)
    model = MobileNet(variant, 3, dropout_rate=0.0)
    random = np.random.default_rng(0)
    for variable in model.slim_variables.values():
        if "quant" not in variable.path:
            variable.assign(variable.numpy() + random.uniform(0, 0.1, variable.shape))
    found = [model(images)]
    with tf.GradientTape() as tape:
        found.append(model(images, training=True))
        loss = tf.reduce_sum(tf.cast(found[-1], tf.float32))
    kernels = [v.value for v in model.slim_variables.values() if v.trainable]
    found += tape.gradient(loss, kernels)
    found += [v.value for v in model.slim_variables.values()]
    assert {v.dtype for v in model.variables} == {"float32"}
    return [np.asarray(tf.cast(each, tf.float32)) for each in found]


@pytest.fixture(scope="module")
def expected(random_images: Any) -> dict[tuple[str, str | None], list[np.ndarray]]:
    return {}


def cases() -> Iterator[Any]:
    """All settings with channels first for one variant; for the others each floatx and each policy.

    Channels last is Keras's default and comes with each floatx. Fast are a wider and a narrower
    floatx, and a policy of each kind, for the first variant.
    """
    for variant, *setting in itertools.product(VARIANTS, FORMATS, FLOATS, POLICIES):
        data_format, floatx, policy = setting
        each = data_format == "channels_first" and (policy is None or floatx == "float64")
        quick = each and floatx in ("float64", "float16")
        quick = quick and policy in (None, "float64", "mixed_bfloat16")
        first = variant == VARIANTS[0]
        if each or (first and (data_format == "channels_first" or policy is None)):
            marks = [] if quick and first else [pytest.mark.slow]
            yield pytest.param(variant, *setting, marks=marks)


@pytest.mark.parametrize(("variant", "data_format", "floatx", "policy"), list(cases()))
def test_results_are_equal(
    variant: str,
    data_format: str,
    floatx: str,
    policy: str | None,
    expected: dict,
    random_images: Any,
) -> None:
    """A mixed policy is a wish, and holds; a quantized variant has no reduced precision."""
    images = random_images(2, 32)
    wish = policy if "mixed" in (policy or "") and "quantops" not in variant else None
    if (variant, wish) not in expected:
        configure("channels_last", "float32", wish)
        expected[variant, wish] = results(variant, images)
    configure(data_format, floatx, policy)
    for found, value in zip(results(variant, images), expected[variant, wish], strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.slow
@pytest.mark.parametrize("floatx", ["float64", "float16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_modules_and_models_load(
    variant: str,
    floatx: str,
    quick_save: None,
    tmp_path: Path,
    random_images: Any,
    randomise: Any,
) -> None:
    images = random_images(2, 32)
    model = randomise(MobileNet(variant, 3))
    value = model(images)
    mobilenets.save(model, tmp_path / "before")
    model.save(tmp_path / "before.keras")
    configure("channels_first", floatx, None)
    for again in (
        mobilenets.load(tmp_path / "before"),
        keras.models.load_model(tmp_path / "before.keras"),
        model.with_classes(3),
    ):
        assert again.dtype_policy.name == "float32"
        assert again(images).dtype == tf.float32
    mobilenets.save(model, tmp_path / "after")
    np.testing.assert_array_equal(mobilenets.load(tmp_path / "after")(images), value)
    # Keras itself rounds the arrays that `predict` and a default `Input` are given to floatx.
    inputs = keras.Input((32, 32, 3), dtype="float32")
    found = keras.Model(inputs, model(inputs))(tf.constant(images))
    np.testing.assert_allclose(found, value, rtol=0, atol=1e-5 * np.abs(value).max())


@pytest.mark.parametrize("floatx", ["float64", "float16"])
@pytest.mark.parametrize("block", [DepthwiseSeparable, InvertedResidual])
def test_blocks(block: type, floatx: str) -> None:
    configure("channels_first", floatx, None)
    layer = block(4)
    outputs = layer(np.ones((1, 8, 8, 3), floatx))
    assert outputs.dtype == tf.float32
    assert outputs.shape == (1, 8, 8, 4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_keras_json(dtype: str, tmp_path: Path, module: Any) -> None:
    """The file that Keras reads when it is imported, in a process of its own."""
    settings = {"image_data_format": "channels_first", "floatx": dtype, "backend": "tensorflow"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    program = (
        "import keras, numpy as np, mobilenets, sys; "
        f"assert keras.config.floatx() == {dtype!r}; "
        f"model = mobilenets.load({os.fspath(module('mobilenet_v1'))!r}); "
        "np.save(sys.argv[1], model(np.ones((1, 64, 64, 3), np.float32)))"
    )
    subprocess.run(
        [sys.executable, "-c", program, os.fspath(tmp_path / "found.npy")],
        cwd=ROOT,
        env={**os.environ, "KERAS_HOME": os.fspath(tmp_path)},
        check=True,
    )
    model = mobilenets.load(module("mobilenet_v1"))
    value = model(np.ones((1, 64, 64, 3), np.float32))
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), value)
