"""A convolution and its batch norm, against plain Keras layers and numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilenets.layers import BatchNorm, ConvBatchNorm

Randomise = Callable[..., ConvBatchNorm]
SHAPE = (3, 9, 12, 5)

KINDS = {
    "pointwise": {"filters": 7},
    "linear": {"filters": 7, "activation": False},
    "convolution": {"filters": 7, "kernel_size": 3},
    "strided": {"filters": 7, "kernel_size": 3, "strides": 2},
    "depthwise": {"filters": None, "kernel_size": 3},
    "depthwise-strided": {"filters": None, "kernel_size": 3, "strides": 2},
}
all_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(1).normal(0.3, 1.5, SHAPE).astype(np.float32)


@pytest.fixture
def build(randomise: Randomise) -> Callable[..., ConvBatchNorm]:
    def build(kind: str, shape: tuple = SHAPE, **kwargs) -> ConvBatchNorm:
        layer = ConvBatchNorm(**KINDS[kind], **kwargs)
        layer.build((None, None, None, shape[-1]))
        return randomise(layer)

    return build


def values(layer: keras.layers.Layer) -> list[np.ndarray]:
    return [variable.numpy() for variable in layer.variables]


def plain(layer: ConvBatchNorm, shape: tuple) -> keras.Sequential:
    """The same from Keras's own layers, with the same weights."""
    common = {
        "kernel_size": layer.kernel_size,
        "strides": layer.strides,
        "padding": "same",
        "use_bias": False,
    }
    convolution = (
        keras.layers.DepthwiseConv2D(**common)
        if layer.filters is None
        else keras.layers.Conv2D(layer.filters, **common)
    )
    batch_norm = keras.layers.BatchNormalization(epsilon=1e-3)
    model = keras.Sequential([keras.Input(shape[1:]), convolution, batch_norm])
    if layer.activation:
        model.add(keras.layers.ReLU(6))
    convolution.set_weights([layer.kernel.numpy()])
    batch_norm.set_weights(values(layer.batch_norm))
    return model


@all_kinds
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (7, 7), (1, 1), (2, 1)], ids=str)
def test_inference_is_that_of_keras(
    kind: str, size: tuple[int, int], build: Callable[..., ConvBatchNorm]
) -> None:
    shape = (2, *size, 5)
    inputs = np.random.default_rng(2).normal(0.3, 1.5, shape).astype(np.float32)
    layer = build(kind, shape)
    outputs = layer(inputs).numpy()
    expected = plain(layer, shape)(inputs, training=False).numpy()
    assert outputs.shape == expected.shape == layer.compute_output_shape(shape)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=5e-6 * np.abs(expected).max())
    if not layer.activation:
        assert outputs.min() < 0


@all_kinds
def test_inference_at_sizes_that_are_not_known(
    kind: str, build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer = build(kind)
    traced = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 5], tf.float32)])
    expected = plain(layer, SHAPE)(inputs, training=False).numpy()
    outputs = traced(tf.constant(inputs))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_activation_is_relu6(build: Callable[..., ConvBatchNorm], inputs: np.ndarray) -> None:
    outputs = build("convolution")(20 * inputs).numpy()
    assert (outputs.min(), outputs.max()) == (0, 6)


@all_kinds
def test_inference_is_trainable(
    kind: str, build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer = build(kind)
    reference = plain(layer, SHAPE)
    with tf.GradientTape(persistent=True) as tape:
        ours = tf.reduce_sum(tf.square(layer(inputs)))
        theirs = tf.reduce_sum(tf.square(reference(inputs, training=False)))
    variables = [layer.kernel, layer.batch_norm.gamma, layer.batch_norm.beta]
    gradients = tape.gradient(ours, [v.value for v in variables])
    expected = tape.gradient(theirs, [v.value for v in reference.trainable_variables])
    for gradient, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(
            gradient, other, rtol=0, atol=2e-5 * float(tf.reduce_max(tf.abs(other)))
        )


@all_kinds
def test_training_normalizes_with_the_batch(
    kind: str, build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer = build(kind)
    reference = plain(layer, SHAPE)
    outputs = layer(inputs, training=True).numpy()
    expected = reference(inputs, training=True).numpy()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@all_kinds
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.997, 1.0], ids=str)
def test_statistics_move_by_the_momentum(
    kind: str, momentum: float, build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer = build(kind)
    convolution = plain(layer, SHAPE).layers[0]
    convolved = convolution(inputs).numpy().astype(np.float64).reshape(-1, layer.filters or 5)
    before = values(layer.batch_norm)[2:]

    layer(inputs, training=True, momentum=momentum)

    # ddof=1 is Bessel's correction.
    batch = convolved.mean(0), convolved.var(0, ddof=1)
    for old, new, this in zip(before, values(layer.batch_norm)[2:], batch, strict=True):
        expected = momentum * old + (1 - momentum) * this
        np.testing.assert_allclose(new, expected, rtol=2e-6, atol=1e-6)


def test_default_momentum(build: Callable[..., ConvBatchNorm], inputs: np.ndarray) -> None:
    default, explicit = build("convolution"), build("convolution")
    default(inputs, training=True)
    explicit(inputs, training=True, momentum=0.99)
    for one, other in zip(values(default), values(explicit), strict=True):
        np.testing.assert_array_equal(one, other)


def test_statistics_of_a_single_value_are_finite(build: Callable[..., ConvBatchNorm]) -> None:
    layer = build("pointwise")
    assert np.isfinite(layer(np.ones((1, 1, 1, 5), np.float32), training=True)).all()
    assert all(np.isfinite(value).all() for value in values(layer))


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
def test_statistics_move_in_compiled_functions(
    compiled: bool, build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    eager, traced = build("depthwise"), build("depthwise")
    eager(inputs, training=True, momentum=0.9)

    @tf.function(jit_compile=compiled)
    def step(images: tf.Tensor, momentum: tf.Tensor) -> tf.Tensor:
        return traced(images, training=True, momentum=momentum)

    step(tf.constant(inputs), tf.constant(0.9))
    for one, other in zip(values(traced), values(eager), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", ["afterwards", "in the constructor"])
def test_frozen_layers_keep_their_statistics(
    frozen: str, build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer = build("convolution", trainable=frozen == "afterwards")
    if frozen == "afterwards":
        layer.trainable = False
    before = values(layer)
    outputs = layer(inputs, training=True)
    np.testing.assert_array_equal(outputs, layer(inputs, training=False))
    assert not layer.trainable_variables
    for old, new in zip(before, values(layer), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_frozen_batch_norm_keeps_its_statistics_alone(
    build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer = build("convolution")
    layer.batch_norm.trainable = False
    before = values(layer)
    outputs = layer(inputs, training=True)
    np.testing.assert_array_equal(outputs, layer(inputs, training=False))
    assert [variable.name for variable in layer.trainable_variables] == ["weights"]
    for old, new in zip(before, values(layer), strict=True):
        np.testing.assert_array_equal(old, new)


def test_inference_keeps_the_statistics(
    build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer = build("convolution")
    before = values(layer)
    layer(inputs, training=False, momentum=0.0)
    for old, new in zip(before, values(layer), strict=True):
        np.testing.assert_array_equal(old, new)


@all_kinds
def test_regularization(kind: str, build: Callable[..., ConvBatchNorm]) -> None:
    layer = build(kind)
    if kind.startswith("depthwise"):
        assert layer.losses == []
    else:
        (loss,) = layer.losses
        np.testing.assert_allclose(
            loss, 4e-5 * np.square(layer.kernel.numpy()).sum() / 2, rtol=1e-6
        )


@pytest.mark.parametrize(
    ("kind", "kernel", "shape"),
    [("convolution", "weights", (3, 3, 5, 7)), ("depthwise", "depthwise_weights", (3, 3, 5, 1))],
)
def test_variables_have_slim_names(
    kind: str, kernel: str, shape: tuple, build: Callable[..., ConvBatchNorm]
) -> None:
    layer = build(kind, scope="MobilenetV1/Conv2d_0")
    named = layer.slim_variables
    assert list(named) == [
        f"MobilenetV1/Conv2d_0/{name}"
        for name in (
            kernel,
            "BatchNorm/gamma",
            "BatchNorm/beta",
            "BatchNorm/moving_mean",
            "BatchNorm/moving_variance",
        )
    ]
    assert [variable.value.name for variable in named.values()] == [f"{name}:0" for name in named]
    first, *rest = named.values()
    assert tuple(first.shape) == shape
    assert {tuple(variable.shape) for variable in rest} == {
        (shape[2] if kind == "depthwise" else 7,)
    }
    assert [variable.trainable for variable in named.values()] == [True, True, True, False, False]


def test_without_a_scope_the_layer_names_its_variables() -> None:
    layer = ConvBatchNorm(4, name="stem")
    layer.build((None, None, None, 3))
    assert list(layer.slim_variables)[:2] == ["stem/weights", "stem/BatchNorm/gamma"]


def test_initial_values() -> None:
    keras.utils.set_random_seed(0)
    layer = ConvBatchNorm(256)
    layer.build((None, None, None, 256))
    kernel = layer.kernel.numpy()
    # Truncated at two standard deviations, a normal distribution keeps 0.88 of its spread.
    assert np.abs(kernel).max() <= 0.18
    assert np.isclose(kernel.std(), 0.88 * 0.09, rtol=0.02)
    gamma, beta, mean, variance = values(layer.batch_norm)
    assert (gamma == 1).all()
    assert (beta == 0).all()
    assert (mean == 0).all()
    assert (variance == 1).all()


@all_kinds
def test_config_round_trip(kind: str) -> None:
    layer = ConvBatchNorm(**KINDS[kind], scope="a/b", name="c")
    config = layer.get_config()
    again = ConvBatchNorm.from_config(config)
    assert again.get_config() == config
    for key, value in {**KINDS[kind], "scope": "a/b", "name": "c"}.items():
        assert getattr(again, key) == config[key] == value


def test_batch_norm_config_round_trip() -> None:
    layer = BatchNorm(name="norm")
    assert BatchNorm.from_config(layer.get_config()).get_config() == layer.get_config()


def test_keras_file_round_trip(randomise: Randomise, inputs: np.ndarray, tmp_path: Path) -> None:
    model = randomise(
        keras.Sequential(
            [
                keras.Input(SHAPE[1:]),
                *(ConvBatchNorm(**arguments) for arguments in KINDS.values()),
            ]
        )
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("kind", ["convolution", "depthwise"])
def test_reduced_precision(
    policy: str, training: bool, kind: str, build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    layer, full = build(kind, dtype=policy), build(kind)
    outputs = layer(inputs, training=training)
    assert outputs.dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in layer.variables} == {"float32"}
    expected = full(inputs, training=training).numpy()
    np.testing.assert_allclose(
        tf.cast(outputs, tf.float32), expected, rtol=0, atol=0.03 * np.abs(expected).max()
    )


def test_momentum_keeps_its_precision(
    build: Callable[..., ConvBatchNorm], inputs: np.ndarray
) -> None:
    """0.997 is 0.99609375 in bfloat16."""
    layer = build("pointwise", dtype="mixed_bfloat16")
    before = layer.batch_norm.moving_variance.numpy()
    layer(np.zeros(SHAPE, np.float32), training=True, momentum=tf.constant(0.997))
    after = layer.batch_norm.moving_variance.numpy()
    np.testing.assert_allclose(after, 0.997 * before, rtol=1e-6)
