"""What is set on the layers and variables inside a network survives every way to copy it."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import first_fast, slow

import mobilenets
from mobilenets import MobileNet
from mobilenets.blocks import DepthwiseSeparable, InvertedResidual

V1, V2 = "mobilenet_v1_025_32", "mobilenet_v2_035_32"
QUANTOPS = "mobilenet_v1_025_32/quantops"


def saved(model: keras.Model, folder: Path, name: str) -> Any:
    model.save(folder / name)
    return keras.models.load_model(folder / name)


def nested(model: MobileNet) -> keras.Model:
    return keras.Sequential([keras.Input((32, 32, 3)), model, keras.layers.Dense(2)])


def functional(model: MobileNet) -> keras.Model:
    images = keras.Input((32, 32, 3))
    return keras.Model(images, keras.layers.Dense(2)(model(images)))


def inner(model: keras.Model) -> MobileNet:
    (found,) = (layer for layer in model.layers if isinstance(layer, MobileNet))
    return found


WAYS: dict[str, Callable[[MobileNet, Path], MobileNet]] = {
    ".keras": lambda model, folder: saved(model, folder, "m.keras"),
    ".h5": lambda model, folder: saved(model, folder, "m.h5"),
    "clone_model": lambda model, folder: keras.models.clone_model(model),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "json": lambda model, folder: MobileNet.from_config(json.loads(json.dumps(model.get_config()))),
    "nested": lambda model, folder: inner(saved(nested(model), folder, "n.keras")),
    "nested .h5": lambda model, folder: inner(saved(nested(model), folder, "n.h5")),
    "functional": lambda model, folder: inner(saved(functional(model), folder, "f.keras")),
    "functional clone": lambda model, folder: inner(keras.models.clone_model(functional(model))),
    "twice": lambda model, folder: copy.deepcopy(pickle.loads(pickle.dumps(model))),
}


def layers_inside(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for each in layer._layers:
        yield f"{prefix}{each.name}", each
        yield from layers_inside(each, f"{prefix}{each.name}/")


def flags(model: MobileNet) -> dict[str, bool]:
    """Whether each layer and each variable is to be trained."""
    found = {"": model.trainable}
    found |= {path: layer.trainable for path, layer in layers_inside(model)}
    trained = {id(variable) for variable in model.trainable_variables}
    found |= {name: v.trainable for name, v in model.slim_variables.items()}
    return found | {f"{n} trains": id(v) in trained for n, v in model.slim_variables.items()}


def batch_norms(model: MobileNet) -> None:
    for convolution in model.convolutions:
        convolution.batch_norm.trainable = False


def first_blocks(model: MobileNet) -> None:
    for block in model.blocks[:5]:
        block.trainable = False


def thawed_end(model: MobileNet) -> None:
    model.trainable = False
    model.blocks[-1].trainable = True


def one_variable(model: MobileNet) -> None:
    model.convolutions[3].kernel.trainable = False


def thawed_statistics_of_frozen_block(model: MobileNet) -> None:
    model.blocks[2].trainable = False
    model.blocks[2].convolutions[0].batch_norm.trainable = True


def everything(model: MobileNet) -> None:
    model.trainable = False


def at_random(seed: int) -> Callable[[MobileNet], None]:
    def state(model: MobileNet) -> None:
        random = np.random.default_rng(seed)
        for _, layer in layers_inside(model):
            if random.random() < 0.3:
                layer.trainable = bool(random.random() < 0.5)
        for variable in model.slim_variables.values():
            if variable.trainable and random.random() < 0.1:
                variable.trainable = False

    state.__name__ = f"random {seed}"
    return state


RANDOM = 3
STATES = [
    batch_norms,
    first_blocks,
    thawed_end,
    one_variable,
    thawed_statistics_of_frozen_block,
    everything,
    *(at_random(seed) for seed in range(RANDOM)),
]


# Of two steps that are fast each by itself.
COMBINED = ("nested .h5", "functional", "functional clone", "twice")


def states_and_ways() -> Iterator[Any]:
    """Every way with a state, and every state with the quickest way; slow: with one at random."""
    first, *_, last = STATES[-RANDOM:]
    for state, way in itertools.product(STATES, WAYS):
        quick = way == "json"
        if state is thawed_statistics_of_frozen_block or quick or state is last:
            fast = state not in STATES[-RANDOM:] or (state is first and quick)
            fast = fast and way not in COMBINED
            name = f"{state.__name__}-{way}"
            yield pytest.param(state, way, id=name, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("state", "way"), list(states_and_ways()))
def test_what_is_frozen_stays_frozen(state: Callable, way: str, tmp_path: Path) -> None:
    model = MobileNet(V1, 2)
    state(model)
    again = WAYS[way](model, tmp_path)
    assert again is not model
    assert flags(again) == flags(model)


@pytest.mark.parametrize("variant", [V2, QUANTOPS])
@pytest.mark.parametrize("way", first_fast(["json", "deepcopy", ".keras", "nested"]))
def test_other_networks(variant: str, way: str, tmp_path: Path) -> None:
    model = MobileNet(variant, 2)
    at_random(7)(model)
    assert flags(WAYS[way](model, tmp_path)) == flags(model)


@pytest.mark.parametrize("around", [lambda model: model, nested, functional])
@pytest.mark.parametrize("variant", first_fast([V1, V2, QUANTOPS]))
def test_tensorflows_checkpoints_hold_every_variable(
    variant: str, around: Callable, tmp_path: Path
) -> None:
    models = [around(MobileNet(variant, 2)) for _ in range(2)]
    path = tf.train.Checkpoint(model=models[0]).write(tmp_path / "ckpt")
    values = [key for key, _ in tf.train.list_variables(path) if key.endswith("VARIABLE_VALUE")]
    assert len(values) == len(models[0].variables)
    tf.train.Checkpoint(model=models[1]).read(path).assert_consumed()
    for ours, theirs in zip(models[0].variables, models[1].variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_new_model_says_nothing_of_its_inside() -> None:
    assert "inside" not in MobileNet(V1).get_config()


@pytest.mark.parametrize("way", first_fast([".keras", "json", "deepcopy", "pickle", "nested"], 2))
def test_other_settings(way: str, tmp_path: Path) -> None:
    """Every attribute of a variable or an inner layer that Keras lets a user set."""
    model = MobileNet(V1, 2, batch_norm_momentum=0.5, dropout_rate=0.25)
    model.convolutions[0].kernel.regularizer = None
    model.convolutions[2].kernel.regularizer = keras.regularizers.L1(0.25)
    model.convolutions[1].kernel.regularizer = keras.regularizers.L2(0.5)
    model.logits.kernel.constraint = keras.constraints.MaxNorm(2.0)
    model.blocks[3].activity_regularizer = keras.regularizers.L2(0.125)
    model.batch_norm_momentum = 0.75
    again = WAYS[way](model, tmp_path)
    first, depthwise, pointwise = (each.kernel.regularizer for each in again.convolutions[:3])
    assert first is None
    assert depthwise.l2 == 0.5
    assert pointwise.l1 == 0.25
    assert again.logits.kernel.constraint.max_value == 2.0
    assert again.blocks[3].activity_regularizer.l2 == 0.125
    assert (again.batch_norm_momentum, again.dropout_rate) == (0.75, 0.25)
    assert again.get_config() == model.get_config()


@pytest.mark.parametrize(
    "block",
    [lambda: DepthwiseSeparable(8), lambda: InvertedResidual(3, name="mine")],
    ids=["separable", "inverted"],
)
@pytest.mark.parametrize("built", [False, True], ids=["new", "built"])
def test_blocks_in_a_model_of_ones_own(block: Callable, built: bool, tmp_path: Path) -> None:
    layer = block()
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, layer(images))
    layer.convolutions[0].batch_norm.trainable = False
    layer.convolutions[1].kernel.trainable = False
    copied = type(layer).from_config(layer.get_config())
    if built:
        copied.build((None, None, None, 3))
    else:
        copied = type(layer).from_config(copied.get_config())
        copied.build((None, 32, 32, 3))
    again = saved(model, tmp_path, "m.keras").layers[-1]
    for each in (copied, again):
        assert not each.convolutions[0].batch_norm.trainable
        assert not each.convolutions[1].kernel.trainable
        assert len(each.trainable_variables) == len(layer.trainable_variables)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [V1, V2])
def test_training_goes_on(variant: str, tmp_path: Path, recwarn: Any, random_images: Any) -> None:
    """Frozen statistics stay, and the optimizer goes on from where it was."""
    images, labels = random_images(4, 32), np.array([0, 1, 1, 0])
    model = nested(mobilenets.MobileNet(variant))
    batch_norms(inner(model))
    first_blocks(inner(model))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(images, labels, epochs=2, verbose=0)
    again = saved(model, tmp_path, "m.keras")
    assert not [w for w in recwarn if "optimizer" in str(w.message)]
    assert len(again.optimizer.variables) == len(model.optimizer.variables)
    for one, other in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    before = {name: v.numpy() for name, v in inner(again).slim_variables.items()}
    for each in (model, again):
        each.fit(images, labels, epochs=1, verbose=0)
    after = {name: v.numpy() for name, v in inner(again).slim_variables.items()}
    assert all((after[n] == value).all() for n, value in before.items() if "BatchNorm" in n)
    assert any((after[n] != value).any() for n, value in before.items() if "weights" in n)
    for name, variable in inner(model).slim_variables.items():
        np.testing.assert_allclose(after[name], variable, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("way", first_fast([".keras", ".h5", "nested .h5", "deepcopy"]))
@pytest.mark.parametrize("variant", [slow(V1), V2, QUANTOPS])
def test_a_copy_computes_the_same(
    variant: str, way: str, tmp_path: Path, randomise: Any, random_images: Any
) -> None:
    model = randomise(MobileNet(variant, 3))
    batch_norms(model)
    again = WAYS[way](model, tmp_path)
    for name, variable in model.slim_variables.items():
        np.testing.assert_array_equal(again.slim_variables[name], variable, err_msg=name)
    images = random_images(2, 48)
    np.testing.assert_array_equal(again(images), model(images))


def test_other_classes_keep_what_is_frozen() -> None:
    model = MobileNet(V1, 5)
    batch_norms(model)
    model.convolutions[4].kernel.trainable = False
    model.logits.trainable = False
    copied = model.with_classes(3)
    kept = {n: f for n, f in flags(model).items() if "Logits" not in n}
    assert {n: f for n, f in flags(copied).items() if "Logits" not in n} == kept
    assert copied.logits.trainable


@pytest.fixture(scope="module")
def model() -> MobileNet:
    return MobileNet(V1)


class TestInput:
    WRONG = pytest.mark.parametrize(
        ("shape", "hint"),
        [
            ((32, 32, 3), "makes a batch"),
            ((32, 32), ""),
            ((32,), ""),
            ((1, 3, 32, 32), "channels come last"),
            ((2, 32, 32, 6), ""),
            ((2, 32, 32, 12), ""),
            ((2, 32, 32, 1), ""),
            ((2, 32, 32, 4), ""),
            ((1, 3, 32, 32, 3), "TimeDistributed"),
            ((2, 0, 32, 3), "1 pixel or more"),
        ],
        ids=str,
    )

    @WRONG
    @pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
    @pytest.mark.parametrize(
        "how", first_fast(["eager", "functional", "tf.function", "predict", "sequential"], 2)
    )
    def test_the_networks(
        self, how: str, training: bool, shape: tuple, hint: str, model: MobileNet
    ) -> None:
        images = np.zeros(shape, np.float32)

        def call() -> Any:
            if how == "eager":
                return model(images, training=training)
            if how == "tf.function":
                function = tf.function(lambda x: model(x, training=training), autograph=False)
                return function(tf.constant(images))
            if how == "predict":
                return model.predict(images, verbose=0)
            inputs = keras.Input(batch_shape=shape)
            if how == "sequential":
                return keras.Sequential([inputs, model])
            return keras.Model(inputs, model(inputs, training=training))

        if how == "predict" and len(shape) < 2:
            pytest.skip("Keras adds an axis to vectors")
        with pytest.raises(
            ValueError, match=r"takes \[batch, height, width, 3\], got \["
        ) as caught:
            call()
        message = str(caught.value)
        assert ", ".join(map(str, shape[1:] if how == "predict" else shape)) in message
        assert hint in message or how == "predict"

    @pytest.mark.parametrize("layer", ["convolution", "separable", "inverted"])
    @pytest.mark.parametrize(
        "shape", [(8, 8, 4), (8, 8), (1, 8, 8, 8), (1, 2, 8, 8, 4), (1, 8, 0, 4)], ids=str
    )
    def test_layers_and_blocks(self, layer: str, shape: tuple) -> None:
        made = {
            "convolution": lambda: mobilenets.layers.ConvBatchNorm(4),
            "separable": lambda: DepthwiseSeparable(4),
            "inverted": lambda: InvertedResidual(4),
        }[layer]()
        made.build((None, 8, 8, 4))
        with pytest.raises(ValueError, match=r"takes \[batch, height, width, 4\], got \["):
            made(np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match="with known channels"):
            type(made).from_config(made.get_config()).build((None, 8, 4))

    @pytest.mark.parametrize("shape", [(32, 32, 3), (2, 32, 32, 6), (1, 2, 32, 32, 3)], ids=str)
    def test_an_unknown_shape_is_checked_when_it_is_known(
        self, shape: tuple, model: MobileNet
    ) -> None:
        function = tf.function(
            lambda x: model(x), input_signature=[tf.TensorSpec(None)], autograph=False
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected"):
            function(tf.zeros(shape))
        assert function(tf.zeros((2, 40, 32, 3))).shape == (2, 256)


class TestSymbolic:
    @pytest.mark.parametrize("num_classes", [None, 7])
    def test_output_shape(self, num_classes: int | None) -> None:
        model = MobileNet(V1, num_classes)
        width = num_classes or 256
        assert model.compute_output_shape((None, 32, 32, 3)) == (None, width)
        assert model.compute_output_shape((5, None, None, 3)) == (5, width)

    @pytest.mark.parametrize("how", first_fast(["saved", "call", "functional", "sequential"], 2))
    def test_frames(self, how: str, random_images: Any, tmp_path: Path) -> None:
        model = MobileNet(V1)
        layer = keras.layers.TimeDistributed(model)
        clips = random_images(6, 32).reshape(2, 3, 32, 32, 3)
        if how == "call":
            found = layer(clips)
        else:
            inputs = keras.Input((3, 32, 32, 3))
            whole = (
                keras.Sequential([inputs, layer])
                if how == "sequential"
                else keras.Model(inputs, layer(inputs))
            )
            assert whole.output_shape == (None, 3, 256)
            if how == "saved":
                whole = saved(whole, tmp_path, "m.keras")
            found = whole.predict(clips, verbose=0)
        expected = np.stack([model(clips[:, frame]) for frame in range(3)], 1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("variant", first_fast([V1, V2, QUANTOPS]))
    def test_the_summary_knows_every_shape(self, variant: str) -> None:
        lines: list[str] = []
        MobileNet(variant, 7).summary(print_fn=lines.append, line_length=120)
        text = "\n".join(lines)
        assert "?" not in text
        assert "(None, 16, 16, 8)" in text or "(None, 16, 16, 16)" in text
        assert "(None, 7)" in text

    @pytest.mark.parametrize("where", ["block", "convolution", "model"])
    def test_an_inner_output_says_which_call_gives_it(self, where: str) -> None:
        model = MobileNet(V1)
        layer = {
            "block": lambda: model.get_layer("Conv2d_3"),
            "convolution": lambda: model.convolutions[3],
            "model": lambda: model,
        }[where]()
        with pytest.raises(AttributeError, match="return_endpoints=True"):
            _ = layer.output

    def test_the_output_of_a_called_model_is_there(self) -> None:
        model = MobileNet(V1)
        output = model(keras.Input((32, 32, 3)))
        assert model.output is output


LAST = {V1: "MobilenetV1/Conv2d_13_pointwise", V2: "MobilenetV2/layer_19"}
INNER = {V1: "MobilenetV1/Conv2d_4_depthwise", V2: "MobilenetV2/layer_5/expansion_output"}


class TestGradientsOfEndpoints:
    """What Grad-CAM needs, as `docs/migration.md` shows it."""

    @pytest.mark.parametrize("variant", first_fast([V1, V2]))
    @pytest.mark.parametrize("names", first_fast([LAST, INNER]), ids=["last", "inner"])
    def test_natively(self, variant: str, names: dict, randomise: Any, random_images: Any) -> None:
        model = randomise(MobileNet(variant, 3))
        name = names[variant]

        def gradient(images: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                endpoints = model(images, return_endpoints=True)
                score = endpoints["default"][:, 1]
            return tape.gradient(score, endpoints[name])

        images = random_images(2, 48)
        eager = gradient(images)
        assert np.abs(eager).max() > 0
        spec = tf.TensorSpec([None, None, None, 3])
        traced = tf.function(gradient, input_signature=[spec], autograph=False)(images)
        np.testing.assert_allclose(traced, eager, rtol=0, atol=1e-4 * np.abs(eager).max())

    @pytest.mark.parametrize("variant", [V1, V2])
    def test_the_pooled_last_endpoint_is_the_feature_vector(
        self, variant: str, randomise: Any, random_images: Any
    ) -> None:
        model = randomise(MobileNet(variant))
        endpoints = model(random_images(2, 48), return_endpoints=True)
        pooled = tf.reduce_mean(endpoints[LAST[variant]], [1, 2])
        np.testing.assert_array_equal(pooled, endpoints["default"])
