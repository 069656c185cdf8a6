"""Frozen graphs: the constants that were variables, and what else is constant in a graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from closeness import equal, values_of
from refusals import refused
from slim_checkpoints import constants, network, packed
from tensorflow.core.framework import graph_pb2
from weight_formats import frozen_graph, plausible

import mobilenets
from mobilenets import weights
from mobilenets.variants import Variant
from mobilenets.weights import WeightsError

V1 = Variant("mobilenet_v1", 0.25, 96)
# As they stand in the graphs of TensorFlow 1.
OPERATIONS = {
    "MobilenetV1/MobilenetV1/Conv2d_0/BatchNorm/batchnorm/add/y": np.float32(1e-3),
    "MobilenetV1/MobilenetV1/Conv2d_0/BatchNorm/Const": np.zeros(0, np.float32),
    "MobilenetV1/Predictions/Reshape/shape": np.array([-1, 5], np.int32),
    "mul/y": np.float32(2),
}


class TestFrozenGraph:
    @pytest.mark.parametrize("name", ["frozen.pb", "anything", "model.ckpt"])
    def test_by_content(self, tmp_path: Path, name: str) -> None:
        values = network("mobilenet_v1", 0.25, 5)
        path = frozen_graph(tmp_path / name, values, 96, more=OPERATIONS)
        with weights.open(path) as found:
            assert found.variant() == V1
            assert found.num_classes == 5
            assert equal(found.values(V1), values)
            assert found.leftovers == {"constants of operations": list(OPERATIONS)}
            assert found.unknown == {}
            assert found.entries == len(values) + len(OPERATIONS)
            assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()

    @pytest.mark.parametrize(
        "content",
        [b"\x0a", b"\x0a\x05\x0a\x03x", b"\x0a\x06\x0a\x01x\x12\x02C-", b"\x0a\x02\x12\x00"],
    )
    def test_what_only_begins_alike(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "notes").write_bytes(content)
        with refused("notes is not a checkpoint; expected"):
            weights.open(tmp_path / "notes").__enter__()

    def test_v2(self, tmp_path: Path) -> None:
        values = network("mobilenet_v2", 0.35)
        with weights.open(frozen_graph(tmp_path / "frozen.pb", values)) as found:
            assert found.image_size is None
            variant = found.variant(image_size=96)
            assert variant == Variant("mobilenet_v2", 0.35, 96)
            assert equal(found.values(variant), values)

    def test_quantized(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25, 5, quantized=True)
        values |= {name: -np.abs(value) for name, value in values.items() if name.endswith("/min")}
        values |= {name: np.abs(value) for name, value in values.items() if name.endswith("/max")}
        with weights.open(frozen_graph(tmp_path / "frozen.pb", values, 96)) as found:
            assert found.variant().quantized
            assert equal(found.values(found.variant()), values)

    def test_what_tensorflow_freezes(self, tmp_path: Path) -> None:
        """With TensorFlow's own freezing, of a graph that it wrote."""
        values = constants(["MobilenetV1/Conv2d_0/weights", "MobilenetV1/Conv2d_0/BatchNorm/beta"])
        with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
            reads = [
                tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
                for name, value in values.items()
            ]
            total = tf.add_n(reads, name="total")
            session.run(tf.compat.v1.global_variables_initializer())
            frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), [total.op.name]
            )
        (tmp_path / "frozen").write_bytes(frozen.SerializeToString())
        with weights.open(tmp_path / "frozen") as found:
            assert found.keys.keys() == values.keys()
            assert equal(found.read(values), values)

    def test_a_head_is_left_out_by_name(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25, 5)
        head = {
            "final_training_ops/weights/final_weights": np.zeros((5, 2), np.float32),
            "final_training_ops/biases/final_biases": np.zeros(2, np.float32),
        }
        with weights.open(frozen_graph(tmp_path / "graph.pb", {**values, **head}, 96)) as found:
            assert found.leftovers == {"layers outside the network": list(head)}
            assert equal(found.values(V1), values)
        # The same where an optimization has dropped what read them.
        with weights.open(frozen_graph(tmp_path / "g.pb", values, 96, more=head)) as found:
            assert found.leftovers == {"layers outside the network": list(head)}

    def test_in_an_archive(self, tmp_path: Path) -> None:
        path = frozen_graph(tmp_path / "frozen.pb", network("mobilenet_v1", 0.25), 96)
        with weights.open(packed(tmp_path / "graph.tgz", path)) as found:
            assert (found.file, found.variant()) == ("frozen.pb", V1)


class TestTheStrangersFile:
    def test_bit_equal_to_the_checkpoint(self, reference_data: Path) -> None:
        with weights.open(reference_data / "real/mobilenet_v1_1.0_224") as found:
            expected = found.values(found.variant())
        path = reference_data / "real/other_formats/retrained_graph.pb"
        with weights.open(path) as found:
            assert found.variant() == Variant("mobilenet_v1", 1.0, 224)
            assert equal(found.values(found.variant()), expected)
            assert found.num_classes == 1001
            assert found.leftovers["layers outside the network"] == [
                "final_training_ops/weights/final_weights",
                "final_training_ops/biases/final_biases",
            ]
            assert len(found.leftovers["constants of operations"]) == 28
            assert found.unknown == {}

    def test_outputs_as_tensorflow_runs_the_graph(
        self, reference_data: Path, random_images: Callable
    ) -> None:
        path = reference_data / "real/other_formats/retrained_graph.pb"
        definition = graph_pb2.GraphDef.FromString(path.read_bytes())
        images = random_images(1, 224)
        with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
            tf.import_graph_def(definition, name="")
            logits = graph.get_tensor_by_name("MobilenetV1/Logits/SpatialSqueeze:0")
            theirs = session.run(logits, {"input:0": 2 * images - 1})
        np.testing.assert_allclose(mobilenets.load(path)(images), theirs, atol=1e-4)


class TestErrors:
    def test_averages_cannot_be_given(self, tmp_path: Path) -> None:
        path = frozen_graph(tmp_path / "frozen.pb", network("mobilenet_v2", 0.35))
        with refused("frozen with one value of each variable"):
            weights.open(path, "averages").__enter__()

    @pytest.mark.parametrize(
        "content",
        [b"", b"a graph", b"\x0a\xff\xff", b"\x89HDF\r\n\x1a\n", b"\x08\x01\x12\x00"],
        ids=["empty", "text", "truncated", "hdf5", "saved-model"],
    )
    def test_a_pb_that_is_no_graph(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "frozen.pb").write_bytes(content)
        with refused(r"frozen\.pb is damaged or not a GraphDef"):
            weights.open(tmp_path / "frozen.pb").__enter__()

    def test_truncated(self, tmp_path: Path) -> None:
        path = frozen_graph(tmp_path / "frozen", network("mobilenet_v1", 0.25))
        path.write_bytes(path.read_bytes()[:-100])
        with refused("is damaged or not a GraphDef"):
            weights.open(path).__enter__()

    def test_a_saved_models_graph(self, module: Callable[..., Path]) -> None:
        with refused(r"saved_model\.pb is a SavedModel's graph, .*: name its folder"):
            weights.open(module("mobilenet_v1") / "saved_model.pb").__enter__()

    def test_no_mobilenet(self, tmp_path: Path) -> None:
        path = frozen_graph(tmp_path / "frozen.pb", constants(["InceptionV3/Conv/weights"]))
        with refused(r"is not a MobileNet's frozen graph: .*, found InceptionV3/…"):
            weights.open(path).__enter__()

    def test_v3(self, tmp_path: Path) -> None:
        path = frozen_graph(tmp_path / "frozen.pb", constants(["MobilenetV3/Conv/weights"]))
        with refused("this is MobileNet V3; only V1 and V2 are supported"):
            weights.open(path).__enter__()

    def test_folded_batch_norms(self, tmp_path: Path) -> None:
        values = {
            name: value
            for name, value in network("mobilenet_v1", 0.25, 5).items()
            if "/BatchNorm/" not in name
        }
        path = frozen_graph(tmp_path / "frozen.pb", {}, 96, more=values)
        with refused("batch norm is folded into its convolutions, .*; use the checkpoint"):
            weights.open(path).__enter__()

    def test_not_frozen(self, tmp_path: Path) -> None:
        graph = graph_pb2.GraphDef()
        graph.node.add(name="MobilenetV1/Conv2d_0/weights", op="VariableV2")
        (tmp_path / "graph.pb").write_bytes(graph.SerializeToString())
        with refused("holds no constants of MobilenetV1/…: it is not frozen"):
            weights.open(tmp_path / "graph.pb").__enter__()

    @pytest.fixture
    def biases(self, tmp_path: Path) -> Callable[[Callable], Path]:
        """`biases(change)`: a graph with a changed constant, the biases of the logits."""

        def biases(change: Callable[[graph_pb2.GraphDef, Any], None]) -> Path:
            path = frozen_graph(tmp_path / "frozen.pb", network("mobilenet_v1", 0.25, 5))
            graph = graph_pb2.GraphDef.FromString(path.read_bytes())
            change(graph, next(n for n in graph.node if n.op == "Const" and "biases" in n.name))
            path.write_bytes(graph.SerializeToString())
            return path

        return biases

    def test_a_name_twice(self, biases: Callable) -> None:
        with refused("holds several constants called MobilenetV1/Logits/Conv2d_1c_1x1/biases"):
            weights.open(biases(lambda graph, node: graph.node.add().CopyFrom(node))).__enter__()

    def test_a_constant_without_values_is_not_zeros(self, biases: Callable) -> None:
        path = biases(lambda graph, node: node.attr["value"].tensor.ClearField("tensor_content"))
        with weights.open(path) as found, refused("biases has no values for its dtype and shape"):
            found.values(V1)

    def test_values_of_another_kind(self, biases: Callable) -> None:
        def resources(graph: graph_pb2.GraphDef, node: Any) -> None:
            node.attr["value"].tensor.dtype = tf.variant.as_datatype_enum

        with weights.open(biases(resources)) as found, refused("biases does not fit its dtype"):
            found.values(V1)

    @pytest.mark.parametrize(
        ("classes", "message"),
        [(10**6, "biases has no values|weights has no values"), (10**9, "claims 1000000000 clas")],
        ids=["gigabyte", "terabyte"],
    )
    def test_one_value_does_not_fill_a(self, classes: int, message: str, tmp_path: Path) -> None:
        path = frozen_graph(tmp_path / "frozen.pb", network("mobilenet_v1", 0.25, 5))
        graph = graph_pb2.GraphDef.FromString(path.read_bytes())
        for node in graph.node:
            if node.op == "Const" and "/Logits/" in node.name:
                tensor = node.attr["value"].tensor
                tensor.tensor_shape.dim[-1].size = classes
                tensor.ClearField("tensor_content")
                tensor.float_val.append(1)
        path.write_bytes(graph.SerializeToString())
        with weights.open(path) as found, refused(message):
            found.values(V1)

    @pytest.mark.parametrize("variant", [None, V1], ids=["unknown", "known"])
    def test_thousands_of_dimensions_are_not_listed(
        self, variant: Variant | None, tmp_path: Path
    ) -> None:
        path = frozen_graph(tmp_path / "frozen.pb", network("mobilenet_v1", 0.25, 5))
        graph = graph_pb2.GraphDef.FromString(path.read_bytes())
        node = next(node for node in graph.node if node.name == "MobilenetV1/Conv2d_0/weights")
        for _ in range(3000):
            node.attr["value"].tensor.tensor_shape.dim.add(size=1)
        path.write_bytes(graph.SerializeToString())
        with weights.open(path) as found, pytest.raises(WeightsError) as error:
            found.values(found.variant(variant))
        assert "found [3, 3, 3, 8, 1, 1, 1, 1, … of 3004]" in str(error.value)

    def test_a_file_that_no_graph_can_be(self, tmp_path: Path) -> None:
        with (tmp_path / "frozen.pb").open("wb") as file:
            file.truncate(1 << 40)
        with refused("larger than 2 GiB, which no GraphDef can be"):
            weights.open(tmp_path / "frozen.pb").__enter__()

    def test_every_fault_is_listed(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25)
        del values["MobilenetV1/Conv2d_0/weights"]
        values["MobilenetV1/Conv2d_0/BatchNorm/beta"] = np.zeros(9, np.float32)
        values["MobilenetV1/Conv2d_0/extra"] = np.float32(1)
        more = {"MobilenetV1/Conv2d_0/kernel": np.zeros(3, np.float32)}
        path = frozen_graph(tmp_path / "frozen.pb", values, more=more)
        with weights.open(path) as found, pytest.raises(WeightsError) as error:
            found.values(V1)
        assert str(error.value).splitlines()[1:] == [
            "  MobilenetV1/Conv2d_0/weights: missing, expected [3, 3, 3, 8]",
            "  MobilenetV1/Conv2d_0/extra: left over, found []",
            "  MobilenetV1/Conv2d_0/kernel: left over, found [3]",
            "  MobilenetV1/Conv2d_0/BatchNorm/beta: expected [8], found [9]",
        ]

    def test_values_that_are_not_finite_float32(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25)
        values["MobilenetV1/Conv2d_0/weights"][0, 0, 0, 0] = np.inf
        values["MobilenetV1/Conv2d_0/BatchNorm/beta"] = np.zeros(8, np.float16)
        path = frozen_graph(tmp_path / "frozen.pb", values)
        with weights.open(path) as found, pytest.raises(WeightsError) as error:
            found.values(V1)
        assert "1 of 216 values NaN or infinite" in str(error.value)
        assert "found float16" in str(error.value)

    def test_forged_constants(self, tmp_path: Path) -> None:
        path = frozen_graph(tmp_path / "frozen.pb", network("mobilenet_v1", 0.25))
        graph = graph_pb2.GraphDef.FromString(path.read_bytes())
        (node,) = (each for each in graph.node if each.name == "MobilenetV1/Conv2d_0/weights")
        node.attr["value"].tensor.tensor_content = b"\0" * 7
        path.write_bytes(graph.SerializeToString())
        with (
            weights.open(path) as found,
            refused("Conv2d_0/weights does not fit its dtype and shape"),
        ):
            found.values(V1)
        node.attr["value"].tensor.dtype = 9999
        path.write_bytes(graph.SerializeToString())
        with (
            weights.open(path) as found,
            refused("Conv2d_0/weights does not fit its dtype"),
        ):
            found.values(V1)

    @pytest.mark.parametrize("name", ["model.tflite", "model.bin"])
    def test_lite_is_not_read_back(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
        with refused(
            f"{name} is a LiteRT model, which cannot be read back .*: "
            "use the checkpoint or the SavedModel that it was made from"
        ):
            weights.open(tmp_path / name).__enter__()

    def test_googles_own_lite(self, reference_data: Path) -> None:
        (path,) = (reference_data / "checkpoints_2018").rglob("*.tflite")
        with refused("is a LiteRT model, which cannot be read back"):
            mobilenets.load(path)


class TestCommand:
    @pytest.mark.slow
    def test_inspect_and_checkpoint(
        self, tmp_path: Path, converted: Callable[..., mobilenets.MobileNet]
    ) -> None:
        values = plausible(network("mobilenet_v1", 0.25, 3))
        path = frozen_graph(tmp_path / "frozen.pb", values, 64, more=OPERATIONS)
        model = converted(path, "mobilenet_v1_025_64")
        assert equal(values_of(model), values)

    @pytest.mark.parametrize("content", [b"\x1c\0\0\0TFL3", b"no graph"])
    def test_one_line_and_exit_2(
        self, tmp_path: Path, command: Callable[..., tuple[int, str, str]], content: bytes
    ) -> None:
        (tmp_path / "model.pb").write_bytes(content)
        code, _, errors = command("checkpoint", tmp_path / "model.pb", "--output", tmp_path / "m")
        assert code == 2
        assert len(errors.strip().splitlines()) == 1
        assert not (tmp_path / "m").exists()
