"""bfloat16: TensorFlow's graph pass on saved modules, and Keras's policy on native models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from closeness import cosines

import mobilenets

REAL = [
    "checkpoints/mobilenet_v1_0.25_128",
    "hub_tf1/mobilenet_v2_035_128_feature_vector_2",
]


def has_avx512() -> bool:
    information = Path("/proc/cpuinfo")
    return information.exists() and "avx512f" in information.read_text()


# Without it, TensorFlow has no bfloat16 kernels to switch to, and the pass leaves graphs alone.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_avx512(), reason="bfloat16 needs a processor with AVX-512"),
]


@contextmanager
def switched_on() -> Iterator[None]:
    """As docs/speed.md says."""
    switch = "auto_mixed_precision_onednn_bfloat16"
    tf.config.optimizer.set_experimental_options({switch: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({switch: False})


def features(model: Callable, images: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features and outputs, of a compiled graph."""
    endpoints = tf.function(lambda x: model(x, return_endpoints=True))(images)
    (pooled,) = [value for name, value in endpoints.items() if name.endswith("/global_pool")]
    both = tf.squeeze(pooled, [1, 2]), endpoints["default"]
    pooled, outputs = (tf.cast(each, tf.float32).numpy() for each in both)
    return pooled, outputs


def mixed(model: mobilenets.MobileNet) -> mobilenets.MobileNet:
    copy = mobilenets.MobileNet.from_config({**model.get_config(), "dtype": "mixed_bfloat16"})
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("name", REAL)
def test_photographs(name: str, reference_data: Path, tmp_path: Path) -> None:
    """Features and classes stay close to float32's; docs/speed.md has the figures."""
    model = mobilenets.load(reference_data / name)
    mobilenets.save(model, tmp_path / "module")
    photos = sorted(
        p for p in (reference_data / "photos").iterdir() if p.suffix in (".jpg", ".bmp")
    )
    assert len(photos) == 8
    images = mobilenets.images.load_batch(photos, model.variant.image_size)
    exact, exact_outputs = features(hub.load(str(tmp_path / "module")), images)
    with switched_on():
        switched = features(hub.load(str(tmp_path / "module")), images)
    for found, outputs in (switched, features(mixed(model), images)):
        assert (found != exact).any()
        assert cosines(found, exact).min() > 0.99
        if model.num_classes:
            assert (outputs.argmax(1) == exact_outputs.argmax(1)).sum() >= 7


@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2"])
def test_training_a_module(
    family: str, module: Callable[..., Path], random_images: Callable
) -> None:
    """The variables stay float32, the loss begins as in float32 and falls."""
    images, labels = random_images(8, 64), np.arange(8) % 3

    def losses() -> list[float]:
        tf_keras.utils.set_random_seed(0)
        layer = hub.KerasLayer(
            str(module(family)), trainable=True, arguments={"batch_norm_momentum": 0.9}
        )
        model = tf_keras.Sequential([tf_keras.Input((64, 64, 3)), layer, tf_keras.layers.Dense(3)])
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.SGD(0.01), loss)
        found = model.fit(images, labels, batch_size=8, epochs=4, verbose=0).history["loss"]
        assert {variable.dtype for variable in layer.variables} == {tf.float32}
        return found

    exact = losses()
    with switched_on():
        reduced = losses()
    assert reduced[0] != exact[0]
    assert reduced[0] == pytest.approx(exact[0], rel=0.1)
    assert exact[-1] < exact[0]
    assert reduced[-1] < reduced[0]
