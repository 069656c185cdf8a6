"""Keras's files: what both Kerases write of a MobileNet comes out of them bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow_hub
import tf_keras
from refusals import refused
from slim_checkpoints import written
from tiers import first_fast, slow

import mobilenets
from convert import conversion
from mobilenets import VARIANTS, MobileNet, Variant, architecture, images, weights
from mobilenets.weights import WeightsError

KERASES = {"keras": keras, "tf_keras": tf_keras}
FORMS = [
    ("keras", ".weights.h5"),
    ("keras", ".h5"),
    ("keras", ".keras"),
    ("tf_keras", ".weights.h5"),
    ("tf_keras", ".h5"),
    ("tf_keras", ".keras"),
    ("tf_keras", " weights.h5"),
]
OF = {library: [form for each, form in FORMS if each == library] for library in KERASES}
WHOLE = (".h5", ".keras")
OPTIMIZER = "optimizer state"
OUTSIDE = "layers outside the network"
BEFORE = "layers before the network"
V1, V2 = Variant("mobilenet_v1", 0.25, 64), Variant("mobilenet_v2", 0.35, 64)
V2_SLOW = slow(V2)
# The variants of each network, which differ in their image sizes; the smallest first.
SIZES: dict[tuple[str, float], list[Variant]] = {}
for variant in sorted(VARIANTS, key=lambda variant: variant.image_size):
    if not variant.quantized:
        SIZES.setdefault((variant.family, variant.depth_multiplier), []).append(variant)


def application(library: str, variant: Variant, **arguments):
    """keras.applications' network, its weights not yet set."""
    networks = KERASES[library].applications
    size = variant.image_size
    return (networks.MobileNet if variant.family == "mobilenet_v1" else networks.MobileNetV2)(
        input_shape=(size, size, 3),
        alpha=variant.depth_multiplier,
        weights=None,
        **({"classifier_activation": None} if arguments.get("include_top", True) else {}),
        **arguments,
    )


def lines(variant: Variant) -> list[tuple[str, list[str]]]:
    """Slim's names of each convolution's kernel, and of its batch norm's variables."""
    network = architecture.scope(variant.family)
    statistics = ("gamma", "beta", "moving_mean", "moving_variance")
    named = []
    for line in architecture.convolutions(variant):
        scope = f"{network}/{line.scope}"
        kernel = "depthwise_weights" if line.kind == "depthwise" else "weights"
        named.append((f"{scope}/{kernel}", [f"{scope}/BatchNorm/{name}" for name in statistics]))
    return named


def network_layers(model) -> list:
    """The layers with weights, those of models within in their place."""
    inner = [network_layers(each) if hasattr(each, "layers") else [each] for each in model.layers]
    return [layer for layers in inner for layer in layers if layer.weights]


def named(variant: Variant, model) -> dict[str, np.ndarray]:
    """The values of an application's network by Slim name, by the order of its layers."""
    scope = architecture.scope(variant.family)
    kernels = iter([[kernel] for kernel, _ in lines(variant)])
    norms = iter([statistics for _, statistics in lines(variant)])
    of = {"BatchNormalization": norms, "Conv2D": kernels, "DepthwiseConv2D": kernels}
    found = {}
    for layer in network_layers(model):
        values = layer.get_weights()
        names = next(of.get(type(layer).__name__, iter(())), None)
        if names is None and len(values) == 2:
            names = [f"{scope}/Logits/Conv2d_1c_1x1/{name}" for name in ("weights", "biases")]
            values[0] = values[0].reshape(1, 1, *values[0].shape[-2:])
        found |= dict(zip(names or (), values, strict=bool(names)))
    return found


def set_randomly(model, seed: int = 0):
    """Batch norms far from the identity, kernels that keep the activations' scale."""
    random = np.random.default_rng(seed)

    def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
        ranges = {"gamma": (0.6, 1.4), "moving_variance": (0.4, 1.6)}
        if len(shape) == 1:
            return random.uniform(*ranges.get(name, (-0.5, 0.5)), shape)
        depthwise = len(shape) == 4 and shape[-1] == 1
        return random.normal(0, 1.4 / np.sqrt(np.prod(shape[: 2 if depthwise else -1])), shape)

    for layer in network_layers(model):
        names = [weight.name.rpartition("/")[2].removesuffix(":0") for weight in layer.weights]
        shapes = [tuple(weight.shape) for weight in layer.weights]
        layer.set_weights([value(*each) for each in zip(names, shapes, strict=True)])
    return model


def saved(model, folder: Path, form: str) -> Path:
    file = folder / f"model{form}"
    if form in WHOLE:
        model.save(file)
    else:
        model.save_weights(file, **({} if form == ".weights.h5" else {"save_format": "h5"}))
    return file


@functools.cache  # Not to be trained.
def alone(library: str, variant: Variant, classes: int | None):
    arguments = {"classes": classes} if classes else {"include_top": False}
    return set_randomly(application(library, variant, **arguments), seed=classes or 7)


@functools.cache
def _saved_alone(library: str, variant: Variant, classes: int | None, form: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return saved(alone(library, variant, classes), Path(folder), form).read_bytes()


def saved_alone(
    folder: Path, library: str, variant: Variant, classes: int | None, form: str
) -> Path:
    """A file of `alone(library, variant, classes)`, to be changed; the model writes it once."""
    file = folder / f"model{form}"
    file.write_bytes(_saved_alone(library, variant, classes, form))
    return file


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def opened(file: Path) -> tuple[weights.Weights, dict[str, np.ndarray]]:
    """What a file holds, and all values."""
    with weights.open(file) as found:
        return found, found.values(found.variant(image_size=64))


class TestApplicationAlone:
    @pytest.mark.parametrize(("library", "form"), FORMS)
    @pytest.mark.parametrize(
        ("variant", "classes"), first_fast([(V1, 10), (V2, None), (V1, None), (V2, 10)]), ids=str
    )
    def test_every_format(
        self, tmp_path: Path, library: str, form: str, variant: Variant, classes: int | None
    ) -> None:
        model = alone(library, variant, classes)
        found, values = opened(saved_alone(tmp_path, library, variant, classes, form))
        assert found.variant(image_size=None if form in WHOLE else 64) == variant
        assert (found.num_classes, found.class_names) == (classes, None)
        assert found.image_size == (64 if form in WHOLE else None)
        assert (found.leftovers, found.unknown) == ({}, {})
        assert found.entries == len(found.keys) == len(values)
        assert_equal(values, named(variant, model))

    @pytest.mark.parametrize("library", first_fast(KERASES))
    @pytest.mark.parametrize("variant", [V1, V2_SLOW], ids=str)
    def test_outputs(
        self, tmp_path: Path, library: str, variant: Variant, random_images: Callable
    ) -> None:
        model = alone(library, variant, 10)
        loaded = mobilenets.load(saved_alone(tmp_path, library, variant, 10, ".keras"))
        batch = random_images(3, 64)
        expected = np.asarray(model(2 * batch - 1, training=False))
        difference = np.abs(loaded(batch).numpy() - expected).max()
        assert difference < 1e-4 * np.abs(expected).max()

    @pytest.mark.parametrize("library", first_fast(KERASES))
    @pytest.mark.parametrize("around", first_fast([False, True]))
    @pytest.mark.parametrize("size", first_fast([96, 150, 101, 180, 200, 230], 2))
    @pytest.mark.parametrize("variant", [V1, V2], ids=["V1", "V2"])
    def test_a_size_with_other_padding_is_refused(
        self, tmp_path: Path, library: str, variant: Variant, size: int, around: bool
    ) -> None:
        """Whatever is read without a word gives the same outputs."""
        variant = dataclasses.replace(variant, image_size=size)
        module = KERASES[library]
        model = alone(library, variant, None if around else 10)
        if around:
            given = module.Input((size, size, 3))
            features = module.layers.GlobalAveragePooling2D()(model(given))
            model = module.Model(given, module.layers.Dense(4)(features))
        model.save(file := tmp_path / "m.keras")
        batch = np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)
        expected = np.asarray(model(2 * batch - 1, training=False))
        loaded = mobilenets.load(file, variant=variant)
        difference = np.abs(loaded(batch).numpy() - expected).max()
        if difference < 1e-4 * np.abs(expected).max():
            assert mobilenets.load(file).variant == variant
        else:
            assert variant.family == "mobilenet_v1"
            with pytest.raises(WeightsError, match=f"takes {size}-pixel images, where keras.appl"):
                mobilenets.load(file)

    # Of each library the form that says least.
    @pytest.mark.parametrize(
        ("library", "form"),
        [each if each[1].endswith("weights.h5") else slow(*each) for each in FORMS],
    )
    def test_thousand_classes_are_imagenets_without_the_background(
        self, tmp_path: Path, library: str, form: str
    ) -> None:
        found, _ = opened(saved_alone(tmp_path, library, V1, 1000, form))
        assert found.class_names == images.class_names()[1:]

    @pytest.mark.slow
    @pytest.mark.parametrize("top", [True, False], ids=["top", "no top"])
    @pytest.mark.parametrize(
        ("turn", "sizes"), list(enumerate(SIZES.values())), ids=map(str, SIZES)
    )
    def test_all_networks(self, tmp_path: Path, turn: int, sizes: list, top: bool) -> None:
        """Each in two of the formats, which take turns."""
        library = list(KERASES)[(turn + top) % 2]
        KERASES[library].backend.clear_session()
        smallest, *_ = sizes
        model = set_randomly(application(library, smallest, include_top=top))
        expected = named(smallest, model)
        for form in (OF[library] * 2)[turn // 2 % 2 :: 2][:2]:
            with weights.open(saved(model, tmp_path, form)) as found:
                for variant in [smallest] if form in WHOLE else sizes:
                    assert found.variant(image_size=variant.image_size) == variant
                assert_equal(found.values(smallest), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("network", [V1, V2], ids=str)
    def test_all_sizes(self, tmp_path: Path, network: Variant) -> None:
        """The image size is in the configuration, whatever the weights are."""
        for turn, variant in enumerate(SIZES[network.family, network.depth_multiplier]):
            library, form = FORMS[[1, 2, 4, 5][turn % 4]]
            model = application(library, variant, include_top=False)
            found, _ = opened(saved(model, tmp_path, form))
            assert found.variant() == variant
            assert found.image_size == variant.image_size

    @pytest.mark.parametrize(
        ("name", "variant"),
        [
            ("mobilenet_2_5_128_tf.h5", "mobilenet_v1_025_128"),
            ("mobilenet_2_5_224_tf_no_top.h5", "mobilenet_v1_025_224"),
            (
                "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5",
                "mobilenet_v2_035_96",
            ),
            (
                "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224.h5",
                "mobilenet_v2_035_224",
            ),
        ],
    )
    def test_published_files_names(self, tmp_path: Path, name: str, variant: str) -> None:
        network = V1 if "v1" in variant else V2
        file = saved_alone(tmp_path, "tf_keras", network, None, " weights.h5")
        with weights.open(file.rename(tmp_path / name)) as found:
            assert found.variant() == Variant.parse(variant)

    def test_a_published_files_name_of_another_network(self, tmp_path: Path) -> None:
        file = saved_alone(tmp_path, "tf_keras", V1, None, " weights.h5")
        file = file.rename(tmp_path / "mobilenet_7_5_128_tf_no_top.h5")
        with refused("expected depth multiplier 0.75, found 0.25"), weights.open(file) as found:
            found.variant()

    @pytest.mark.parametrize("variant", [V1, V2], ids=str)
    def test_other_layer_names_are_read_by_order(self, tmp_path: Path, variant: Variant) -> None:
        # As in files that were published before the layers had their present names.
        model = alone("tf_keras", variant, 10)
        source = saved_alone(tmp_path, "tf_keras", variant, 10, " weights.h5")
        with h5py.File(source) as old, h5py.File(tmp_path / "renamed.h5", "w") as new:
            names = [str(name) for name in old.attrs["layer_names"]]
            new.attrs["layer_names"] = [f"mobl_{n}".encode() for n in range(len(names))]
            for number, name in enumerate(names):
                group = new.create_group(f"mobl_{number}")
                keys = [str(key) for key in old[name].attrs["weight_names"]]
                if len(keys) == 4:
                    # A batch norm's variables still have their names.
                    keys.reverse()
                members = [f"mobl_{number}/{key.rpartition('/')[2]}" for key in keys]
                group.attrs["weight_names"] = [member.encode() for member in members]
                for member, key in zip(members, keys, strict=True):
                    group[member] = old[name][key][()]
        _, values = opened(tmp_path / "renamed.h5")
        assert_equal(values, named(variant, model))

    def test_names_beyond_an_attributes_limit(self, tmp_path: Path) -> None:
        model = alone("tf_keras", V1, 10)
        file = saved_alone(tmp_path, "tf_keras", V1, 10, " weights.h5")
        with h5py.File(file, "r+") as group:
            names = list(group.attrs["layer_names"])
            del group.attrs["layer_names"]
            group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:50], names[50:]
        assert_equal(opened(file)[1], named(V1, model))

    @pytest.mark.parametrize("form", [".h5", ".keras"])
    def test_content_counts_and_not_the_files_name(self, tmp_path: Path, form: str) -> None:
        file = saved_alone(tmp_path, "keras", V1, 10, form)
        found, _ = opened(file.rename(tmp_path / "model.index"))
        assert found.num_classes == 10
        assert len(found.fingerprint) == 64


def trained(library: str, model, classes: int):
    """After one step of Adam."""
    random = np.random.default_rng(0)
    # Tracing a graph would take longer than the step.
    model.compile(KERASES[library].optimizers.Adam(1e-2), "mse", run_eagerly=True)
    inputs = random.uniform(size=(2, 64, 64, 3)).astype(np.float32)
    model.fit(inputs, random.normal(size=(2, classes)), verbose=0)
    return model


def nested(library: str, how: str, base, head: Callable | None = None):
    """A network in a Sequential or functional model, or with layers of a head behind its own."""
    layers = KERASES[library].layers
    head = head or (lambda layers: [layers.Dropout(0.5), layers.Dense(3, activation="softmax")])
    if how == "flat":
        # As `pooling="avg"` does.
        outputs = layers.GlobalAveragePooling2D()(base.output)
        for layer in head(layers):
            outputs = layer(outputs)
        return KERASES[library].Model(base.input, outputs)
    stack = [base, layers.GlobalAveragePooling2D(), *head(layers)]
    if how == "sequential":
        return KERASES[library].Sequential([layers.Rescaling(2.0, -1, name="before"), *stack])
    outputs = inputs = KERASES[library].Input((64, 64, 3))
    for layer in stack:
        outputs = layer(outputs)
    return KERASES[library].Model(inputs, outputs)


@pytest.mark.parametrize("library", KERASES)
class TestApplicationWithin:
    @pytest.mark.parametrize(
        ("variant", "how"),
        first_fast(
            [
                (V1, "sequential"),
                (V2, "flat"),
                (V1, "functional"),
                (V1, "flat"),
                (V2, "sequential"),
                (V2, "functional"),
            ],
        ),
        ids=str,
    )
    def test_trained(self, tmp_path: Path, library: str, variant: Variant, how: str) -> None:
        base = set_randomly(application(library, variant, include_top=False))
        model = trained(library, nested(library, how, base), 3)
        expected = named(variant, model)
        for form in OF[library]:
            found, values = opened(saved(model, tmp_path, form))
            assert_equal(values, expected)
            assert (found.num_classes, found.unknown) == (3, {})
            assert found.image_size == (64 if form in WHOLE else None)
            before = how == "sequential" and form in WHOLE
            leftovers = dict(found.leftovers)
            assert leftovers.pop(BEFORE, None) == (["before"] if before else None)
            assert (OPTIMIZER in leftovers) == (form != " weights.h5")
            assert not leftovers.keys() - {OPTIMIZER, "metrics", "state of random generators"}
            assert found.entries == len(values) + sum(map(len, leftovers.values()))

    @pytest.mark.parametrize(
        ("how", "head", "outside"),
        [
            ("sequential", lambda layers: [layers.Dense(4), layers.Dense(3)], 4),
            slow("flat", lambda layers: [layers.Dense(4), layers.Dense(3)], 4),
            slow("flat", lambda layers: [layers.BatchNormalization(), layers.Dense(3)], 6),
            slow("flat", lambda layers: [layers.Dense(3, use_bias=False)], 1),
        ],
        ids=["two dense layers", "two dense layers, flat", "batch norm", "no bias"],
    )
    def test_another_head_is_left_out_by_name(
        self, tmp_path: Path, library: str, how: str, head: Callable, outside: int
    ) -> None:
        model = nested(library, how, alone(library, V1, None), head)
        if how == "sequential":
            model.build((None, 64, 64, 3))
        expected = named(V1, model)
        for form in OF[library]:
            found, values = opened(saved(model, tmp_path, form))
            assert found.num_classes is None
            assert len(found.leftovers[OUTSIDE]) == outside
            assert_equal(values, {name: expected[name] for name in values})
            assert len(values) == 135

    @pytest.mark.parametrize(
        "head",
        [
            lambda layers: [layers.Dense(3, activation="relu")],
            lambda layers: [layers.Activation("tanh"), layers.Dense(3)],
        ],
        ids=["relu", "not on the features"],
    )
    def test_a_dense_layer_that_gives_no_logits(
        self, tmp_path: Path, library: str, head: Callable
    ) -> None:
        model = nested(library, "flat", alone(library, V1, None), head)
        for form in WHOLE:
            found, _ = opened(saved(model, tmp_path, form))
            assert found.num_classes is None
            assert len(found.leftovers[OUTSIDE]) == 2

    def test_largest_features_are_not_the_mean_ones(self, tmp_path: Path, library: str) -> None:
        layers = KERASES[library].layers
        stack = [alone(library, V1, None), layers.GlobalMaxPooling2D(), layers.Dense(3)]
        model = KERASES[library].Sequential(stack)
        for form in OF[library]:
            found, _ = opened(saved(model, tmp_path, form))
            assert found.num_classes is None

    @pytest.mark.parametrize("variant", [V1, V2_SLOW], ids=str)
    def test_own_logits_stay_where_a_layer_is_behind_them(
        self, tmp_path: Path, library: str, variant: Variant
    ) -> None:
        base = alone(library, variant, 10)
        model = KERASES[library].Sequential([base, KERASES[library].layers.Dense(2)])
        for form in OF[library]:
            found, values = opened(saved(model, tmp_path, form))
            assert_equal(values, named(variant, base))
            assert len(found.leftovers[OUTSIDE]) == 2

    def test_a_convolution_before_the_network(self, tmp_path: Path, library: str) -> None:
        inputs = KERASES[library].Input((64, 64, 1))
        base = alone(library, V1, None)
        outputs = base(KERASES[library].layers.Conv2D(3, 1)(inputs))
        model = KERASES[library].Model(inputs, outputs)
        for form in OF[library]:
            found, values = opened(saved(model, tmp_path, form))
            assert_equal(values, named(V1, base))
            assert len(found.leftovers[OUTSIDE]) == 2


class TestHubLayer:
    @pytest.fixture(scope="class")
    @classmethod
    def models(cls, module: Callable) -> Callable:
        @functools.cache
        def models(family: str, classes: int | None = None):
            layer = tensorflow_hub.KerasLayer(str(module(family, classes)), trainable=True)
            inputs = tf_keras.Input((64, 64, 3))
            model = tf_keras.Model(inputs, tf_keras.layers.Dense(3)(layer(inputs)))
            return trained("tf_keras", model, 3), layer

        return models

    @pytest.mark.parametrize("form", OF["tf_keras"])
    @pytest.mark.parametrize("family", first_fast(["mobilenet_v1", "mobilenet_v2"]))
    def test_fine_tuned(
        self, tmp_path: Path, models: Callable, module: Callable, family: str, form: str
    ) -> None:
        model, layer = models(family)
        found, values = opened(saved(model, tmp_path, form))
        kernel, bias = model.layers[-1].get_weights()
        scope = f"{architecture.scope(family)}/Logits/Conv2d_1c_1x1"
        tuned = {each.name.removesuffix(":0"): each.numpy() for each in layer.weights}
        assert_equal(
            values, {**tuned, f"{scope}/weights": kernel[None, None], f"{scope}/biases": bias}
        )
        assert found.image_size == (64 if form in WHOLE else None)
        assert OUTSIDE not in found.leftovers

    @pytest.mark.slow
    @pytest.mark.parametrize("form", OF["tf_keras"])
    def test_a_classifiers_own_logits(self, tmp_path: Path, models: Callable, form: str) -> None:
        model, layer = models("mobilenet_v1", 7)
        found, values = opened(saved(model, tmp_path, form))
        assert found.num_classes == 7
        assert len(found.leftovers[OUTSIDE]) == 2
        assert_equal(values, {each.name.removesuffix(":0"): each.numpy() for each in layer.weights})

    def test_numbers_in_another_order(self, tmp_path: Path, models: Callable) -> None:
        model, _ = models("mobilenet_v1")
        file = saved(model, tmp_path, ".weights.h5")
        with h5py.File(file, "r+") as group:
            variables = group["layers/keras_layer/vars"]
            for gamma in range(1, 81, 3):
                values = variables[str(gamma)][()], variables[str(gamma + 1)][()]
                variables[str(gamma + 1)][()], variables[str(gamma)][()] = values
        with refused("keras_layer have numbers instead of names.*save_weights"):
            opened(file)


class TestOurOwn:
    @pytest.fixture(scope="class")
    @classmethod
    def networks(cls, randomise: Callable) -> Callable:
        @functools.cache
        def networks(variant: Variant, classes: tuple | None) -> MobileNet:
            model = randomise(MobileNet(variant, class_names=classes))
            for name, bound in model.slim_variables.items():
                if name.endswith(("_quant/min", "_quant/max")):
                    value = 1 + abs(bound.numpy())
                    if value.ndim:
                        # Those of channels are symmetric.
                        value = np.linspace(1, 2, len(value))
                    bound.assign((1 if name.endswith("max") else -1) * value)
            return model

        return networks

    @pytest.mark.parametrize("form", [".weights.h5", ".h5", ".keras"])
    @pytest.mark.parametrize(
        "variant",
        [
            V1,
            V2,
            Variant("mobilenet_v1", 0.25, 64, quantized=True),
            slow(Variant("mobilenet_v1", 0.25, 64, quantized="int8")),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("classes", first_fast([("cat", "dog"), None]))
    def test_alone(
        self,
        tmp_path: Path,
        variant: Variant,
        classes: tuple | None,
        form: str,
        networks: Callable,
    ) -> None:
        model = networks(variant, classes)
        found, values = opened(saved(model, tmp_path, form))
        assert found.variant(image_size=64) == variant
        assert found.class_names == (classes if form in WHOLE else None)
        assert found.image_size == (64 if form in WHOLE else None)
        assert (found.leftovers, found.unknown) == ({}, {})
        assert_equal(values, {k: v.numpy() for k, v in model.slim_variables.items()})

    @pytest.mark.parametrize("around", first_fast([False, True]))
    def test_settings_are_those_of_the_file(self, tmp_path: Path, around: bool) -> None:
        settings = {"batch_norm_momentum": 0.9, "dropout_rate": 0.5}
        variant = Variant("mobilenet_v1", 0.25, 32)
        model: keras.Model = MobileNet(variant, None if around else 3, **settings)
        if around:
            model = keras.Sequential([keras.Input((32, 32, 3)), model, keras.layers.Dense(3)])
        model.save(file := tmp_path / "m.keras")
        loaded = mobilenets.load(file)
        assert {name: getattr(loaded, name) for name in settings} == settings
        assert mobilenets.load(file, batch_norm_momentum=0.5).batch_norm_momentum == 0.5
        (done,) = conversion.convert(file, tmp_path / "made", kinds=["classification"])
        again = mobilenets.load(done.directory)
        assert {name: getattr(again, name) for name in settings} == settings

    @pytest.mark.parametrize("variant", [V1, V2_SLOW], ids=str)
    def test_within(self, tmp_path: Path, variant: Variant, randomise) -> None:
        network = randomise(MobileNet(variant, name="base"))
        dense = keras.layers.Dense(3)
        model = trained("keras", keras.Sequential([network, dense]), 3)
        kernel, bias = dense.get_weights()
        scope = f"{architecture.scope(variant.family)}/Logits/Conv2d_1c_1x1"
        logits = {f"{scope}/weights": kernel[None, None], f"{scope}/biases": bias}
        expected = {k: v.numpy() for k, v in network.slim_variables.items()}
        for form in OF["keras"]:
            found, values = opened(saved(model, tmp_path, form))
            assert_equal(values, expected | logits)
            assert list(found.leftovers) == [OPTIMIZER]


@pytest.mark.slow
def test_all_formats_and_slims_give_the_same(tmp_path: Path) -> None:
    model = alone("keras", V2, 10)
    expected = named(V2, model)
    files = [written(tmp_path, "model.ckpt", expected)]
    for library, form in FORMS:
        folder = tmp_path / library
        folder.mkdir(exist_ok=True)
        other = application(library, V2, classes=10)
        for layer, same in zip(network_layers(other), network_layers(model), strict=True):
            layer.set_weights(same.get_weights())
        files.append(saved(other, folder, form))
    own = mobilenets.load(files[1], variant=V2)
    files += [saved(own, tmp_path, form) for form in (".keras", ".h5")]
    for file in files:
        assert_equal(opened(file)[1], expected)


class TestStrangersDogs:
    @pytest.fixture
    def file(self, reference_data: Path) -> Path:
        return reference_data / "real/other_formats/dog_breed_mobilenetv2.h5"

    def test_classifier(self, file: Path, reference_data: Path) -> None:
        # The model has no layer that prepares images, so that it takes [-1, 1] as
        # keras.applications' networks do, where ours takes [0, 1].
        with weights.open(file) as found:
            assert found.variant() == Variant("mobilenet_v2", 1.0, 160)
            assert found.num_classes == 19
            assert {category: len(keys) for category, keys in found.leftovers.items()} == {
                OPTIMIZER: 70
            }
        photographs = (reference_data / "photos").iterdir()
        names = sorted(each for each in photographs if each.suffix in (".jpg", ".bmp", ".png"))
        batch = images.load_batch(names, 160)
        expected = keras.models.load_model(file, compile=False)(2 * batch - 1, training=False)
        logits = mobilenets.load(file)(batch).numpy()
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        predicted = exponentials / exponentials.sum(-1, keepdims=True)
        assert len(batch) == 8
        np.testing.assert_allclose(predicted, np.asarray(expected), atol=1e-5, rtol=0)


class TestErrors:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return saved_alone(tmp_path, "keras", V1, 10, ".h5")

    @pytest.fixture
    def zipped(self, tmp_path: Path) -> Path:
        return saved_alone(tmp_path, "keras", V1, 10, ".keras")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    @pytest.mark.parametrize("kind", ["file", "zipped"])
    def test_truncated(self, kind: str, share: float, request: pytest.FixtureRequest) -> None:
        file = request.getfixturevalue(kind)
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        with refused("is damaged or incomplete"):
            opened(file)

    def test_damaged_zip(self, zipped: Path) -> None:
        content = bytearray(zipped.read_bytes())
        content[len(content) // 2] ^= 0xFF
        zipped.write_bytes(content)
        with refused("is damaged or incomplete .*CRC"):
            opened(zipped)

    def test_zip_without_weights(self, zipped: Path) -> None:
        bare = zipped.with_name("bare")
        with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(bare, "w") as new:
            for name in ("config.json", "metadata.json"):
                new.writestr(name, old.read(name))
        with refused(r"is a .keras file without model.weights.h5"):
            opened(bare)

    @pytest.mark.parametrize("config", ["{", "[" * 100_000, '"text"'])
    def test_configuration_that_is_none(self, zipped: Path, config: str) -> None:
        forged = zipped.with_name("forged")
        with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(forged, "w") as new:
            for name in ("metadata.json", "model.weights.h5"):
                new.writestr(name, old.read(name))
            new.writestr("config.json", config)
        if config == '"text"':
            assert opened(forged)[0].image_size is None
        else:
            with refused("is damaged or incomplete|nested too deeply"):
                opened(forged)

    def test_another_zip_is_not_keras(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
            archive.writestr("readme", "text")
        with refused("is not a checkpoint; expected .*keras"):
            opened(tmp_path / "model.keras")

    def test_hdf5_of_something_else(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "data.h5", "w") as group:
            group["temperatures"] = [1.0]
        with refused("is HDF5, but not a Keras file: .* found temperatures"):
            opened(tmp_path / "data.h5")

    @pytest.mark.parametrize("library", KERASES)
    def test_another_network(self, tmp_path: Path, library: str) -> None:
        layers = KERASES[library].layers
        model = KERASES[library].Sequential(
            [KERASES[library].Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten()]
        )
        for form in OF[library]:
            with refused("holds no MobileNet V1 or V2: its layers are .*conv2d"):
                opened(saved(model, tmp_path, form))

    @pytest.mark.parametrize("library", first_fast(KERASES))
    @pytest.mark.parametrize("size", first_fast(["Small", "Large"]))
    def test_v3(self, tmp_path: Path, library: str, size: str) -> None:
        network = getattr(KERASES[library].applications, f"MobileNetV3{size}")
        model = network(input_shape=(64, 64, 3), weights=None, include_top=False)
        for form in OF[library]:
            with refused("this is MobileNet V3; only V1 and V2 are supported"):
                opened(saved(model, tmp_path, form))

    def test_v3_of_the_hub(self, tmp_path: Path) -> None:
        name = "MobilenetV3/Conv/weights:0"
        with h5py.File(tmp_path / "model.h5", "w") as group:
            group.attrs["layer_names"] = ["keras_layer"]
            group[f"keras_layer/{name}"] = np.zeros((3, 3, 3, 16), np.float32)
            group["keras_layer"].attrs["weight_names"] = [name]
        with refused("this is MobileNet V3; only V1 and V2 are supported"):
            opened(tmp_path / "model.h5")

    @pytest.mark.parametrize("library", first_fast(KERASES))
    @pytest.mark.parametrize("other", [V1, V2_SLOW], ids=str)
    def test_two_networks(self, tmp_path: Path, library: str, other: Variant) -> None:
        inputs = KERASES[library].Input((64, 64, 3))
        networks = [application(library, each, include_top=False) for each in (V1, other)]
        # Keras wants different names.
        networks = [
            KERASES[library].Model(each.input, each.output, name=f"network_{number}")
            for number, each in enumerate(networks)
        ]
        model = KERASES[library].Model(inputs, [each(inputs) for each in networks])
        for form in OF[library]:
            with refused("holds several MobileNets"):
                opened(saved(model, tmp_path, form))

    @pytest.mark.parametrize("link", ["external", "soft", "data"])
    def test_links_to_elsewhere(self, tmp_path: Path, file: Path, link: str) -> None:
        secret = tmp_path / "secret.h5"
        shutil.copy(file, secret)
        key = "model_weights/conv1/conv1/kernel"
        with h5py.File(file, "r+") as group:
            if link == "data":
                parent = group["model_weights/conv1/conv1"]
                del parent["kernel"]
                external = [(str(secret), 0, 4 * 27 * 8)]
                parent.create_dataset("kernel", (3, 3, 3, 8), "f4", external=external)
            else:
                del group[key]
                group[key] = (
                    h5py.ExternalLink(str(secret), key)
                    if link == "external"
                    else h5py.SoftLink("/model_weights/conv_pw_1/conv_pw_1/kernel")
                )
        with refused("conv1/kernel (links elsewhere|has its values in another file)"):
            opened(file)

    def test_a_group_within_itself(self, file: Path) -> None:
        with h5py.File(file, "r+") as group:
            group["model_weights/conv1/again"] = group["model_weights"]
        with refused("is linked twice"):
            opened(file)

    def test_absurd_sizes(self, file: Path) -> None:
        with h5py.File(file, "r+") as group:
            parent = group["model_weights/conv_preds/conv_preds"]
            for name, shape in (("kernel", (1, 1, 256, 1 << 40)), ("bias", (1 << 40,))):
                del parent[name]
                parent.create_dataset(name, shape, "f4", chunks=(*shape[:-1], 1024))
            del group.attrs["model_config"]
        with refused(f"claims {1 << 40} classes"):
            opened(file)

    def test_values_that_were_never_written(self, file: Path) -> None:
        with h5py.File(file, "r+") as group:
            parent = group["model_weights/conv_pw_13/conv_pw_13"]
            del parent["kernel"]
            parent.create_dataset("kernel", (1, 1, 256, 256), "f4", chunks=(1, 1, 256, 256))
        with refused("kernel claims 262144 bytes, but the file holds 0"):
            opened(file)

    @pytest.mark.parametrize("chunks", [None, (4,)], ids=["contiguous", "one chunk of two"])
    def test_few_values_that_were_never_written(self, file: Path, chunks: tuple | None) -> None:
        with h5py.File(file, "r+") as group:
            parent = group["model_weights/conv1_bn/conv1_bn"]
            del parent["beta"]
            parent.create_dataset("beta", (8,), "f4", chunks=chunks)
            if chunks:
                parent["beta"][:4] = 1
        with refused("conv1_bn/beta claims 32 bytes, but the file holds"):
            opened(file)

    def test_two_variables_with_the_same_bytes(self, file: Path) -> None:
        """An address with a flipped bit leads to other values, which are as plausible."""
        with h5py.File(file) as group:
            one, other = (
                group[f"model_weights/{name}/{name}/beta"].id.get_offset().to_bytes(8, "little")
                for name in ("conv_dw_1_bn", "conv1_bn")
            )
        content = file.read_bytes()
        assert content.count(one) == 1
        file.write_bytes(content.replace(one, other))
        with refused("conv1_bn/beta .*have the same bytes"):
            opened(file)

    def test_numbers_that_hdf5_would_convert(self, file: Path) -> None:
        kind = h5py.h5t.IEEE_F32LE.copy()
        # A mantissa of 22 bits.
        kind.set_fields(31, 23, 8, 0, 22)
        with h5py.File(file, "r+") as group:
            key = "model_weights/conv1_bn/conv1_bn/beta"
            del group[key]
            space = h5py.h5s.create_simple((8,))
            h5py.h5d.create(group.id, key.encode(), kind, space).write(
                h5py.h5s.ALL, h5py.h5s.ALL, np.ones(8, np.float32)
            )
        with refused("conv1_bn/beta has another format of numbers than float32"):
            opened(file)

    def test_a_variable_without_a_shape(self, file: Path) -> None:
        with h5py.File(file, "r+") as group:
            key = "model_weights/conv1_bn/conv1_bn/beta"
            del group[key]
            group[key] = h5py.Empty("f4")
        with weights.open(file) as found, pytest.raises(WeightsError, match=r"found \[\]"):
            found.values(V1)

    def test_all_faults_are_listed(self, file: Path) -> None:
        with h5py.File(file, "r+") as group:
            for layer, name in (("conv_pw_2", "kernel"), ("conv_dw_3_bn", "gamma")):
                parent = group[f"model_weights/{layer}/{layer}"]
                value = parent[name][()]
                del parent[name]
                parent[name] = value[..., :-1] if layer == "conv_dw_3_bn" else value
            parent = group["model_weights/conv1"]
            parent.attrs["weight_names"] = [b"conv1/kernel", b"conv1/bias"]
            parent["conv1/bias"] = np.zeros(8, np.float32)
            group["model_weights/conv_dw_5_bn"].attrs["weight_names"] = [b"conv_dw_5_bn/gamma"]
        with weights.open(file) as found, pytest.raises(WeightsError) as caught:
            found.values(V1)
        text = str(caught.value)
        assert "Conv2d_3_depthwise/BatchNorm/gamma: expected [32], found [31]" in text
        assert "model_weights/conv1/conv1/bias: left over, found [8]" in text
        assert "Conv2d_5_depthwise/BatchNorm/beta: missing, expected [64]" in text

    def test_not_finite(self, file: Path) -> None:
        with h5py.File(file, "r+") as group:
            group["model_weights/conv1/conv1/kernel"][0, 0, 0, 0] = np.nan
        with weights.open(file) as found, pytest.raises(WeightsError, match="1 of 216 values NaN"):
            found.values(V1)

    def test_averages(self, file: Path) -> None:
        with refused("holds no moving averages"), weights.open(file, "averages"):
            pass
        with refused("weights must be one of"), weights.open(file, "latest"):
            pass


class TestTool:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        model = nested("keras", "functional", alone("keras", V1, None))
        return saved(model, tmp_path, ".keras")

    def test_inspect(self, file: Path, command: Callable) -> None:
        code, output, _ = command("inspect", file, "--json")
        assert code == 0
        found = json.loads(output)
        assert found["leftovers"] == {}

    @pytest.mark.slow
    def test_checkpoint(
        self, quick_conversion: None, tmp_path: Path, file: Path, command: Callable
    ) -> None:
        code, _, errors = command("checkpoint", file, "--output", tmp_path / "modules")
        assert code == 0, errors
        model = mobilenets.load(tmp_path / "modules" / V1.name / "classification")
        assert (model.variant, model.num_classes) == (V1, 3)
        values = {name: variable.numpy() for name, variable in model.slim_variables.items()}
        assert_equal(values, opened(file)[1])
