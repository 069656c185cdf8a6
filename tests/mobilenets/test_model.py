"""MobileNet as a Keras model: sizes, classes, endpoints, dropout, names, files, precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from closeness import assert_equal_values, values_of
from slim_checkpoints import network
from tiers import first_fast, slow

from mobilenets import VARIANTS, MobileNet, Variant
from mobilenets.architecture import convolutions

Images = Callable[..., np.ndarray]
Randomise = Callable[..., MobileNet]

SMALL = {"mobilenet_v1": "mobilenet_v1_025_64", "mobilenet_v2": "mobilenet_v2_035_64"}
both_families = pytest.mark.parametrize("family", SMALL)
v2_slow = pytest.mark.parametrize("family", first_fast(SMALL))


@pytest.fixture(scope="module")
def small(randomise: Randomise) -> Callable[..., MobileNet]:
    """Models that the tests do not change."""
    models: dict[tuple[str, int | None], MobileNet] = {}

    def small(family: str, num_classes: int | None = None) -> MobileNet:
        key = family, num_classes
        if key not in models:
            models[key] = randomise(MobileNet(SMALL[family], num_classes))
        return models[key]

    return small


@pytest.mark.parametrize(
    ("family", "num_classes"),
    first_fast(
        [("mobilenet_v1", None), ("mobilenet_v2", 7), ("mobilenet_v1", 7), ("mobilenet_v2", None)],
        2,
    ),
)
@pytest.mark.parametrize(
    "size", [(32, 32), (33, 33), (45, 64), (97, 32), (160, 160)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_any_image_size(
    family: str,
    num_classes: int | None,
    size: tuple[int, int],
    small: Callable[..., MobileNet],
    random_images: Images,
) -> None:
    model = small(family, num_classes)
    outputs = model(random_images(2, *size)).numpy()
    features = {"mobilenet_v1": 256, "mobilenet_v2": 1280}[family]
    assert model.num_features == features
    assert outputs.shape == (2, num_classes or features)
    assert np.isfinite(outputs).all()
    assert outputs.std(axis=1).min() > 0


@both_families
@pytest.mark.parametrize("size", [64, 75], ids=str)
def test_shapes_of_the_endpoints_are_those_of_the_table(
    family: str, size: int, small: Callable[..., MobileNet], random_images: Images
) -> None:
    model = small(family, 7)
    endpoints = model(random_images(2, size), return_endpoints=True)
    shapes = {key: tuple(value.shape) for key, value in endpoints.items()}
    assert next(iter(shapes)) == "default"
    scope = {"mobilenet_v1": "MobilenetV1", "mobilenet_v2": "MobilenetV2"}[family]
    assert shapes.pop("default") == shapes.pop(f"{scope}/Logits") == (2, 7)
    assert shapes.pop(f"{scope}/Predictions") == (2, 7)
    assert shapes.pop(f"{scope}/global_pool") == (2, 1, 1, model.num_features)

    expected = {}
    variant = Variant(family, model.variant.depth_multiplier, size)
    number = 0
    for line in convolutions(variant):
        shape = (2, line.output_size, line.output_size, line.filters)
        block, _, part = line.scope.partition("/")
        if family == "mobilenet_v1":
            expected[f"{scope}/{block}"] = shape
            continue
        name = {"expand": "expansion_output", "depthwise": "depthwise_output", "project": "output"}
        starts = not part or part == "expand" or line.scope == "expanded_conv/depthwise"
        number += starts
        layer = f"{scope}/layer_{number}"
        expected[layer] = shape
        if part:
            expected[f"{layer}/{name[part]}"] = shape
    assert shapes == expected


def test_an_endpoint_takes_few_operations(small: Callable[..., MobileNet]) -> None:
    """Cut from a batch that may be empty, passed on and returned; modules trace all of them."""
    model = small("mobilenet_v1")
    any_batch = [tf.TensorSpec([None, 64, 64, 3])]

    def trace(return_endpoints: bool) -> Any:
        return tf.function(
            lambda images: model(images, return_endpoints=return_endpoints),
            input_signature=any_batch,
            autograph=False,
        ).get_concrete_function()

    without, within = trace(False), trace(True)
    added = len(within.graph.get_operations()) - len(without.graph.get_operations())
    assert added <= 4 * len(within.structured_outputs)


@both_families
def test_endpoints_belong_together(
    family: str, small: Callable[..., MobileNet], random_images: Images
) -> None:
    images = random_images(3, 64)
    scope = {"mobilenet_v1": "MobilenetV1", "mobilenet_v2": "MobilenetV2"}[family]
    model = small(family, 7)
    endpoints = {k: v.numpy() for k, v in model(images, return_endpoints=True).items()}
    np.testing.assert_array_equal(endpoints["default"], model(images))
    np.testing.assert_array_equal(endpoints["default"], endpoints[f"{scope}/Logits"])
    exponentials = np.exp(endpoints["default"])
    np.testing.assert_allclose(
        endpoints[f"{scope}/Predictions"],
        exponentials / exponentials.sum(1, keepdims=True),
        rtol=1e-5,
    )
    last = {"mobilenet_v1": "Conv2d_13_pointwise", "mobilenet_v2": "layer_19"}[family]
    pooled = endpoints[f"{scope}/global_pool"]
    np.testing.assert_allclose(
        pooled, endpoints[f"{scope}/{last}"].mean((1, 2), keepdims=True), rtol=1e-5, atol=1e-6
    )
    weights = values_of(model)
    kernel = weights[f"{scope}/Logits/Conv2d_1c_1x1/weights"][0, 0]
    biases = weights[f"{scope}/Logits/Conv2d_1c_1x1/biases"]
    np.testing.assert_allclose(
        endpoints["default"], pooled[:, 0, 0] @ kernel + biases, rtol=1e-4, atol=1e-5
    )
    features = small(family)(images, return_endpoints=True)
    assert set(endpoints) - set(features) == {f"{scope}/Logits", f"{scope}/Predictions"}
    np.testing.assert_array_equal(
        features["default"], tf.squeeze(features[f"{scope}/global_pool"], [1, 2])
    )


def test_the_residual_is_in_the_output() -> None:
    """A layer's own name and its `output` are one tensor, as in the hub's module."""
    model = MobileNet(SMALL["mobilenet_v2"])
    endpoints = model(np.full((1, 64, 64, 3), 0.3, np.float32), return_endpoints=True)
    for number in range(2, 19):
        layer = f"MobilenetV2/layer_{number}"
        np.testing.assert_array_equal(endpoints[layer], endpoints[f"{layer}/output"])


@both_families
def test_images_are_scaled(
    family: str, small: Callable[..., MobileNet], random_images: Images
) -> None:
    model = small(family)
    images = random_images(1, 32)
    stem = model.blocks[0]
    endpoints = model(images, return_endpoints=True)
    first = list(endpoints)[1]
    np.testing.assert_array_equal(endpoints[first], stem(2 * images - 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_weights_in_another_precision_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"weights are float32; got dtype '{dtype}'"):
        MobileNet("mobilenet_v1_025_64", dtype=dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integer_images_are_refused(dtype: str, small: Callable[..., MobileNet]) -> None:
    """They are in 0 to 255, and would be taken for something else."""
    with pytest.raises((TypeError, ValueError), match="float"):
        small("mobilenet_v1")(np.zeros((1, 32, 32, 3), dtype))


def test_float64_images(small: Callable[..., MobileNet], random_images: Images) -> None:
    images = random_images(2, 32)
    outputs = small("mobilenet_v1")(images.astype(np.float64))
    assert outputs.dtype == tf.float32
    np.testing.assert_array_equal(outputs, small("mobilenet_v1")(images))


@pytest.mark.parametrize("num_classes", first_fast([1, 1001, 2, 1000], 2))
def test_num_classes(num_classes: int, random_images: Images) -> None:
    model = MobileNet(SMALL["mobilenet_v1"], num_classes)
    assert model(random_images(2, 32)).shape == (2, num_classes)
    assert model.num_classes == num_classes
    assert model.class_names is None


def test_class_names(random_images: Images) -> None:
    model = MobileNet(SMALL["mobilenet_v1"], class_names=["background", "dog"])
    assert model.num_classes == 2
    assert model.class_names == ("background", "dog")
    assert model(random_images(1, 32)).shape == (1, 2)
    same = MobileNet(SMALL["mobilenet_v1"], 2, class_names=["background", "dog"])
    assert same.num_classes == 2


def test_a_momentum_that_changes(random_images: Callable) -> None:
    momentum = tf.Variable(1.0)
    model = MobileNet(SMALL["mobilenet_v1"], batch_norm_momentum=momentum)
    images = random_images(2, 32)
    train = tf.function(lambda: model(images, training=True), autograph=False)
    mean = model.convolutions[0].batch_norm.moving_mean
    for call in (train, lambda: model(images, training=True)):
        before = mean.numpy()
        momentum.assign(1.0)
        call()
        np.testing.assert_array_equal(mean, before)
        momentum.assign(0.5)
        call()
        assert np.abs(mean - before).max() > 0


@pytest.mark.parametrize("momentum", [-0.5, 2.0, float("nan"), [0.5, 0.5]], ids=str)
def test_a_momentum_that_is_none_is_refused(momentum: Any, random_images: Callable) -> None:
    """As a number, as a tensor, and in a function that is traced before it is known."""
    model = MobileNet(SMALL["mobilenet_v1"])
    images = random_images(2, 32)
    before = [variable.numpy() for variable in model.variables]

    def train(momentum: Any) -> tf.Tensor:
        return model(images, training=True, batch_norm_momentum=momentum)

    for call in (train, lambda m: train(tf.constant(m)), tf.function(train, autograph=False)):
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match=r"the momentum must be in \[0, 1\]"
        ):
            call(momentum)
    if not isinstance(momentum, list):
        traced = tf.function(train, [tf.TensorSpec([], tf.float32)], autograph=False)
        with pytest.raises(tf.errors.InvalidArgumentError, match="the momentum must be in"):
            traced(tf.constant(momentum))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 3, "class_names": ["a", "b"]}, "num_classes is 3, .* has 2 names"),
        ({"num_classes": 0}, "num_classes must be 1 or more, or None; got 0"),
        ({"num_classes": 1.5}, "num_classes must be 1 or more, or None; got 1.5"),
        ({"num_classes": "7"}, "num_classes must be 1 or more, or None; got '7'"),
        ({"batch_norm_momentum": 99}, r"batch_norm_momentum must be in \[0, 1\]; got 99"),
        ({"batch_norm_momentum": "0.9"}, r"batch_norm_momentum must be in \[0, 1\]; got '0.9'"),
        ({"activation_range_momentum": -0.1}, r"activation_range_momentum must be in .*; got -0.1"),
        ({"dropout_rate": float("nan")}, r"dropout_rate must be in \[0, 1\]; got nan"),
        ({"class_names": []}, "num_classes must be 1 or more"),
        ({"class_names": "labels.txt"}, "one name for each class; got 'labels.txt'"),
        ({"variant": "mobilenet_v4_100_224"}, "no MobileNet variant is called"),
        ({"variant": "mobilenet_v1_100_16"}, "image_size must be"),
    ],
    ids=str,
)
def test_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MobileNet(**{"variant": SMALL["mobilenet_v1"]} | arguments)


@v2_slow
@pytest.mark.parametrize("num_classes", first_fast([7, None]))
def test_dropout(
    family: str, num_classes: int | None, randomise: Randomise, random_images: Images
) -> None:
    images = random_images(4, 32)
    model = randomise(MobileNet(SMALL[family], num_classes, dropout_rate=0.5))

    def outputs(seed: int, training: bool) -> np.ndarray:
        tf.random.set_seed(seed)
        # With momentum 1 no call changes the next.
        return model(images, training=training, batch_norm_momentum=1.0).numpy()

    assert np.array_equal(outputs(0, False), outputs(1, False))
    assert np.array_equal(outputs(0, True), outputs(0, True))
    assert np.array_equal(outputs(0, True), outputs(1, True)) == (num_classes is None)


@pytest.mark.parametrize(("family", "kept"), [("mobilenet_v1", 0.999), ("mobilenet_v2", 0.8)])
def test_dropout_is_slims(
    family: str, kept: float, monkeypatch: pytest.MonkeyPatch, random_images: Images
) -> None:
    rates = []

    def dropout(features: tf.Tensor, rate: float) -> tf.Tensor:
        rates.append(rate)
        return features

    monkeypatch.setattr(tf.nn, "dropout", dropout)
    model = MobileNet(SMALL[family], 7)
    model(random_images(2, 32))
    assert rates == []
    model(random_images(2, 32), training=True)
    assert rates == [pytest.approx(1 - kept)]


@v2_slow
def test_batch_norm_momentum(family: str, randomise: Randomise, random_images: Images) -> None:
    """The constructor's applies unless the call says another; 0.99 unless either does."""
    images = random_images(4, 32)

    def moved(in_constructor: float | None, in_call: float | None) -> dict[str, np.ndarray]:
        arguments = {} if in_constructor is None else {"batch_norm_momentum": in_constructor}
        model = randomise(MobileNet(SMALL[family], **arguments))
        model(images, training=True, batch_norm_momentum=in_call)
        return values_of(model)

    before = values_of(randomise(MobileNet(SMALL[family])))
    batch = moved(None, 0.0)
    for arguments, momentum in {
        (None, None): 0.99,
        (0.9, None): 0.9,
        (0.9, 0.997): 0.997,
        (None, 0.5): 0.5,
    }.items():
        after = moved(*arguments)
        for name, old in before.items():
            if "/moving_" not in name:
                np.testing.assert_array_equal(after[name], old)
                continue
            expected = momentum * old + (1 - momentum) * batch[name]
            scale = max(np.abs(expected).max(), np.abs(batch[name]).max())
            np.testing.assert_allclose(after[name], expected, rtol=0, atol=2e-6 * scale)
            assert (after[name] != old).any()


@v2_slow
@pytest.mark.parametrize("frozen", ["afterwards", "constructor", "from_config"])
def test_frozen_models_keep_their_statistics(
    family: str, frozen: str, randomise: Randomise, random_images: Images
) -> None:
    model = randomise(MobileNet(SMALL[family], trainable=frozen != "constructor"))
    if frozen != "constructor":
        model.trainable = False
    if frozen == "from_config":
        model = randomise(MobileNet.from_config(model.get_config()))
    images = random_images(2, 32)
    before = values_of(model)
    outputs = model(images, training=True)
    np.testing.assert_array_equal(outputs, model(images, training=False))
    assert model.trainable_variables == []
    assert model.losses == []
    after = values_of(model)
    for name, old in before.items():
        np.testing.assert_array_equal(old, after[name], err_msg=name)


@both_families
def test_partly_frozen_models(family: str, randomise: Randomise, random_images: Images) -> None:
    model = randomise(MobileNet(SMALL[family], 7))
    for block in model.blocks[:3]:
        block.trainable = False
    frozen = {
        name
        for name, variable in model.slim_variables.items()
        if any(variable is each for block in model.blocks[:3] for each in block.variables)
    }
    before = values_of(model)
    model(random_images(2, 32), training=True)
    after = values_of(model)
    changed = {name for name, old in before.items() if (after[name] != old).any()}
    assert changed == {name for name in before if "/moving_" in name} - frozen
    assert len(frozen) > 5
    assert {v.value.name for v in model.trainable_variables}.isdisjoint(f"{n}:0" for n in frozen)


@pytest.mark.parametrize(
    "variant",
    [
        v if v.depth_multiplier in (0.25, 0.35, 1.4) else slow(v)
        for v in VARIANTS
        if not v.quantized and v.image_size == 224
    ],
    ids=str,
)
def test_slim_names(variant: Variant) -> None:
    model = MobileNet(variant, 1001)
    named = model.slim_variables
    assert [variable.value.name for variable in named.values()] == [f"{name}:0" for name in named]
    assert len({id(variable) for variable in named.values()}) == len(named) == len(model.variables)
    expected = network(variant.family, variant.depth_multiplier, 1001)
    assert list(named) == list(expected)
    for name, variable in named.items():
        assert tuple(variable.shape) == expected[name].shape, name
    assert len(named) == {"mobilenet_v1": 137, "mobilenet_v2": 262}[variant.family]


def test_slim_names_do_not_depend_on_the_surroundings() -> None:
    with tf.name_scope("enclosing"):
        model = MobileNet(SMALL["mobilenet_v2"], 3, name="mine")
    assert all(name.startswith("MobilenetV2/") for name in model.slim_variables)
    for name, variable in model.slim_variables.items():
        assert variable.value.name == f"{name}:0"


@pytest.mark.parametrize("name", ["mobilenet_v1_033_80", "mobilenet_v2_060_48"])
def test_unpublished_multipliers(name: str, random_images: Images) -> None:
    variant = Variant.parse(name)
    assert variant not in VARIANTS
    model = MobileNet(variant, 5)
    assert model(random_images(2, variant.image_size)).shape == (2, 5)
    lines = convolutions(variant, 5)
    assert model.count_params() == sum(line.parameters + line.statistics for line in lines)


@pytest.mark.parametrize(
    "spelling",
    [
        Variant("mobilenet_v1", 0.25, 64),
        "mobilenet_v1_0.25_64",
        "google/imagenet/mobilenet_v1_025_64/feature_vector/4",
        {"family": "mobilenet_v1", "depth_multiplier": 0.25, "image_size": 64},
    ],
    ids=["variant", "slim", "handle", "config"],
)
def test_variant_spellings(spelling: Variant | str | dict) -> None:
    assert MobileNet(spelling).variant == Variant("mobilenet_v1", 0.25, 64)


@v2_slow
@pytest.mark.parametrize("num_classes", first_fast([7, None]))
def test_keras_file_round_trip(
    family: str,
    num_classes: int | None,
    small: Callable[..., MobileNet],
    random_images: Images,
    tmp_path: Path,
) -> None:
    model = small(family, num_classes)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, MobileNet)
    assert loaded.get_config() == model.get_config()
    assert_equal_values(loaded, model)
    images = random_images(2, 40)
    np.testing.assert_array_equal(loaded(images), model(images))


@v2_slow
def test_weights_file_round_trip(
    family: str, small: Callable[..., MobileNet], random_images: Images, tmp_path: Path
) -> None:
    model = small(family, 7)
    model.save_weights(tmp_path / "model.weights.h5")
    other = MobileNet(SMALL[family], 7)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_equal_values(other, model)
    images = random_images(2, 40)
    np.testing.assert_array_equal(other(images), model(images))


def test_config_round_trip() -> None:
    model = MobileNet(
        "mobilenet_v1_033_80",
        class_names=["a", "ü"],
        batch_norm_momentum=0.9,
        dropout_rate=0.25,
        dtype="mixed_bfloat16",
        name="mine",
    )
    again = MobileNet.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert again.variant == Variant("mobilenet_v1", 0.33, 80)
    assert (again.num_classes, again.class_names) == (2, ("a", "ü"))
    assert (again.batch_norm_momentum, again.dropout_rate) == (0.9, 0.25)
    assert (again.name, again.dtype_policy.name) == ("mine", "mixed_bfloat16")


@both_families
def test_regularization_losses(family: str, small: Callable[..., MobileNet]) -> None:
    model = small(family, 7)
    kernels = [
        value
        for name, value in values_of(model).items()
        if name.endswith("/weights") and "depthwise" not in name.rsplit("/", 1)[1]
    ]
    assert len(kernels) == {"mobilenet_v1": 15, "mobilenet_v2": 36}[family]
    expected = [4e-5 * np.square(kernel.astype(np.float64)).sum() / 2 for kernel in kernels]
    np.testing.assert_allclose(np.array(model.losses), expected, rtol=1e-6)


@v2_slow
@pytest.mark.parametrize("how", ["argument", "global"])
def test_mixed_precision(
    family: str,
    how: str,
    randomise: Randomise,
    small: Callable[..., MobileNet],
    random_images: Images,
) -> None:
    images = random_images(4, 64)
    if how == "global":
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        arguments = {} if how == "global" else {"dtype": "mixed_bfloat16"}
        model = randomise(MobileNet(SMALL[family], **arguments))
        features = model(images)
        trained = model(images, training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert (features.dtype, trained.dtype) == (tf.bfloat16, tf.bfloat16)
    expected = small(family)(images).numpy()
    # bfloat16 has 8 bits, and up to 53 layers add up their rounding.
    error = tf.cast(features, tf.float32).numpy() - expected
    assert np.sqrt(np.mean(error**2)) < 0.2 * expected.std()
    assert np.isfinite(tf.cast(trained, tf.float32)).all()


@v2_slow
def test_fit_and_predict(family: str, randomise: Randomise, random_images: Images) -> None:
    keras.utils.set_random_seed(0)
    model = randomise(MobileNet(SMALL[family], 3, dropout_rate=0.0))
    images, labels = random_images(6, 32), np.array([0, 1, 2, 0, 1, 2])
    reference = randomise(MobileNet(SMALL[family], 3, dropout_rate=0.0))
    reference(images, training=True)
    before = values_of(model)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(images, labels, batch_size=6, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after, moved = values_of(model), values_of(reference)
    for name, old in before.items():
        # Whatever a projection adds, the next batch norm takes away: no gradient.
        if not name.endswith("/project/BatchNorm/beta"):
            assert (after[name] != old).any(), name
        if "/moving_" in name:
            scale = np.abs(moved[name]).max()
            np.testing.assert_allclose(after[name], moved[name], rtol=0, atol=1e-5 * scale)
    predictions = model.predict(images, batch_size=6, verbose=0)
    expected = model(images).numpy()
    np.testing.assert_allclose(predictions, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@v2_slow
def test_inside_a_sequential_model(
    family: str, small: Callable[..., MobileNet], random_images: Images
) -> None:
    model = small(family)
    sequential = keras.Sequential([keras.Input((64, 64, 3)), model, keras.layers.Dense(2)])
    assert sequential.output_shape == (None, 2)
    images = random_images(2, 64)
    kernel, bias = sequential.layers[-1].get_weights()
    expected = model(images).numpy() @ kernel + bias
    np.testing.assert_allclose(sequential(images), expected, rtol=1e-4, atol=1e-4)


@v2_slow
def test_endpoints_in_a_functional_model(
    family: str, randomise: Randomise, random_images: Images
) -> None:
    model = randomise(MobileNet(SMALL[family]))
    inputs = keras.Input((None, None, 3))
    functional = keras.Model(inputs, model(inputs, return_endpoints=True))
    images = random_images(2, 64)
    outputs, expected = functional(images), model(images, return_endpoints=True)
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)


def test_summary_lists_the_blocks(small: Callable[..., MobileNet]) -> None:
    lines: list[str] = []
    small("mobilenet_v2", 7).summary(print_fn=lines.append)
    text = "\n".join(lines)
    for name in ("Conv", "expanded_conv_16", "Logits"):
        assert name in text
