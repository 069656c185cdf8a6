"""Classifiers of every kind: what they score, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from closeness import cosines
from refusals import one_line
from tiers import slow

import mobilenets
from convert.classifiers import opened
from convert.errors import ConvertError
from convert.export.litert_float import float_model
from mobilenets import MobileNet, Variant

SIZE = 32
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def network(randomise: Callable) -> MobileNet:
    return randomise(MobileNet(Variant("mobilenet_v1", 0.25, SIZE), class_names=NAMES))


@pytest.fixture(scope="module")
def images(random_images: Callable) -> np.ndarray:
    # Of several brightnesses, and of whole pixel values, which integer models take.
    brightness = np.linspace(0.2, 1, 6, dtype=np.float32)[:, None, None, None]
    return np.round(255 * random_images(6, SIZE) * brightness) / np.float32(255)


def litert(
    call: Callable,
    file: Path,
    size: int = SIZE,
    calibration: Sequence[np.ndarray] = (),
    ends: tf.DType = tf.float32,
) -> Path:
    """A function of one image as a LiteRT model, in 8 bits if there are images to calibrate on."""
    spec = tf.TensorSpec([1, size, size, 3], tf.float32)
    function = tf.function(call, autograph=False).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if calibration:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([batch] for batch in calibration)
        converter.inference_input_type = converter.inference_output_type = ends
    file.write_bytes(converter.convert())
    return file


def test_a_module(network: MobileNet, images: np.ndarray, tmp_path: Path, quick_save: None) -> None:
    mobilenets.save(network, tmp_path / "module")
    found = opened(tmp_path / "module")
    np.testing.assert_allclose(found.scores(images), network(images), rtol=1e-5, atol=1e-5)
    assert (found.image_size, found.num_classes, found.class_names) == (SIZE, 3, NAMES)
    assert (found.variant, found.softmax) == ("mobilenet_v1_025_32", False)
    assert opened(tmp_path / "module", 48).image_size == 48
    with pytest.raises(ConvertError, match=one_line("must be 32 pixels or more; got 0")):
        opened(tmp_path / "module", 0)


def test_a_module_for_serving(network: MobileNet, images: np.ndarray, tmp_path: Path) -> None:
    """`mobilenets.load` refuses it."""
    mobilenets.save(network, tmp_path / "module", trainable=False)
    found = opened(tmp_path / "module")
    np.testing.assert_allclose(found.scores(images), network(images), rtol=1e-4, atol=1e-4)
    assert (found.image_size, found.num_classes, found.class_names) == (SIZE, 3, NAMES)
    assert (found.variant, found.softmax) == ("mobilenet_v1_025_32", False)
    (tmp_path / "module" / "saved_model.pb").write_bytes(b"not one")
    with pytest.raises(ConvertError, match=one_line("module cannot be loaded: ")):
        opened(tmp_path / "module")
    (tmp_path / "module" / "assets.extra" / "mobilenet.json").write_text("{")
    with pytest.raises(ConvertError, match=one_line("module cannot be loaded: ")):
        opened(tmp_path / "module")


@pytest.mark.slow
def test_features_for_serving(tmp_path: Path) -> None:
    model = MobileNet(Variant("mobilenet_v1", 0.25, SIZE))
    mobilenets.save(model, tmp_path / "module", trainable=False)
    with pytest.raises(ConvertError, match=one_line("feature vector: evaluate its classification")):
        opened(tmp_path / "module")


@pytest.mark.parametrize(
    ("precision", "interface", "cosine"),
    [
        ("float32", "float32", 1 - 1e-6),
        slow("float16", "float32", 1 - 1e-3),
        slow("int8", "uint8", 0.99),
        slow("int8", "int8", 0.99),
        slow("int8", "float32", 0.99),
    ],
)
def test_litert_models_of_modules(
    precision: str,
    interface: str,
    cosine: float,
    network: MobileNet,
    images: np.ndarray,
    tmp_path: Path,
) -> None:
    content = float_model(network, precision, images=images, interface=interface)
    (tmp_path / "m.tflite").write_bytes(content)
    found = opened(tmp_path / "m.tflite")
    assert cosines(found.scores(images), np.array(network(images))).min() > cosine
    assert (found.image_size, found.num_classes, found.class_names) == (SIZE, 3, None)
    assert (found.variant, found.softmax, found.bytes) == (None, False, len(content))
    (tmp_path / "m.tflite.labels.txt").write_text("\n".join(NAMES))
    assert opened(tmp_path / "m.tflite").class_names == NAMES


@pytest.mark.parametrize("interface", [tf.uint8, tf.int8], ids=["uint8", "int8"])
def test_integers_of_litert_models(interface: tf.DType, images: np.ndarray, tmp_path: Path) -> None:
    """Input and output in 8 bits: the images' pixels, and scores rounded to them."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)

    def call(inputs: tf.Tensor) -> tf.Tensor:
        features = tf.nn.relu6(tf.nn.conv2d(2 * inputs - 1, kernel, 2, "SAME"))
        return tf.reduce_mean(features, [1, 2])

    # Black and white, so that the input's range is [0, 1].
    extremes = [np.zeros_like(images[:1]), np.ones_like(images[:1])]
    calibration = [*extremes, *images[:, np.newaxis]]
    found = opened(litert(call, tmp_path / "m.tflite", calibration=calibration, ends=interface))
    expected = np.array(call(images))
    step = np.ptp(np.concatenate([call(batch) for batch in calibration])) / 255
    np.testing.assert_allclose(found.scores(images), expected, rtol=0, atol=3 * step)
    assert (found.image_size, found.num_classes, found.softmax) == (SIZE, 4, False)


@pytest.mark.parametrize("white", [1, 255, -1], ids=["[0, 1]", "[0, 255]", "[-1, 1]"])
def test_scales_of_litert_models(
    white: int, network: MobileNet, images: np.ndarray, tmp_path: Path
) -> None:
    """A negative white stands for Google's own models, which take the scaled image."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)

    def call(inputs: tf.Tensor) -> tf.Tensor:
        scaled = inputs if white == -1 else 2 * (inputs / white) - 1
        features = tf.nn.relu6(tf.nn.conv2d(scaled, kernel, 2, "SAME"))
        return tf.nn.softmax(tf.reduce_mean(features, [1, 2]))

    expected = np.array(call(2 * images - 1 if white == -1 else white * images))
    found = opened(litert(call, tmp_path / "m.tflite"))
    np.testing.assert_allclose(found.scores(images), expected, rtol=0, atol=1e-5)
    assert found.softmax
    np.testing.assert_array_equal(found.probabilities(expected), expected)


@pytest.mark.parametrize("softmax", [True, slow(False)], ids=["softmax", "logits"])
@pytest.mark.parametrize("pixels", [True, slow(False)], ids=["pixels", "unit"])
def test_keras_classifiers(
    softmax: bool, pixels: bool, network: MobileNet, images: np.ndarray, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            *([keras.layers.Rescaling(1 / 255)] if pixels else []),
            network,
            keras.layers.Dense(4, activation="softmax" if softmax else None),
        ]
    )
    model.save(tmp_path / "m.keras")
    found = opened(tmp_path / "m.keras")
    expected = np.array(model((255 if pixels else 1) * images))
    np.testing.assert_allclose(found.scores(images), expected, rtol=0, atol=1e-5)
    assert (found.softmax, found.num_classes, found.variant) == (softmax, 4, None)
    np.testing.assert_allclose(found.probabilities(expected).sum(1), 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["m.keras", "folder"])
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantops"])
def test_tf_keras_classifiers(
    quantized: bool, saved: str, images: np.ndarray, tmp_path: Path, inference_alone: Callable
) -> None:
    tf_keras.utils.set_random_seed(1)
    backbone = MobileNet(Variant("mobilenet_v1", 0.25, SIZE, quantized=quantized))
    with inference_alone():
        mobilenets.save(backbone, tmp_path / "module")
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Input((SIZE, SIZE, 3)),
            tf_keras.layers.Rescaling(1 / 255),
            hub.KerasLayer(str(tmp_path / "module")),
            tf_keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.save(tmp_path / saved)
    found = opened(tmp_path / saved)
    expected = model(255 * images).numpy()
    np.testing.assert_allclose(found.scores(images), expected, rtol=0, atol=1e-5)
    assert found.softmax


def _pool(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.conv2d(2 * images - 1, np.ones((1, 1, 3, 2)), 1, "SAME"), [1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: tf.reduce_mean(2 * x, [1, 2]), "has no convolution"),
        (lambda x: _pool(x)[:, :1], r"not a classifier: .* found output \[1, 1\]"),
        (lambda x: tf.nn.conv2d(x, np.ones((1, 1, 3, 2)), 2, "SAME"), r"output \[1, 4, 4, 2\]"),
        (lambda x: tf.sigmoid(_pool(x)), "ends in a sigmoid, so that its classes are independent"),
        (lambda x: _pool(x / 3), "unsupported input scaling"),
        (lambda x: (_pool(x), 2 * _pool(x)), "expected one output, found 2"),
    ],
    ids=["no convolution", "one", "map", "sigmoid", "scale", "two"],
)
def test_litert_models_that_are_refused(call: Callable, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=one_line(message)):
        opened(litert(call, tmp_path / "m.tflite", size=8))


def test_a_litert_model_has_its_own_size(tmp_path: Path) -> None:
    """The first convolution need not see all of it."""
    file = litert(lambda x: _pool(x[:, 4:]), tmp_path / "m.tflite", size=8)
    assert (opened(file).image_size, opened(file).num_classes) == (8, 2)
    with pytest.raises(ConvertError, match=one_line("takes 8-pixel images; an image size of 32")):
        opened(file, 32)


def test_damaged_files(tmp_path: Path) -> None:
    whole = litert(_pool, tmp_path / "whole.tflite", size=8).read_bytes()
    for name, content in (
        ("cut", whole[: len(whole) // 2]),
        ("empty", b""),
        ("other", b"\x89PNG" * 400),
    ):
        file = tmp_path / f"{name}.tflite"
        file.write_bytes(content)
        with pytest.raises(ConvertError, match=one_line(f"{name}.tflite is not a LiteRT model")):
            opened(file)
    with pytest.raises(ConvertError, match=one_line("absent.tflite: no such file")):
        opened(tmp_path / "absent.tflite")
    (tmp_path / "m.keras").write_bytes(b"not one")
    with pytest.raises(ConvertError, match=one_line("m.keras cannot be loaded")):
        opened(tmp_path / "m.keras")


def test_the_size_of_a_checkpoint(network: MobileNet, tmp_path: Path) -> None:
    """The files of its prefix alone."""
    from convert.export import slim

    slim.export(network, tmp_path / "mobilenet_v1_0.25_32.ckpt")
    files = list(tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("more")
    found = opened(tmp_path / "mobilenet_v1_0.25_32.ckpt")
    assert found.bytes == sum(each.stat().st_size for each in files) > 100_000
