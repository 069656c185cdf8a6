"""Every trace of a module, reached in every way, at sizes that are known and at unknown ones."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from closeness import assert_close
from tiers import first_fast, slow

import mobilenets
from mobilenets import MobileNet

ROOT = Path(__file__).resolve().parents[2]
V1, V2 = "mobilenet_v1", "mobilenet_v2"
# The modules are of 64 pixels. Their own size, the smallest, odd ones, oblong ones both ways, and
# what is larger than the own in both directions.
SIZES = [(64, 64), (32, 32), (33, 33), (65, 63), (50, 75), (64, 128), (127, 32), (224, 160)]
# For what is traced anew at each size.
TWO = [(33, 33), (64, 128)]
ANY = tf.TensorSpec([None, None, None, 3], tf.float32)
SPECS = {
    "unknown size": ANY,
    "unknown height": lambda size: tf.TensorSpec([None, None, size[1], 3], tf.float32),
    "unknown width": lambda size: tf.TensorSpec([2, size[0], None, 3], tf.float32),
    "unknown rank": tf.TensorSpec(None, tf.float32),
    "unknown channels": tf.TensorSpec([None, None, None, None], tf.float32),
    "known": lambda size: tf.TensorSpec([2, *size, 3], tf.float32),
}


class Loaded:
    """A module in all the ways to load it, and the native model of the same weights."""

    def __init__(self, folder: Path) -> None:
        self.native = mobilenets.load(folder)
        self.hub = hub.load(os.fspath(folder))
        self.layer = hub.KerasLayer(self.hub)
        self.trainable = hub.KerasLayer(self.hub, trainable=True)
        self.endpoints = hub.KerasLayer(self.hub, arguments={"return_endpoints": True})
        self.unknown = tf_keras.Sequential([tf_keras.Input((None, None, 3)), self.layer])
        self.signature = self.hub.signatures["serving_default"]


@pytest.fixture(scope="module")
def loaded(module: Callable) -> Callable[[str, int | None], Loaded]:
    kept: dict = {}

    def loaded(family: str, num_classes: int | None) -> Loaded:
        if (family, num_classes) not in kept:
            kept[family, num_classes] = Loaded(module(family, num_classes))
        return kept[family, num_classes]

    return loaded


def images_of(size: tuple[int, int], batch: int = 2) -> np.ndarray:
    random = np.random.default_rng(size[0] * 1000 + size[1])
    return random.uniform(size=(batch, *size, 3)).astype(np.float32)


families = first_fast([V1, V2])
both = pytest.mark.parametrize(
    ("family", "num_classes"), first_fast([(V1, 7), (V1, None), (V2, 7)])
)


@both
def test_inference(family: str, num_classes: int | None, loaded: Callable) -> None:
    of = loaded(family, num_classes)
    batches = [images_of(size) for size in SIZES]
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=ANY)
    mapped = zip(dataset.map(of.hub), dataset.map(lambda batch: of.layer(batch)), strict=True)
    for images, found_in_dataset in zip(batches, mapped, strict=True):
        expected = of.native(images)
        assert_close(of.hub(images), expected)
        assert_close(of.layer(images), expected)
        assert_close(of.unknown.predict(images, verbose=0), expected)
        assert_close(of.signature(images=tf.constant(images))["default"], expected)
        for found in found_in_dataset:
            assert_close(found, expected)


@pytest.mark.parametrize("spec", first_fast(SPECS, count=2))
@pytest.mark.parametrize("family", families)
def test_unknown_shapes_in_a_function(family: str, spec: str, loaded: Callable) -> None:
    of = loaded(family, 7)
    signature = SPECS[spec]
    sizes = TWO if callable(signature) else SIZES
    for call in (of.hub, of.layer):
        functions = [
            tf.function(
                lambda x, call=call: call(x),
                input_signature=[signature(size) if callable(signature) else signature],
                autograph=False,
            )
            for size in (sizes if callable(signature) else [None])
        ]
        for i, size in enumerate(sizes):
            images = images_of(size)
            assert_close(functions[i % len(functions)](images), of.native(images))


@pytest.mark.parametrize("family", families)
@pytest.mark.parametrize("known", first_fast([False, True]), ids=["unknown", "known"])
def test_endpoints(family: str, known: bool, loaded: Callable) -> None:
    of = loaded(family, 7)
    function = tf.function(lambda x: of.endpoints(x), input_signature=[ANY], autograph=False)
    for size in SIZES:
        images = images_of(size)
        expected = of.native(images, return_endpoints=True)
        found = of.endpoints(images) if known else function(images)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)


@pytest.mark.parametrize("family", families)
@pytest.mark.parametrize(
    "return_endpoints", first_fast([False, True]), ids=["features", "endpoints"]
)
def test_training(family: str, return_endpoints: bool, loaded: Callable) -> None:
    """Batch statistics and what moves, at an unknown size; the native model does the same."""
    of = loaded(family, None)

    @tf.function(input_signature=[ANY], autograph=False)
    def train(images):
        return of.hub(images, training=True, return_endpoints=return_endpoints)

    originals = [variable.numpy() for variable in of.hub.variables]
    names = list(of.native.slim_variables)

    def restore() -> None:
        for variable, twin, value in zip(
            of.hub.variables, of.native.slim_variables.values(), originals, strict=True
        ):
            variable.assign(value)
            twin.assign(value)

    for size in SIZES:
        restore()
        images = images_of(size, batch=4)
        found = train(images)
        expected = of.native(images, training=True, return_endpoints=return_endpoints)
        found = found["default"] if return_endpoints else found
        expected = expected["default"] if return_endpoints else expected
        assert_close(found, expected, 2e-4)
        for name, variable in zip(names, of.hub.variables, strict=True):
            assert_close(variable, of.native.slim_variables[name], 2e-4)
    restore()


@pytest.fixture(scope="module")
def trained(module: Callable) -> tuple[tf_keras.Model, list[np.ndarray]]:
    """A model with a module within, and what it predicts at each size."""
    inputs = tf_keras.Input((None, None, 3))
    features = hub.KerasLayer(os.fspath(module(V1)), trainable=True)(inputs)
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(2)(features))
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(images_of((96, 96), 4), np.array([0, 1, 1, 0]), verbose=0)
    return model, [model.predict(images_of(size, 4), verbose=0) for size in SIZES]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["saved_model", "m.keras", "m.h5"])
def test_after_saving_and_loading_again(kind: str, trained: tuple, tmp_path: Path) -> None:
    model, predictions = trained
    model.save(tmp_path / kind)
    custom = {"KerasLayer": hub.KerasLayer}
    again = tf_keras.models.load_model(tmp_path / kind, custom_objects=custom)
    for size, expected in zip(SIZES, predictions, strict=True):
        assert expected.shape == (4, 2)
        assert_close(again.predict(images_of(size, 4), verbose=0), expected)
    again.fit(images_of((128, 128), 4), np.array([0, 1, 1, 0]), verbose=0)
    assert np.isfinite(again.evaluate(images_of((128, 128), 4), np.array([0, 1, 1, 0]), verbose=0))


@pytest.mark.parametrize("family", families)
def test_the_trace_that_tells_the_size_is_reached_by_nobody(family: str, loaded: Callable) -> None:
    """And what it computes is right all the same."""
    of = loaded(family, 7)
    first, *others = of.hub.__call__.concrete_functions
    (images, *_), _ = first.structured_input_signature
    assert tuple(images.shape[1:3]) == (64, 64)
    for other in others:
        (images, *_), _ = other.structured_input_signature
        assert images.shape.as_list() == [None, None, None, 3]
    told = tf.function(
        lambda x: of.hub(x, return_endpoints="size"), input_signature=[ANY], autograph=False
    )
    for size in SIZES:
        inputs = tf.constant(images_of(size))
        assert_close(told(inputs), of.native(inputs))


@pytest.fixture(scope="module")
def unknown(loaded: Callable) -> Callable[[bool], Callable]:
    """`unknown(training)`: a function of tensors of any shape, traced once."""

    @functools.cache
    def unknown(training: bool) -> Callable:
        return tf.function(
            lambda x: loaded(V1, None).hub(x, training=training),
            input_signature=[tf.TensorSpec(None, tf.float32)],
            autograph=False,
        )

    return unknown


@pytest.mark.parametrize("shape", [(64, 64, 3), (64, 64), (2, 64, 64, 6), (1, 3, 64, 64)], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_other_shapes_are_refused(
    shape: tuple, training: bool, loaded: Callable, unknown: Callable
) -> None:
    """In whichever way they come, and the process goes on."""
    of = loaded(V1, None)
    for call in (lambda x: of.hub(x, training=training), unknown(training)):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            call(tf.zeros(shape))


WAYS: dict[str, Callable[[Loaded], Callable]] = {
    "native": lambda of: of.native,
    "in training": lambda of: lambda images: of.native(images, training=True),
    "predict": lambda of: lambda images: of.native.predict(images, verbose=0),
    "function": lambda of: tf.function(lambda images: of.native(images), autograph=False),
    "functional": lambda of: (
        lambda images: keras.Model(
            image := keras.Input(images.shape[1:], dtype=images.dtype.name), of.native(image)
        )(images)
    ),
    "module": lambda of: of.hub,
    "module in training": lambda of: lambda images: of.hub(images, training=True),
    "module's endpoints": lambda of: lambda images: of.hub(images, return_endpoints=True),
    "layer": lambda of: of.layer,
    "dataset": lambda of: (
        lambda images: list(tf.data.Dataset.from_tensors(images).map(lambda x: of.hub(x)))
    ),
    "signature": lambda of: lambda images: of.signature(images=tf.constant(images)),
}


@pytest.mark.parametrize("way", first_fast(WAYS))
def test_whatever_else_is_no_image_is_refused(way: str, loaded: Callable) -> None:
    """Ranks, channels and dtypes, drawn at random: none gives a result."""
    chance = random.Random(0)
    call = WAYS[way](loaded(V1, 7))
    for _ in range(25):
        rank = chance.choice((1, 2, 3, 4, 4, 4, 5))
        shape = [chance.choice((1, 2, 40)) for _ in range(rank)]
        shape[-1] = chance.choice((0, 1, 2, 4, 6, 40) if rank == 4 else (1, 3))
        dtype = "float32"
        if rank == 4 and chance.random() < 0.5:
            shape[-1], dtype = 3, chance.choice(("uint8", "int8", "int64", "bool", "complex64"))
        with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)):
            pytest.fail(f"{shape}, {dtype}: {call(np.zeros(shape, dtype))}")


chance = np.random.default_rng(0)
COLOURS = chance.uniform(size=(2, 40, 50, 3)).astype(np.float32)
GREY = np.full_like(COLOURS, 0.5)
UNLIKELY = {
    "0 to 255": 255 * COLOURS,
    "-1 to 1": 2 * COLOURS - 1,
    "standardised": (COLOURS - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "one image of many": np.concatenate([GREY] * 9 + [255 * COLOURS[:1]]),
    "NaN": np.where(np.arange(3) == 1, np.nan, GREY),
    "a NaN": np.where(np.arange(GREY.size).reshape(GREY.shape) == 77, np.nan, GREY),
    "infinity": np.where(np.arange(GREY.size).reshape(GREY.shape) == 77, -np.inf, GREY),
}
LIKELY = {
    "black and white": np.round(COLOURS),
    "black": np.zeros_like(COLOURS),
    "noise on black and white": np.round(COLOURS) + chance.normal(0, 0.2, COLOURS.shape),
    "resized": tf.image.resize(np.round(COLOURS), (80, 80), "lanczos5").numpy(),
    "contrast and brightness": 1.5 * (COLOURS - 0.5) + 0.5 + 0.2,
    "digits with more contrast": np.where(COLOURS > 0.87, 1.57, -0.13),
}


@pytest.mark.parametrize("way", first_fast(WAYS))
def test_pixels_in_another_range_are_refused(way: str, loaded: Callable) -> None:
    """They used to give results like any other."""
    of = loaded(V1, 7)
    variables = [*of.native.slim_variables.values(), *of.hub.variables]
    before = [variable.numpy() for variable in variables]
    call = WAYS[way](of)
    for name, images in UNLIKELY.items():
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match=r"floats in \[0, 1\]: divide"
        ):
            pytest.fail(f"{name}: {call(images.astype(np.float32))}")
    # Training too: not even the first batch norm's statistics.
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for images in LIKELY.values():
        call(images.astype(np.float32))
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["serving", "quantops", "mobilenet_v2"])
def test_every_kind_of_module_refuses_them(
    kind: str, loaded: Callable, randomise: Callable, tmp_path: Path
) -> None:
    name = "mobilenet_v1_025_64/quantops" if kind == "quantops" else V2 + "_035_64"
    model = randomise(MobileNet(name, 7))
    mobilenets.save(model, tmp_path / "module", trainable=kind != "serving")
    call = hub.load(os.fspath(tmp_path / "module"))
    assert call(tf.constant(COLOURS)).shape == (2, 7)
    for images in UNLIKELY.values():
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"floats in \[0, 1\]: divide"):
            call(tf.constant(images, tf.float32))


def test_the_error_says_which_range(loaded: Callable) -> None:
    with pytest.raises(ValueError, match=r"pixels in \[-1, 1\]; these have values from -1 to 2"):
        loaded(V1, 7).native(3 * np.round(COLOURS) - 1)


class TestEmptyBatch:
    @pytest.fixture(scope="class", params=[*families, slow("quantops")])
    @classmethod
    def of(
        cls,
        request: Any,
        loaded: Callable,
        randomise: Callable,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Loaded:
        if request.param != "quantops":
            return loaded(request.param, 7)
        folder = tmp_path_factory.mktemp("module") / "module"
        mobilenets.save(randomise(MobileNet("mobilenet_v1_025_64/quantops", 7)), folder)
        return Loaded(folder)

    @pytest.fixture(params=["native", *map(slow, ("function", "module", "layer", "unknown"))])
    def call(self, request: pytest.FixtureRequest, of: Loaded) -> Callable:
        def unknown(images: tf.Tensor, **arguments: Any) -> tf.Tensor:
            function = tf.function(
                lambda x: of.hub(x, **arguments), input_signature=[ANY], autograph=False
            )
            return function(images)

        return {
            "native": of.native,
            "function": tf.function(of.native, autograph=False),
            "module": of.hub,
            "layer": of.trainable,
            "unknown": unknown,
        }[request.param]

    def test_it(self, call: Any, of: Loaded) -> None:
        variables = [*of.native.slim_variables.values(), *of.hub.variables]
        before = [variable.numpy() for variable in variables]
        names = 2 * list(of.native.slim_variables)
        # A function is traced for each size.
        for size in ((64, 64), (48, 70)) if call is of.native else ((48, 70),):
            images = tf.zeros((0, *size, 3))
            assert call(images).shape == (0, 7)
            with tf.GradientTape() as tape:
                outputs = call(images, training=True)
                loss = tf.reduce_sum(outputs)
            assert outputs.shape == (0, 7)
            watched = tape.watched_variables()
            assert len(watched) == len(of.hub.trainable_variables)
            for gradient in tape.gradient(loss, watched):
                assert gradient is None or not np.asarray(gradient).any()
        for name, variable, value in zip(names, variables, before, strict=True):
            if "weights_quant" not in name:  # These follow the weights, whatever the batch.
                np.testing.assert_array_equal(variable, value, err_msg=name)

    def test_endpoints(self, of: Loaded) -> None:
        full, empty = (of.native(tf.zeros((n, 64, 64, 3)), return_endpoints=True) for n in (1, 0))
        assert full.keys() == empty.keys()
        for name, value in full.items():
            assert empty[name].shape == (0, *value.shape[1:])


REPLICAS = """
import gc, sys
gc.disable()
import numpy as np
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, tf_keras, tensorflow_hub as hub, mobilenets
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
(folder,) = sys.argv[1:]
# Five images in batches of four: the second replica has none of the last batch.
images = np.random.default_rng(0).uniform(size=(5, 64, 64, 3)).astype(np.float32)
labels = np.array([0, 1, 1, 0, 1])
for world in (keras, tf_keras):
    with strategy.scope():
        if world is keras:
            features = mobilenets.load(folder)
        else:
            features = hub.KerasLayer(folder, trainable=True)
        model = world.Sequential([features, world.layers.Dense(2)])
        loss = world.losses.SparseCategoricalCrossentropy(True)
        model.compile(world.optimizers.SGD(0.01), loss)
    history = model.fit(images, labels, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all(), (world.__name__, history)
    bad = [v.name for v in features.weights if not np.isfinite(np.asarray(v)).all()]
    assert not bad, (world.__name__, bad)
    predictions = model.predict(images, batch_size=4, verbose=0)
    assert predictions.shape == (5, 2) and np.isfinite(predictions).all()
"""


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["1", "0"], ids=["oneDNN", "plain"])
def test_a_replica_without_images(onednn: str, module: Callable) -> None:
    """In Keras 3 and in tf_keras, one after the other in a process."""
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, os.fspath(module(V1))],
        cwd=ROOT,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
