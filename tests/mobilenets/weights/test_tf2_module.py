"""TF2 Hub modules, and whatever was saved of a model with one inside, by their variables' names."""

from __future__ import annotations

import functools
import itertools
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from closeness import equal, values_of
from refusals import refused
from slim_checkpoints import DATA, INDEX, constants, network, some_values, written
from tensorflow.core.protobuf import trackable_object_graph_pb2
from tiers import first_fast, slow
from weight_formats import hub_module, plausible

import mobilenets
from mobilenets import weights
from mobilenets.variants import Variant
from mobilenets.weights import WeightsError, tf2_module

LOGITS = "MobilenetV1/Logits/Conv2d_1c_1x1"
KEY = "/.ATTRIBUTES/VARIABLE_VALUE"


def accounted(found: weights.Weights) -> bool:
    """Whether every entry is in one place."""
    keys = [*found.keys.values(), *found.unknown, *itertools.chain(*found.leftovers.values())]
    return len(set(keys)) == len(keys) == found.entries


class TestHubModules:
    @pytest.mark.parametrize(
        ("family", "multiplier", "classes"),
        [("mobilenet_v1", 0.25, None), slow("mobilenet_v1", 0.5, 7), ("mobilenet_v2", 0.35, 1001)],
    )
    def test_by_name_alone(
        self, tmp_path: Path, family: str, multiplier: float, classes: int | None
    ) -> None:
        values = network(family, multiplier, classes)
        with weights.open(hub_module(tmp_path / "module", values, 96)) as found:
            assert found.variant() == Variant(family, multiplier, 96)
            assert found.num_classes == classes
            assert equal(found.values(found.variant()), values)
            assert accounted(found)
            assert found.unknown == {}

    def test_quantized(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25, 5, quantized=True)
        values |= {name: -np.abs(value) for name, value in values.items() if name.endswith("/min")}
        values |= {name: np.abs(value) for name, value in values.items() if name.endswith("/max")}
        with weights.open(hub_module(tmp_path / "module", values, 96)) as found:
            assert found.variant() == Variant("mobilenet_v1", 0.25, 96, quantized=True)
            assert equal(found.values(found.variant()), values)

    def test_no_function_is_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = hub_module(tmp_path / "module", network("mobilenet_v1", 0.25), 96)
        monkeypatch.setattr(tf.saved_model, "load", None)
        monkeypatch.setattr(tf, "import_graph_def", None)
        assert mobilenets.load(folder).variant.image_size == 96

    @pytest.mark.parametrize("size", first_fast([None, 16]))
    def test_a_size_that_is_not_fixed_is_asked_for(self, tmp_path: Path, size: int | None) -> None:
        folder = hub_module(tmp_path / "module", network("mobilenet_v1", 0.25), size)
        with weights.open(folder) as found:
            assert found.image_size is None
            with refused("its image size is unknown"):
                found.variant()
        assert mobilenets.load(folder).variant.image_size == 224
        named = folder.rename(folder.with_name("mobilenet_v1_0.25_160"))
        assert mobilenets.load(named).variant.image_size == 160

    def test_class_names(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25, 3)
        names = ("a cat", "a dog", "neither")
        with weights.open(hub_module(tmp_path / "module", values, 96, names)) as found:
            assert found.class_names == names
        other = hub_module(tmp_path / "other", values, 96, ("an", "asset of another length"))
        with weights.open(other) as found:
            assert found.class_names is None

    @pytest.mark.parametrize(
        ("family", "classes"), first_fast([("mobilenet_v1", 7), ("mobilenet_v2", None)])
    )
    def test_our_own(self, module: Callable[..., Path], family: str, classes: int | None) -> None:
        folder = module(family, classes)
        model = mobilenets.load(folder)
        with weights.open(folder) as found:
            assert found.image_size == 64
            assert found.variant() == model.variant
            expected = values_of(model)
            assert equal(found.values(model.variant), expected)
            assert accounted(found)

    def test_names_of_our_own_classes(self, quick_save: None, tmp_path: Path) -> None:
        names = ("eins", "zwei", "größer")
        variant = Variant("mobilenet_v1", 0.25, 64)
        mobilenets.save(mobilenets.MobileNet(variant, class_names=names), tmp_path / "module")
        with weights.open(tmp_path / "module") as found:
            assert found.class_names == names

    def test_fingerprint_is_of_the_bundle(self, tmp_path: Path) -> None:
        values = some_values()
        prints = set()
        for name in ("one", "two"):
            values["MobilenetV1/Conv2d_0/weights"] += 1
            with weights.open(hub_module(tmp_path / name, values)) as found:
                prints.add(found.fingerprint)
        assert len(prints) == 2


@dataclass(frozen=True)
class Trained:
    """A model with a hub.KerasLayer, trained a step: its network's values and its head's."""

    folder: Path
    values: dict[str, np.ndarray]
    kernel: np.ndarray
    bias: np.ndarray


def with_head(module: Any, *head):
    """A module's folder, or what `hub.load` gives, with layers behind it."""
    import tensorflow_hub as hub
    import tf_keras

    layer = hub.KerasLayer(module, trainable=True, input_shape=(64, 64, 3))
    return tf_keras.Sequential([layer, *head])


def fine_tuned(module: Path, *head, optimizer):
    model = with_head(str(module), *head)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    model.fit(images, np.array([0, 1]), verbose=0)
    return model


@pytest.fixture(scope="module")
def trained(
    module: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    """`trained(optimizer)`: saved in three ways; trained once for each optimizer."""
    made: dict[str, Trained] = {}

    def trained(optimizer: str) -> Trained:
        if optimizer in made:
            return made[optimizer]
        import tf_keras

        optimizers = {
            "tf_keras": "adam",
            "legacy": tf_keras.optimizers.legacy.Adam(),
        }
        head = [tf_keras.layers.Dropout(0.1), tf_keras.layers.Dense(4, activation="softmax")]
        model = fine_tuned(module("mobilenet_v1"), *head, optimizer=optimizers[optimizer])
        folder = tmp_path_factory.mktemp("trained")
        model.save(folder / "SavedModel", save_format="tf")
        model.save_weights(folder / "weights" / "ckpt")
        objects = {"net": model, "opt": model.optimizer, "step": tf.Variable(3)}
        tf.train.Checkpoint(**objects).save(folder / "Checkpoint" / "ckpt")
        values = {v.name.removesuffix(":0"): v.numpy() for v in model.layers[0].variables}
        kernel, bias = (v.numpy() for v in model.layers[-1].variables)
        made[optimizer] = Trained(folder, values, kernel, bias)
        return made[optimizer]

    return trained


class TestFineTuned:
    @pytest.mark.slow
    @pytest.mark.parametrize("optimizer", ["tf_keras", "legacy"])
    @pytest.mark.parametrize("saved", ["SavedModel", "weights/ckpt", "Checkpoint"])
    def test_a_dense_layer_becomes_the_logits(
        self, trained: Callable[[str], Trained], saved: str, optimizer: str
    ) -> None:
        expected = trained(optimizer)
        with weights.open(expected.folder / saved) as found:
            values = found.values(found.variant("mobilenet_v1_025_64"))
            assert values.pop(f"{LOGITS}/weights").tobytes() == expected.kernel.tobytes()
            assert values.pop(f"{LOGITS}/biases").tobytes() == expected.bias.tobytes()
            assert values.keys() == expected.values.keys()
            assert equal(values, {name: expected.values[name] for name in values})
            assert found.num_classes == 4
            assert found.unknown == {}
            assert accounted(found)
            assert set(found.leftovers) == {
                "counters and random generators",
                "descriptions of objects",
                "optimizer slots",
                *({"metrics"} if saved == "SavedModel" else ()),
            }
            # Two moments of each of 83 variables, and the optimizer's own numbers.
            assert 2 * 83 < len(found.leftovers["optimizer slots"]) <= 2 * 83 + 5
            assert found.image_size == (64 if saved == "SavedModel" else None)

    @pytest.mark.slow
    def test_it_predicts_as_the_model_did(self, trained: Callable[[str], Trained]) -> None:
        import tf_keras

        folder = trained("tf_keras").folder / "SavedModel"
        images = np.random.default_rng(1).uniform(size=(3, 64, 64, 3)).astype(np.float32)
        theirs = tf_keras.models.load_model(folder).predict(images, verbose=0)
        ours = tf.nn.softmax(mobilenets.load(folder)(images)).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, module: Callable[..., Path]) -> Callable[[int | None], Any]:
        import tensorflow_hub as hub

        return functools.cache(lambda classes: hub.load(str(module("mobilenet_v1", classes))))

    @pytest.mark.parametrize("case", ["two layers", "no bias", "on the logits"])
    def test_other_heads_are_left_out_by_name(
        self, loaded: Callable[[int | None], Any], tmp_path: Path, case: str
    ) -> None:
        from tf_keras.layers import Dense

        head = {
            "two layers": [Dense(256), Dense(4)],
            "no bias": [Dense(4, use_bias=False)],
            "on the logits": [Dense(4)],
        }[case]
        classes = 7 if case == "on the logits" else None
        with_head(loaded(classes), *head).save_weights(tmp_path / "m" / "ckpt")
        with weights.open(tmp_path / "m") as found:
            assert found.num_classes == classes
            layers = found.leftovers["layers outside the network"]
            assert f"layer_with_weights-1/kernel{KEY}" in layers
            assert len(layers) == {"two layers": 4, "no bias": 1, "on the logits": 2}[case]
            assert accounted(found)
            found.values(found.variant("mobilenet_v1_025_64"))

    @pytest.mark.parametrize(("classes", "width"), [(None, 255), (5, 256)])
    def test_a_dense_layer_that_is_not_on_the_features(
        self, tmp_path: Path, classes: int | None, width: int
    ) -> None:
        """As its kernel's width shows, or since the network has logits of its own."""
        objects = tf.train.Checkpoint()
        values = network("mobilenet_v1", 0.25, classes)
        objects.net = [tf.Variable(value, name=name) for name, value in values.items()]
        objects.head = tf.train.Checkpoint(
            kernel=tf.Variable(tf.zeros([width, 4])), bias=tf.Variable(tf.zeros([4]))
        )
        with weights.open(objects.save(tmp_path / "ckpt")) as found:
            assert found.num_classes == classes
            left_out = found.leftovers["layers outside the network"]
            assert sorted(left_out) == [f"head/bias{KEY}", f"head/kernel{KEY}"]
            assert equal(found.values(Variant("mobilenet_v1", 0.25, 64)), values)

    def test_kernel_and_bias_of_two_layers(self, tmp_path: Path) -> None:
        objects = tf.train.Checkpoint()
        values = network("mobilenet_v1", 0.25)
        objects.net = [tf.Variable(value, name=name) for name, value in values.items()]
        objects.one = tf.train.Checkpoint(kernel=tf.Variable(tf.zeros([256, 4])))
        objects.two = tf.train.Checkpoint(bias=tf.Variable(tf.zeros([4])))
        with weights.open(objects.save(tmp_path / "ckpt")) as found:
            assert found.num_classes is None
            assert len(found.leftovers["layers outside the network"]) == 2

    def test_metrics_of_any_state(self, tmp_path: Path) -> None:
        """Keras keeps compiled metrics there; AUC's state is a vector for each kind of answer."""
        objects = tf.train.Checkpoint()
        values = network("mobilenet_v1", 0.25)
        objects.net = [tf.Variable(value, name=name) for name, value in values.items()]
        positives = tf.Variable(tf.zeros([200]), name="true_positives")
        objects.keras_api = tf.train.Checkpoint(metrics=[positives])
        objects.mean = tf.train.Checkpoint(total=tf.Variable(0.0, name="total"))
        with weights.open(objects.save(tmp_path / "ckpt")) as found:
            keys = [f"keras_api/metrics/0{KEY}", f"mean/total{KEY}"]
            assert sorted(found.leftovers["metrics"]) == keys

    def test_our_module_in_a_checkpoint(
        self, module: Callable[..., Path], loaded: Callable[[int | None], Any], tmp_path: Path
    ) -> None:
        folder = module("mobilenet_v1", 7)
        objects = {"net": loaded(7), "step": tf.Variable(7)}
        path = tf.train.Checkpoint(**objects).save(tmp_path / "ckpt")
        model = mobilenets.load(folder)
        with weights.open(path) as found:
            expected = values_of(model)
            assert equal(found.values(model.variant), expected)
            assert accounted(found)


class TestOurOwnInKeras3:
    """`tf.train.Checkpoint` of the library's models and of models around them."""

    @pytest.mark.parametrize("variant", ["mobilenet_v1_025_64", "mobilenet_v2_035_64"])
    def test_alone(self, tmp_path: Path, randomise: Callable, variant: str) -> None:
        model = randomise(mobilenets.MobileNet(variant, 3))
        path = tf.train.Checkpoint(model=model).write(tmp_path / "ckpt")
        found = mobilenets.load(path, variant=variant)
        assert equal(values_of(found), values_of(model))

    def test_trained_with_a_head(self, tmp_path: Path, randomise: Callable) -> None:
        """The optimizer holds the variables that it trains, and is on the shortest path to them."""
        network = randomise(mobilenets.MobileNet("mobilenet_v1_025_64"))
        dense = keras.layers.Dense(2)
        model = keras.Sequential([keras.Input((64, 64, 3)), network, dense])
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        objects = {"model": model, "optimizer": model.optimizer, "step": tf.Variable(3)}
        with weights.open(tf.train.Checkpoint(**objects).write(tmp_path / "ckpt")) as found:
            values = found.values(found.variant("mobilenet_v1_025_64"))
            assert values.pop(f"{LOGITS}/weights").tobytes() == dense.kernel.numpy().tobytes()
            assert values.pop(f"{LOGITS}/biases").tobytes() == dense.bias.numpy().tobytes()
            assert equal(values, values_of(network))
            # Two moments of each of 83 variables, iterations and learning rate.
            assert len(found.leftovers["optimizer slots"]) == 2 * 83 + 2
            assert accounted(found)

    @pytest.mark.parametrize("classes", first_fast([None, 3]))
    def test_exported_by_keras(self, tmp_path: Path, randomise: Callable, classes: int) -> None:
        """`model.export` lists every variable twice."""
        network = randomise(mobilenets.MobileNet("mobilenet_v1_025_32", classes))
        model = network
        expected = values_of(network)
        if classes is None:
            dense = keras.layers.Dense(2)
            model = keras.Sequential([keras.Input((32, 32, 3)), network, dense])
            kernel, bias = dense.get_weights()
            expected |= {f"{LOGITS}/weights": kernel[None, None], f"{LOGITS}/biases": bias}
        model(np.zeros((1, 32, 32, 3), np.float32))
        model.export(tmp_path / "exported", verbose=False)
        loaded = mobilenets.load(tmp_path / "exported")
        assert loaded.num_classes == (classes or 2)
        assert equal(values_of(loaded), expected)
        with weights.open(tmp_path / "exported") as found:
            assert accounted(found)

    @pytest.mark.slow
    def test_two_exported_by_keras(self, tmp_path: Path) -> None:
        inputs = keras.Input((32, 32, 3))
        two = [mobilenets.MobileNet("mobilenet_v1_025_32", name=name)(inputs) for name in "ab"]
        keras.Model(inputs, two).export(tmp_path / "exported", verbose=False)
        with refused("holds several MobileNets"):
            mobilenets.load(tmp_path / "exported")


class TestErrors:
    def test_averages_cannot_be_given(self, module: Callable[..., Path]) -> None:
        with (
            refused("holds no moving averages of variables; take the raw"),
            weights.open(module("mobilenet_v1"), "averages"),
        ):
            pass

    def test_every_fault_is_listed(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25, 3)
        del values["MobilenetV1/Conv2d_0/weights"]
        values["MobilenetV1/Conv2d_1_depthwise/BatchNorm/beta"] = np.zeros(9, np.float32)
        values["MobilenetV1/Conv2d_99/weights"] = np.zeros(2, np.float32)
        values["MobilenetV1/Conv2d_0/kernel"] = np.zeros(3, np.float32)
        folder = hub_module(tmp_path / "module", values)
        with weights.open(folder) as found, pytest.raises(WeightsError) as error:
            found.values(Variant("mobilenet_v1", 0.25, 64))
        text = str(error.value)
        assert "4 variables" in text
        assert "Conv2d_0/weights: missing, expected [3, 3, 3, 8]" in text
        assert "BatchNorm/beta: expected [8], found [9]" in text
        assert "Conv2d_99/weights: left over, found [2]" in text
        assert f"variables/{sorted_index(folder, 'Conv2d_0/kernel')}{KEY}: left over" in text

    def test_values_that_are_not_finite(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25)
        values["MobilenetV1/Conv2d_0/weights"][0, 0, 0, :2] = np.nan
        with (
            weights.open(hub_module(tmp_path / "module", values)) as found,
            pytest.raises(WeightsError, match="2 of 216 values NaN or infinite"),
        ):
            found.values(Variant("mobilenet_v1", 0.25, 64))

    def test_v3(self, tmp_path: Path) -> None:
        values = constants(["MobilenetV3/Conv/weights", "MobilenetV3/Conv/BatchNorm/gamma"])
        with refused("this is MobileNet V3; only V1 and V2 are supported"):
            weights.open(hub_module(tmp_path / "module", values)).__enter__()

    def test_v3_of_keras_applications(self, tmp_path: Path) -> None:
        values = constants(["Conv/kernel", "expanded_conv/squeeze_excite/Conv/kernel"])
        with refused("this is MobileNet V3; only V1 and V2 are supported"):
            weights.open(hub_module(tmp_path / "module", values)).__enter__()

    def test_v3_of_slim(self, tmp_path: Path) -> None:
        path = written(tmp_path, "m.ckpt", constants(["MobilenetV3/Conv/weights"]))
        with refused("this is MobileNet V3; only V1 and V2 are supported"):
            weights.open(path).__enter__()

    def test_no_mobilenet(self, tmp_path: Path) -> None:
        values = constants(["dense/kernel", "dense/bias"])
        with refused(r"is not a MobileNet's .*expected variables called .*, found dense/…"):
            weights.open(hub_module(tmp_path / "module", values)).__enter__()

    def test_two_mobilenets(self, tmp_path: Path) -> None:
        name = "MobilenetV1/Conv2d_0/weights"
        objects = tf.train.Checkpoint(
            a=tf.Variable([1.0], name=name), b=tf.Variable([2.0], name=name)
        )
        with refused(rf"holds several MobileNets: {name} is in a/.* and in b/"):
            weights.open(objects.save(tmp_path / "ckpt")).__enter__()

    @pytest.mark.parametrize("number", [-1, -5, -(2**31), 2**31 - 1])
    def test_objects_that_are_not_there(self, number: int, tmp_path: Path) -> None:
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        graph.nodes.add().children.add(node_id=number, local_name="child")
        values = {tf2_module._OBJECT_GRAPH: np.array(graph.SerializeToString(), object)}
        with refused("is not a MobileNet's"):
            weights.open(written(tmp_path, "ckpt", values)).__enter__()

    def test_objects_within_objects_take_no_room(self, tmp_path: Path) -> None:
        """The names along all the paths would be 50 gigabytes."""
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        for number in range(10_000):
            graph.nodes.add().children.add(node_id=number + 1, local_name="n" * 1000)
        values = {tf2_module._OBJECT_GRAPH: np.array(graph.SerializeToString(), object)}
        tracemalloc.start()
        try:
            with refused("is not a MobileNet's"):
                weights.open(written(tmp_path, "ckpt", values)).__enter__()
            assert tracemalloc.get_traced_memory()[1] < 200 << 20
        finally:
            tracemalloc.stop()

    def test_damaged_object_graph(self, tmp_path: Path) -> None:
        values = {tf2_module._OBJECT_GRAPH: np.array(b"\x0a\xff no graph", object)}
        with refused("the object graph is damaged"):
            weights.open(written(tmp_path, "ckpt", values)).__enter__()

    def test_object_graph_of_other_variables(self, tmp_path: Path) -> None:
        from tensorflow.core.protobuf import trackable_object_graph_pb2

        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        graph.nodes.add().attributes.add(name="VARIABLE_VALUE", checkpoint_key=f"x{KEY}")
        values = {tf2_module._OBJECT_GRAPH: np.array(graph.SerializeToString(), object)}
        with refused(f"refers to missing variables: x{KEY}"):
            weights.open(written(tmp_path, "ckpt", values)).__enter__()

    @pytest.mark.parametrize("nodes", [0, 1])
    def test_object_graph_of_objects_that_are_not_there(self, tmp_path: Path, nodes: int) -> None:
        from tensorflow.core.protobuf import trackable_object_graph_pb2

        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        for _ in range(nodes):
            graph.nodes.add().children.add(node_id=7, local_name="x")
        values = {tf2_module._OBJECT_GRAPH: np.array(graph.SerializeToString(), object)}
        with refused("is not a MobileNet's .*found no such scope"):
            weights.open(written(tmp_path, "ckpt", values)).__enter__()

    def test_damaged_saved_model(self, tmp_path: Path) -> None:
        folder = hub_module(tmp_path / "module", network("mobilenet_v1", 0.25))
        (folder / "saved_model.pb").write_bytes(b"\xff\xff")
        with refused("saved_model.pb is damaged"):
            weights.open(folder).__enter__()

    @pytest.mark.parametrize(("suffix", "message"), [(INDEX, "index"), (DATA, "data file")])
    def test_missing_files(self, tmp_path: Path, suffix: str, message: str) -> None:
        folder = hub_module(tmp_path / "module", network("mobilenet_v1", 0.25))
        (folder / "variables" / f"variables{suffix}").unlink()
        with refused(f"{message} .*is missing"):
            weights.open(folder).__enter__()

    def test_truncated_data(self, tmp_path: Path) -> None:
        folder = hub_module(tmp_path / "module", network("mobilenet_v1", 0.25))
        data = folder / "variables" / f"variables{DATA}"
        data.write_bytes(data.read_bytes()[:1000])
        with refused("the data file is incomplete or damaged"):
            weights.open(folder).__enter__()


def sorted_index(folder: Path, name: str) -> int:
    """Where a variable lies in a module's list."""
    from mobilenets.weights.bundle import Checkpoint, find

    saved = tf2_module._saved(Checkpoint(find(folder)))
    (key,) = (each.key for each in saved if each.name.endswith(name))
    return int(key.split("/")[1])


class TestCommand:
    @pytest.mark.slow
    def test_inspect_and_checkpoint(
        self, tmp_path: Path, converted: Callable[..., mobilenets.MobileNet]
    ) -> None:
        values = plausible(network("mobilenet_v1", 0.25, 3))
        folder = hub_module(tmp_path / "module", values, 64, ("a", "b", "c"))
        model = converted(folder, "mobilenet_v1_025_64")
        assert model.class_names == ("a", "b", "c")
        assert equal(values_of(model), values)

    def test_one_line_and_exit_2(
        self, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
    ) -> None:
        folder = hub_module(tmp_path / "module", constants(["MobilenetV3/Conv/weights"]))
        code, _, errors = command("inspect", folder)
        assert code == 2
        assert "this is MobileNet V3" in errors
        assert len(errors.strip().splitlines()) == 1
