"""What users run on a saved module: TensorFlow Hub, tf_keras, Keras 3, plain TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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

Images = Callable[..., np.ndarray]
Loaded = Callable[..., Any]
Module = Callable[..., Path]

V1, V2 = "mobilenet_v1", "mobilenet_v2"
FEATURES = {V1: 256, V2: 1280}
both_families = pytest.mark.parametrize("family", first_fast([V1, V2]))
both_kinds = pytest.mark.parametrize(
    "num_classes", first_fast([None, 7]), ids=["feature_vector", "classification"]
)
LABELS = np.array([0, 1, 2, 0])


def values(variables: Iterable[tf.Variable]) -> dict[str, np.ndarray]:
    return {variable.name: variable.numpy() for variable in variables}


def changed(variables: Iterable[tf.Variable], before: dict[str, np.ndarray]) -> set[str]:
    after = values(variables)
    assert set(after) == set(before)
    return {name for name, value in before.items() if (after[name] != value).any()}


def statistics(names: Iterable[str]) -> set[str]:
    return {name for name in names if "/moving_" in name}


@pytest.fixture(scope="module")
def loaded(module: Module) -> Callable[..., Any]:
    """`loaded(family, num_classes=None)`: what `hub.load` gives, as good as new at every call."""
    kept: dict[tuple[str, int | None], tuple[Any, list[np.ndarray]]] = {}

    def loaded(family: str, num_classes: int | None = None) -> Any:
        key = family, num_classes
        if key not in kept:
            fresh = hub.load(str(module(family, num_classes)))
            kept[key] = fresh, [variable.numpy() for variable in fresh.variables]
        found, originals = kept[key]
        for variable, value in zip(found.variables, originals, strict=True):
            variable.assign(value)
        return found

    return loaded


@both_families
@both_kinds
def test_inference(
    family: str, num_classes: int | None, module: Module, loaded: Loaded, random_images: Images
) -> None:
    # By path, as users do, in the tests of models.
    layer = hub.KerasLayer(loaded(family, num_classes))
    native = mobilenets.load(module(family, num_classes))
    assert layer.trainable_weights == []
    for size in ((64, 64), (32, 32), (33, 50), (96, 96)):
        images = random_images(2, *size)
        expected = native(images)
        assert expected.shape == (2, num_classes or FEATURES[family])
        assert_close(layer(images), expected)
        assert_close(loaded(family, num_classes)(images), expected)


@both_families
@both_kinds
def test_training_at_any_image_size(
    family: str, num_classes: int | None, loaded: Loaded, random_images: Images
) -> None:
    layer = hub.KerasLayer(loaded(family, num_classes), trainable=True)
    for size in ((32, 32), (33, 50), (96, 96)):
        before = values(layer.weights)
        outputs = layer(random_images(2, *size), training=True)
        assert outputs.shape == (2, num_classes or FEATURES[family])
        assert np.isfinite(outputs).all()
        assert changed(layer.weights, before) == statistics(before)


@both_families
@pytest.mark.parametrize(
    ("arguments", "momentum"),
    [({}, 0.99), ({"batch_norm_momentum": 0.997}, 0.997), ({"batch_norm_momentum": 0.5}, 0.5)],
    ids=["default", "0.997", "0.5"],
)
def test_batch_norm_momentum(
    family: str, arguments: dict, momentum: float, loaded: Loaded, random_images: Images
) -> None:
    images = random_images(4, 64)

    def trained(**arguments: float) -> dict[str, np.ndarray]:
        layer = hub.KerasLayer(loaded(family), trainable=True, arguments=arguments)
        layer(images, training=True)
        return values(layer.weights)

    before = values(loaded(family).variables)
    batch = trained(batch_norm_momentum=0.0)
    after = trained(**arguments)
    for name, old in before.items():
        if "/moving_" not in name:
            np.testing.assert_array_equal(after[name], old, err_msg=name)
            continue
        assert (after[name] != old).any()
        expected = momentum * old + (1 - momentum) * batch[name]
        scale = max(np.abs(old).max(), np.abs(batch[name]).max())
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-6 * scale, err_msg=name)


@both_families
def test_statistics_move_only_in_training(
    family: str, loaded: Loaded, random_images: Images
) -> None:
    images = random_images(4, 64)
    module = loaded(family)
    before = values(module.variables)
    layer = hub.KerasLayer(module, trainable=True)
    frozen = hub.KerasLayer(module, trainable=False)
    for call in (module, layer, frozen):
        call(images)
        call(images, training=False)
    frozen(images, training=True)
    assert changed(module.variables, before) == set()
    layer(images, training=True)
    assert changed(module.variables, before) == statistics(before)
    before = values(module.variables)
    module(images, training=True)
    assert changed(module.variables, before) == statistics(before)


@both_families
@both_kinds
def test_endpoints(
    family: str, num_classes: int | None, module: Module, loaded: Loaded, random_images: Images
) -> None:
    images = random_images(2, 64)
    layer = hub.KerasLayer(loaded(family, num_classes), arguments={"return_endpoints": True})
    endpoints = layer(images)
    expected = mobilenets.load(module(family, num_classes))(images, return_endpoints=True)
    assert set(endpoints) == set(expected)
    for name, value in expected.items():
        assert_close(endpoints[name], value)


@pytest.mark.slow
def test_endpoints_in_a_model(module: Module, random_images: Images) -> None:
    layer = hub.KerasLayer(
        str(module(V1)),
        trainable=True,
        arguments={"return_endpoints": True, "batch_norm_momentum": 0.9},
    )
    inputs = tf_keras.Input((64, 64, 3))
    features = layer(inputs)["MobilenetV1/Conv2d_11_pointwise"]
    model = tf_keras.Model(inputs, features)
    images = random_images(2, 64)
    expected = mobilenets.load(module(V1))(images, return_endpoints=True)
    outputs = model.predict(images, verbose=0)
    assert outputs.shape == (2, 4, 4, 128)
    assert_close(outputs, expected["MobilenetV1/Conv2d_11_pointwise"])


@pytest.mark.parametrize(
    ("signature", "endpoint"),
    first_fast(
        [("image_feature_vector", "MobilenetV1/global_pool"), ("image_classification", "default")],
        count=0,
    ),
)
def test_signatures_as_layers(
    signature: str, endpoint: str, module: Module, random_images: Images
) -> None:
    directory = module(V1, 7)
    images = random_images(2, 64)
    expected = mobilenets.load(directory)(images, return_endpoints=True)[endpoint]
    layer = hub.KerasLayer(str(directory), signature=signature, output_key="default")
    assert_close(layer(images), tf.reshape(expected, [2, -1]))


@both_families
@both_kinds
def test_image_size_for_make_image_classifier(
    family: str, num_classes: int | None, loaded: Loaded
) -> None:
    """The expression is that of tensorflow_hub/tools/make_image_classifier."""
    layer = hub.KerasLayer(loaded(family, num_classes))
    function = layer._func.__call__.concrete_functions[0]
    assert tuple(function.structured_input_signature[0][0].shape[1:3]) == (64, 64)


def sequential(directory: Path, **arguments) -> tf_keras.Model:
    model = tf_keras.Sequential(
        [
            hub.KerasLayer(str(directory), **arguments),
            tf_keras.layers.Dropout(0.1),
            tf_keras.layers.Dense(3),
        ]
    )
    model.build([None, 64, 64, 3])
    return model


def functional(directory: Path, **arguments) -> tf_keras.Model:
    inputs = tf_keras.Input((64, 64, 3))
    features = hub.KerasLayer(str(directory), **arguments)(inputs)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(3)(features))


def with_input_shape(directory: Path, **arguments) -> tf_keras.Model:
    layer = hub.KerasLayer(str(directory), input_shape=(64, 64, 3), **arguments)
    return tf_keras.Sequential([layer, tf_keras.layers.Dense(3)])


def fit(model: tf_keras.Model, images: np.ndarray) -> None:
    # Two steps: the second one starts from what the first one left.
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(0.01), loss)
    history = model.fit(images, LABELS, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def hub_layer(model: tf_keras.Model) -> hub.KerasLayer:
    (layer,) = (layer for layer in model.layers if isinstance(layer, hub.KerasLayer))
    return layer


@pytest.mark.parametrize("make", first_fast([sequential, functional]))
def test_fine_tuning(make: Callable, module: Module, random_images: Images) -> None:
    model = make(module(V1), trainable=True, arguments={"batch_norm_momentum": 0.997})
    weights = hub_layer(model).weights
    before = values(weights)
    assert (len(before), len(model.trainable_variables)) == (135, 81 + 2)
    fit(model, random_images(4, 64))
    assert changed(weights, before) == set(before)


@pytest.mark.slow
def test_fine_tuning_v2(module: Module, random_images: Images) -> None:
    model = sequential(module(V2), trainable=True)
    weights = hub_layer(model).weights
    before = values(weights)
    assert (len(before), len(model.trainable_variables)) == (260, 156 + 2)
    fit(model, random_images(4, 64))
    # Whatever a projection's beta adds, the next batch norm takes away: no gradient.
    still = {name for name in before if name.endswith("/project/BatchNorm/beta:0")}
    assert changed(weights, before) | still == set(before)


@pytest.mark.parametrize("make", first_fast([sequential, functional]))
def test_feature_extraction(make: Callable, module: Module, random_images: Images) -> None:
    model = make(module(V1))
    weights = hub_layer(model).weights
    before = values(weights)
    assert len(model.trainable_variables) == 2
    images = random_images(4, 64)
    fit(model, images)
    assert changed(weights, before) == set()
    kernel, bias = model.layers[-1].get_weights()
    features = mobilenets.load(module(V1))(images).numpy()
    assert_close(model.predict(images, verbose=0), features @ kernel + bias)


@both_families
def test_regularization_losses_reach_the_model(family: str, module: Module) -> None:
    model = sequential(module(family, 7), trainable=True)
    kernels = [v.numpy() for v in model.trainable_variables if v.name.endswith("/weights:0")]
    assert len(kernels) == {V1: 15, V2: 36}[family]
    expected = [4e-5 * np.square(kernel.astype(np.float64)).sum() / 2 for kernel in kernels]
    np.testing.assert_allclose([float(loss) for loss in model.losses], expected, rtol=1e-6)


@pytest.mark.slow
def test_persistent_gradient_tape(module: Module, random_images: Images) -> None:
    images = tf.constant(random_images(4, 64))

    def gradients(model: Callable, variables: list, losses: Callable) -> list[list[tf.Tensor]]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            features = model(images, training=False)
            energy = tf.reduce_mean(tf.square(features))
            decay = tf.add_n(losses())
        return [
            tape.gradient(energy, variables),
            tape.gradient(decay, variables, unconnected_gradients="zero"),
            [tape.gradient(features, images)],
        ]

    layer = hub.KerasLayer(str(module(V1)), trainable=True)
    native = mobilenets.load(module(V1))
    trainable = [v.value for v in native.slim_variables.values() if v.trainable]
    ours = gradients(layer, layer.trainable_variables, lambda: layer.losses)
    expected = gradients(native, trainable, lambda: native.losses)
    assert len(ours[0]) == len(trainable) == 81
    for one, other in zip(ours, expected, strict=True):
        scale = max(float(tf.reduce_max(tf.abs(gradient))) for gradient in other)
        assert scale > 0
        for gradient, reference in zip(one, other, strict=True):
            np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-4 * scale)


@pytest.fixture
def eagerly() -> Iterator[None]:
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.slow
def test_run_functions_eagerly(
    eagerly: None, module: Module, random_images: Images, tmp_path: Path
) -> None:
    images = random_images(4, 64)
    native = mobilenets.load(module(V1))
    assert_close(hub.load(str(module(V1)))(images), native(images))
    model = sequential(module(V1), trainable=True)
    layer = hub_layer(model)
    assert_close(layer(images), native(images))
    before = values(layer.weights)
    fit(model, images)
    assert changed(layer.weights, before) == set(before)

    mobilenets.save(native, tmp_path / "module")
    assert_close(hub.load(str(tmp_path / "module"))(images), native(images))


@pytest.mark.parametrize("how", first_fast(["sequential", "functional"]))
@pytest.mark.parametrize(
    ("family", "num_classes", "endpoint"),
    [
        (V1, None, "serving_default"),
        slow(V1, 7, "image_classification"),
        slow(V2, None, "image_feature_vector"),
        slow(V2, 7, "serving_default"),
    ],
)
def test_tfsm_layer(
    family: str,
    num_classes: int | None,
    endpoint: str,
    how: str,
    module: Module,
    random_images: Images,
) -> None:
    directory = module(family, num_classes)
    layer = keras.layers.TFSMLayer(str(directory), call_endpoint=endpoint)
    inputs = keras.Input((64, 64, 3))
    model = (
        keras.Sequential([inputs, layer])
        if how == "sequential"
        else keras.Model(inputs, layer(inputs))
    )
    images = random_images(2, 64)
    outputs = model.predict(images, verbose=0)
    assert set(outputs) == {"default"}
    assert_close(outputs["default"], mobilenets.load(directory)(images))


@pytest.fixture(scope="module")
def fine_tuned(module: Module) -> tuple[tf_keras.Model, np.ndarray]:
    """A model after training, what it is given and what it says."""
    images = np.random.default_rng(0).uniform(size=(4, 64, 64, 3)).astype(np.float32)
    model = with_input_shape(module(V1), trainable=True, arguments={"batch_norm_momentum": 0.9})
    untrained = model.predict(images, verbose=0)
    fit(model, images)
    assert (model.predict(images, verbose=0) != untrained).any()
    return model, images


@pytest.mark.slow
@pytest.mark.parametrize("file", ["saved_model", "model.h5", "model.keras"])
def test_fine_tuned_models_are_saved(
    file: str, fine_tuned: tuple[tf_keras.Model, np.ndarray], tmp_path: Path
) -> None:
    model, images = fine_tuned
    model.save(tmp_path / file)
    assert (tmp_path / file).is_dir() == (file == "saved_model")
    loaded = tf_keras.models.load_model(
        tmp_path / file, custom_objects={"KerasLayer": hub.KerasLayer}
    )
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    # The statistics are still the layer's to move.
    assert len(loaded.trainable_variables) == len(model.trainable_variables) == 83
    assert len(loaded.non_trainable_variables) == 54
    before = values(loaded.non_trainable_variables)
    loaded(images, training=True)
    after = values(loaded.non_trainable_variables)
    assert all((after[name] != value).any() for name, value in before.items())


@pytest.mark.slow
def test_fine_tuned_saved_model_without_custom_objects(
    fine_tuned: tuple[tf_keras.Model, np.ndarray], tmp_path: Path
) -> None:
    model, images = fine_tuned
    model.save(tmp_path / "saved_model")
    expected = model.predict(images, verbose=0)
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    (name,) = served.signatures["serving_default"].structured_input_signature[1]
    (outputs,) = served.signatures["serving_default"](**{name: tf.constant(images)}).values()
    assert_close(outputs, expected)
    assert_close(tf_keras.models.load_model(tmp_path / "saved_model")(images), expected)


@pytest.mark.slow
def test_fine_tuned_weights_alone(
    fine_tuned: tuple[tf_keras.Model, np.ndarray], module: Module, tmp_path: Path
) -> None:
    model, images = fine_tuned
    model.save_weights(tmp_path / "weights.h5")
    other = with_input_shape(module(V1), trainable=True)
    other.load_weights(tmp_path / "weights.h5")
    np.testing.assert_array_equal(
        other.predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_in_an_input_pipeline(module: Module, random_images: Images) -> None:
    """Features computed once, as transfer learning on a small data set does."""
    loaded = hub.load(str(module(V1)))
    images = random_images(4, 64)
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(2).map(loaded)
    assert dataset.element_spec.shape.as_list() == [None, 256]
    assert_close(np.concatenate(list(dataset.as_numpy_iterator())), loaded(images))
