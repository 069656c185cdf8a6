"""A LiteRT model taken apart, and corrected part by part."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from convert.export import bias_correction, weight_rounding
from convert.export.litert_graph import LiteGraph
from convert.export.litert_run import LiteModel, LitePart

SIZE, CHANNELS, CLASSES = 8, 6, 4
KINDS = ("float32", "int8")
both_kinds = pytest.mark.parametrize("kind", KINDS)


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {
        "first": (3, 3, 3, CHANNELS),
        "depthwise": (3, 3, CHANNELS, 1),
        "last": (1, 1, CHANNELS, CHANNELS),
        "logits": (CHANNELS, CLASSES),
    }
    return {name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def tensors(images: np.ndarray) -> dict[str, np.ndarray]:
    """What the network computes, by layer: like a small MobileNet V2, with a shortcut."""
    kernels = weights()
    bias = np.linspace(-0.5, 1, CHANNELS, dtype=np.float32)
    first = tf.nn.relu6(tf.nn.conv2d(images, kernels["first"], 2, "SAME") + bias)
    depthwise = tf.nn.depthwise_conv2d(first, kernels["depthwise"], [1, 1, 1, 1], "SAME")
    depthwise = tf.nn.relu6(depthwise + bias)
    # Biases of 0 are none: the converter leaves them out of the logits.
    last = first + (tf.nn.conv2d(depthwise, kernels["last"], 1, "SAME") + bias)
    features = tf.reduce_mean(last, [1, 2])
    logits = tf.matmul(features, kernels["logits"])
    return {"first": first, "depthwise": depthwise, "last": last, "logits": logits}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(5, SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def content(images: np.ndarray) -> Callable[[str], bytes]:
    spec = tf.TensorSpec([1, SIZE, SIZE, 3], tf.float32)
    function = tf.function(lambda x: tensors(x)["logits"]).get_concrete_function(spec)
    made = {}
    for kind in KINDS:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
        if kind == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        made[kind] = converter.convert()
    return made.__getitem__


def outputs(content: bytes, images: np.ndarray) -> np.ndarray:
    model = LiteModel(content)
    return np.stack([model.run(image)[0] for image in images])


def test_everything_with_a_kernel_is_found_in_order(content: Callable) -> None:
    found = LiteGraph(content("float32")).convolutions
    assert [each.depthwise for each in found] == [False, True, False, False]
    assert [each.dense for each in found] == [False, False, False, True]
    first, depthwise, last, logits = weights().values()
    for convolution, kernel in zip(
        found,
        (
            first.transpose(3, 0, 1, 2),
            depthwise.transpose(3, 0, 1, 2),
            last.transpose(3, 0, 1, 2),
            logits.T,
        ),
        strict=True,
    ):
        np.testing.assert_allclose(convolution.kernel, kernel, rtol=1e-6)


def test_kernels_of_integers_are_read_as_what_they_mean(content: Callable) -> None:
    exact, rounded = (LiteGraph(content(kind)).convolutions for kind in KINDS)
    for one, other in zip(exact, rounded, strict=True):
        difference = np.abs(one.kernel - other.kernel).max()
        assert 0 < difference < np.abs(one.kernel).max() / 200


@both_kinds
def test_a_model_until_an_output_computes_it(
    kind: str, content: Callable, images: np.ndarray
) -> None:
    """After the shortcut, that is, and without what follows."""
    graph = LiteGraph(content(kind))
    expected = tensors(images)
    for convolution, name in zip(graph.convolutions, expected, strict=True):
        found = outputs(graph.until([convolution.output]), images)
        value = np.asarray(expected[name])
        share = 1e-5 if kind == "float32" else 0.03
        np.testing.assert_allclose(found, value, rtol=0, atol=share * np.abs(value).max())
    first, *_, logits = graph.convolutions
    shorter = LiteGraph(graph.until([first.output]))
    assert len(shorter.graph.operators) < len(graph.graph.operators)
    # Of an integer model's last operator, integers become floats.
    assert (logits.output == graph.graph.outputs[0]) == (kind == "float32")
    both = LiteModel(graph.until([logits.output, first.output])).run(images[0])
    assert [each.shape[-1] for each in both] == [CLASSES, CHANNELS]


def ends_of_parts(graph: LiteGraph) -> list[int]:
    """From one convolution's output to the next, and from the last but one to the end."""
    stops = [graph.position(convolution.output) + 1 for convolution in graph.convolutions[:-1]]
    return [0, *stops, len(graph.graph.operators)]


@both_kinds
def test_parts_one_after_another_are_the_whole(
    kind: str, content: Callable, images: np.ndarray
) -> None:
    graph = LiteGraph(content(kind))
    values = {graph.graph.inputs[0]: images[:1]}
    for start, stop in itertools.pairwise(ends_of_parts(graph)):
        part = graph.between(start, stop)
        found = LitePart(part.content).run([values[each] for each in part.inputs])
        values.update(zip(part.outputs, found, strict=True))
    np.testing.assert_array_equal(
        values[graph.graph.outputs[0]], outputs(content(kind), images[:1])
    )


def test_a_part_takes_and_gives_what_others_need(content: Callable) -> None:
    graph = LiteGraph(content("float32"))
    first, depthwise, last, logits = (each.output for each in graph.convolutions)
    ends = ends_of_parts(graph)
    parts = [graph.between(*pair) for pair in itertools.pairwise(ends)]
    assert [part.outputs for part in parts] == [(first,), (depthwise,), (last,), (logits,)]
    # The shortcut goes past the depthwise convolution.
    assert [set(part.inputs) for part in parts[1:]] == [{first}, {first, depthwise}, {last}]
    assert {first, depthwise} <= graph.needed(ends[2])
    assert first not in graph.needed(ends[3])
    assert graph.needed(ends[4]) == {logits}


def test_a_part_has_its_own_weights_alone(content: Callable) -> None:
    graph = LiteGraph(content("float32"))
    names = weights()
    pairs = itertools.pairwise(ends_of_parts(graph))
    for (start, stop), name in zip(pairs, names, strict=True):
        part = graph.between(start, stop).content
        held = [
            other
            for other, kernel in names.items()
            if np.float32(kernel.ravel()[0]).tobytes() in part
        ]
        assert held == [name]


@both_kinds
def test_a_bias_is_shifted(kind: str, content: Callable, images: np.ndarray) -> None:
    """By as much as said, or the nearest integer; in logits that have none, too."""
    for position, width in ((2, CHANNELS), (3, CLASSES)):
        graph = LiteGraph(content(kind))
        convolution = graph.convolutions[position]
        missing = convolution.operator.inputs[2] == -1
        before = outputs(graph.until([convolution.output]), images[:1])
        # Towards 0: outputs of integer models have ranges.
        shift = np.linspace(0.1, 0.2, width) * -np.sign(before.reshape(-1, width).mean(0))
        convolution.shift_bias(shift)
        after = outputs(graph.until([convolution.output]), images[:1])
        moved = (after - before).reshape(-1, width).mean(0)
        # And steps.
        tolerance = 1e-5 if kind == "float32" else 0.05
        np.testing.assert_allclose(moved, shift, rtol=0, atol=tolerance)
        dtype = schema.TensorType.FLOAT32 if kind == "float32" else schema.TensorType.INT32
        assert graph.graph.tensors[convolution.operator.inputs[2]].type == dtype
        assert missing == (position == 3)
        LiteModel(graph.packed()).run(images[0])


def test_a_bias_beyond_int32_is_the_outermost_one(content: Callable) -> None:
    """It would come back with the other sign."""
    graph = LiteGraph(content("int8"))
    like = graph.graph.tensors[graph.convolutions[0].operator.inputs[2]]
    assert like.type == schema.TensorType.INT32
    limits = np.iinfo(np.int32)
    steps = np.array([-(2.0**40), limits.min, -5, 5, limits.max, 2.0**40])
    scale = np.asarray(like.quantization.scale, np.float64)
    position = graph.add_constant(like, steps * scale)
    found = graph.constant(graph.graph.tensors[position]) / scale
    np.testing.assert_allclose(found, np.clip(steps, limits.min, limits.max), rtol=1e-6)


def test_kernels_keep_their_steps(content: Callable, images: np.ndarray) -> None:
    graph = LiteGraph(content("int8"))
    for convolution in graph.convolutions[:3]:
        kernel = convolution.kernel
        steps = convolution.steps
        convolution.store_kernel(0.7 * kernel)
        shape = (1, 1, 1, -1) if convolution.depthwise else (-1, 1, 1, 1)
        error = np.abs(convolution.kernel - 0.7 * kernel) / steps.reshape(shape)
        assert 0.1 < error.max() <= 0.5 + 1e-6
    LiteModel(graph.packed()).run(images[0])


def test_kernels_can_be_replaced(content: Callable, images: np.ndarray) -> None:
    graph, exact = LiteGraph(content("float32")), LiteGraph(content("float32"))
    convolution = graph.convolutions[1]
    convolution.set_kernel(2 * convolution.kernel)
    np.testing.assert_allclose(convolution.kernel, 2 * exact.convolutions[1].kernel)
    found = outputs(graph.until([convolution.output]), images)
    assert np.abs(found - tensors(images)["depthwise"]).max() > 0.1


def test_what_nothing_uses_is_not_packed(content: Callable, images: np.ndarray) -> None:
    graph = LiteGraph(content("float32"))
    old = graph.convolutions[0].kernel.astype(np.float32).tobytes()
    graph.convolutions[0].set_kernel(0 * graph.convolutions[0].kernel)
    packed = graph.packed()
    assert old in content("float32")
    assert old not in packed
    expected = outputs(graph.until(list(graph.graph.outputs)), images)
    np.testing.assert_array_equal(outputs(packed, images), expected)


def prefixes(graph: LiteGraph, reference: LiteGraph, images: np.ndarray) -> None:
    """The correction as it is defined: all up to a convolution runs anew for each."""
    for ours, theirs in zip(graph.convolutions, reference.convolutions, strict=True):
        if not ours.dense:
            inputs = outputs(graph.until([ours.input]), images)
            weight_rounding.round_kernel(ours, theirs.kernel, inputs, len(images))
            means = [
                outputs(each.until([tensor]), images).mean((0, 1, 2), dtype=np.float64)
                for each, tensor in ((reference, theirs.output), (graph, ours.output))
            ]
            ours.shift_bias(means[0] - means[1])


class TestCorrection:
    @pytest.fixture
    def expected(self) -> Sequence[np.ndarray]:
        return [np.full(count, 0.5) for count in (3, CHANNELS, CHANNELS, CHANNELS)]

    def test_it_is_that_of_all_that_lies_before(
        self, expected: Sequence, content: Callable, images: np.ndarray
    ) -> None:
        graph, wanted, plain = (LiteGraph(content("int8")) for _ in range(3))
        reference = LiteGraph(content("float32"))
        bias_correction.correct(graph, reference, expected, images)
        prefixes(wanted, reference, images)
        changed = 0
        for ours, theirs, before in zip(
            graph.convolutions[:-1], wanted.convolutions, plain.convolutions, strict=False
        ):
            found, value, old = (
                each.owner.constant(each._constant(2)) for each in (ours, theirs, before)
            )
            np.testing.assert_array_equal(found, value)
            np.testing.assert_array_equal(ours.kernel, theirs.kernel)
            changed += int((found != old).any() and (theirs.kernel != before.kernel).any())
        assert changed == 3

    def test_no_operator_runs_more_than_twice_for_an_image(
        self,
        expected: Sequence,
        content: Callable,
        images: np.ndarray,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """However deep the network is."""
        ran = []
        run = LitePart.run

        def counted(self: LitePart, values: Sequence[np.ndarray]) -> list[np.ndarray]:
            details = self._interpreter._get_ops_details()
            ran.extend(each["op_name"] for each in details if each["op_name"] != "DELEGATE")
            return run(self, values)

        monkeypatch.setattr(LitePart, "run", counted)
        graph = LiteGraph(content("int8"))
        before_logits = graph.position(graph.convolutions[2].output) + 1
        reference = LiteGraph(content("float32"))
        bias_correction.correct(graph, reference, expected, images)
        # The first makes integers of the images, and runs once.
        assert len(ran) == (2 * before_logits - 1) * len(images)

    def test_without_images_the_expected_means_count(
        self, expected: Sequence, content: Callable
    ) -> None:
        graph, plain = LiteGraph(content("int8")), LiteGraph(content("int8"))
        reference = LiteGraph(content("float32"))
        bias_correction.correct(graph, reference, expected, None)
        ours, before = graph.convolutions[1], plain.convolutions[1]
        lost = reference.convolutions[1].kernel - before.kernel
        moved = graph.constant(ours._constant(2)) - plain.constant(before._constant(2))
        np.testing.assert_allclose(moved, 0.5 * lost.sum((0, 1, 2)), rtol=0, atol=1e-3)


def test_a_batch_can_be_fixed() -> None:
    """The runtime for browsers runs no model with a free batch size."""
    spec = tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)
    function = tf.function(lambda x: tensors(x)["logits"]).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    graph = LiteGraph(converter.convert())
    assert [*graph.graph.tensors[graph.graph.inputs[0]].shapeSignature] == [-1, SIZE, SIZE, 3]
    graph.fix_batch()
    interpreter = Interpreter(model_content=graph.packed())
    for detail in interpreter.get_tensor_details():
        assert -1 not in detail["shape_signature"]
    (given,) = interpreter.get_input_details()
    assert list(given["shape"]) == [1, SIZE, SIZE, 3]
