"""Simulated quantization: names, numerics against the original graphs, training, the module.

The golden files come from TensorFlow without oneDNN. A value on the edge between two steps of a
rounding falls to one side or the other by the order of a sum, and what follows multiplies that:
with oneDNN's convolutions a few values in a hundred thousand differ in the first layers, and one
in three features at the end. So the comparison runs in a process without oneDNN, where it is that
of the same arithmetic, and with oneDNN only what no rounding may change is compared.
"""

from __future__ import annotations

import os
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
from tiers import first_fast

import mobilenets
from convert.references import simulation
from mobilenets import DepthwiseSeparable, InvertedResidual, MobileNet, Variant
from mobilenets.quantization import (
    ChannelQuantization,
    FakeQuantization,
    QuantizedConvBatchNorm,
    range_problems,
)

_PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = {
    "mobilenet_v1_0.25_128_quant": "checkpoints/mobilenet_v1_0.25_128_quant",
    "mobilenet_v1_0.5_160_quant": "checkpoints/mobilenet_v1_0.5_160_quant",
    "mobilenet_v1_0.75_192_quant": "checkpoints/mobilenet_v1_0.75_192_quant",
    "mobilenet_v1_1.0_224_quant": "checkpoints/mobilenet_v1_1.0_224_quant",
    "slim_random_mobilenet_v1_0.25_128_quant": "slim_random/mobilenet_v1_0.25_128_quant",
}
all_golden = pytest.mark.parametrize("name", GOLDEN)
VARIANT = "mobilenet_v1_025_64/quantops"
V2 = "mobilenet_v2_035_64/quantops"
INT8 = "mobilenet_v1_025_64/int8"
# Convolutions and full ones among them; the latter have a regularization loss.
CONVOLUTIONS = {VARIANT: (27, 14), V2: (52, 35), INT8: (27, 14)}


def read(folder: Path) -> dict[str, np.ndarray]:
    (index,) = folder.glob("*.index")
    reader = tf.train.load_checkpoint(str(index.with_suffix("")))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}


def computed(root: Path, name: str) -> dict[str, np.ndarray]:
    """What the model and the plain graph make of a golden file's images; in float32 features."""
    golden = np.load(root / "golden" / f"{name}.npz")
    values = read(root / GOLDEN[name])
    classes = 1001 if "logits" in golden else None
    variant = Variant.parse(name.removeprefix("slim_random_"))
    model = MobileNet(variant, classes)
    for key, variable in model.slim_variables.items():
        variable.assign(values[key])
    images = golden["images"].astype(np.float32) / 255
    outputs = model(images, return_endpoints=True)
    found = {"feature_vector": outputs["MobilenetV1/global_pool"].numpy()[:, 0, 0]}
    plain = simulation.outputs(variant, values, classes, images)
    found["plain feature_vector"] = plain["feature_vector"]
    if classes:
        found["logits"] = outputs["default"].numpy()
        found["plain logits"] = plain["classification"]
    return found


def compared(root: Path, name: str, found: dict[str, np.ndarray], which: str) -> np.ndarray:
    """Differences to the golden file, in steps of the last rounding."""
    golden = np.load(root / "golden" / f"{name}.npz")[which.removeprefix("plain ")]
    variant = Variant.parse(name.removeprefix("slim_random_"))
    classes = 1001 if "logits" in which else None
    step = simulation.step(variant, read(root / GOLDEN[name]), classes)
    return np.abs(found[which] - golden.reshape(found[which].shape)) / step


@pytest.fixture(scope="module")
def without_onednn(
    reference_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("without_onednn")
    paths = os.pathsep.join((str(_PROJECT), str(_PROJECT / "tests")))
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": paths}
    command = [sys.executable, __file__, str(reference_data), str(folder)]
    subprocess.run(command, check=True, env=environment, cwd=_PROJECT)
    return lambda name: dict(np.load(folder / f"{name}.npz"))


def test_every_quantized_golden_file_is_tested(reference_data: Path) -> None:
    names = {path.stem for path in (reference_data / "golden").glob("*_quant.npz")}
    assert names == set(GOLDEN)


@pytest.mark.slow
@all_golden
@pytest.mark.parametrize("whose", ["", "plain "], ids=["model", "plain-graph"])
def test_outputs(name: str, whose: str, without_onednn: Callable, reference_data: Path) -> None:
    found = without_onednn(name)
    features = compared(reference_data, name, found, f"{whose}feature_vector")
    assert features.mean() <= 0.2
    if f"{whose}logits" in found:
        logits = compared(reference_data, name, found, f"{whose}logits")
        assert logits.mean() <= 0.15
        assert logits.max() <= 4
        golden = np.load(reference_data / "golden" / f"{name}.npz")["logits"]
        np.testing.assert_array_equal(found[f"{whose}logits"].argmax(1), golden.argmax(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GOLDEN if "1.0" not in name])
def test_outputs_whatever_the_convolutions(name: str, reference_data: Path) -> None:
    found = computed(reference_data, name)
    assert compared(reference_data, name, found, "logits").max() <= 4
    golden = np.load(reference_data / "golden" / f"{name}.npz")["logits"]
    np.testing.assert_array_equal(found["logits"].argmax(1), golden.argmax(1))


@pytest.mark.parametrize("name", first_fast(GOLDEN))
def test_variables_are_the_checkpoints(name: str, reference_data: Path) -> None:
    shapes = {k: v.shape for k, v in read(reference_data / GOLDEN[name]).items()}
    shapes.pop("global_step", None)
    classes = 1001 if "MobilenetV1/Logits/Conv2d_1c_1x1/biases" in shapes else None
    model = MobileNet(name.removeprefix("slim_random_"), classes)
    assert {k: tuple(v.shape) for k, v in model.slim_variables.items()} == shapes


class TestNames:
    def test_ranges_follow_the_batch_norm(self) -> None:
        names = list(MobileNet(VARIANT, 3).slim_variables)
        assert len(names) == 27 * 9 + 6
        assert names[:9] == [
            *(
                f"MobilenetV1/Conv2d_0/{name}"
                for name in (
                    "weights",
                    "BatchNorm/gamma",
                    "BatchNorm/beta",
                    "BatchNorm/moving_mean",
                    "BatchNorm/moving_variance",
                )
            ),
            "MobilenetV1/MobilenetV1/Conv2d_0/weights_quant/min",
            "MobilenetV1/MobilenetV1/Conv2d_0/weights_quant/max",
            "MobilenetV1/MobilenetV1/Conv2d_0/act_quant/min",
            "MobilenetV1/MobilenetV1/Conv2d_0/act_quant/max",
        ]
        assert names[-6:] == [
            f"MobilenetV1/Logits/Conv2d_1c_1x1/{name}"
            for name in (
                "weights",
                "biases",
                "weights_quant/min",
                "weights_quant/max",
                "act_quant/min",
                "act_quant/max",
            )
        ]

    def test_tensorflow_names_are_slims(self) -> None:
        variables = MobileNet(VARIANT, 3).slim_variables
        assert [v.value.name.removesuffix(":0") for v in variables.values()] == list(variables)

    def test_the_trainable_ones_are_those_of_the_float_network(self) -> None:
        def trainable(variant: Variant) -> list[str]:
            return [k for k, v in MobileNet(variant, 3).slim_variables.items() if v.trainable]

        variant = Variant.parse(VARIANT)
        assert trainable(variant) == trainable(variant.unquantized)

    def test_a_block_without_a_scope_takes_the_keras_path(self) -> None:
        block = DepthwiseSeparable(4, name="block", quantized=True)
        block.build((None, 8, 8, 3))
        names = [name for c in block.convolutions for name in c.slim_variables]
        assert len(set(names)) == 18
        assert "block/depthwise/weights_quant/min" in names


class TestFakeQuantization:
    @pytest.mark.parametrize(("narrow", "levels"), [(False, 256), (True, 255)])
    @pytest.mark.parametrize("bounds", [(-1, 2), (0, 6), (-5, 0), (-0.3, 0.1)], ids=str)
    def test_levels(self, bounds: tuple[float, float], narrow: bool, levels: int) -> None:
        quantization = FakeQuantization(narrow_range=narrow)
        quantization.build()
        quantization.min.assign(bounds[0])
        quantization.max.assign(bounds[1])
        values = np.linspace(bounds[0] - 1, bounds[1] + 1, 5001, dtype=np.float32)
        rounded = quantization.rounded(values).numpy()
        step = (bounds[1] - bounds[0]) / (levels - 1)
        assert len(np.unique(rounded)) == levels
        assert 0 in rounded
        np.testing.assert_allclose(np.diff(np.unique(rounded)), step, rtol=1e-3)
        inside = np.clip(values, rounded.min(), rounded.max())
        assert np.abs(rounded - inside).max() <= 0.501 * step
        # Moving the range so that 0 is in it takes half a step at most.
        np.testing.assert_allclose([rounded.min(), rounded.max()], bounds, atol=0.501 * step)

    @pytest.mark.parametrize("before", [6.0, np.inf, np.nan], ids=str)
    def test_fit_takes_the_range_of_the_inputs_whatever_it_was(self, before: float) -> None:
        quantization = FakeQuantization()
        quantization.build()
        quantization.max.assign(before)
        quantization.fit(tf.constant([0.5, 2.0]))
        assert (quantization.min.numpy(), quantization.max.numpy()) == (0, 2)


class TestChannelQuantization:
    @pytest.mark.parametrize("shape", [(3, 3, 2, 4), (3, 3, 4, 1)], ids=["full", "depthwise"])
    def test_each_channel_has_its_own_symmetric_levels(self, shape: tuple[int, ...]) -> None:
        quantization = ChannelQuantization(name="weights_quant")
        quantization.build((None, 4))
        weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        by_channel = weights.reshape(-1, 4)
        by_channel *= [0.01, 1, 30, 0]
        quantization.fit(weights)
        widest = np.abs(by_channel).max(0)
        high, low = quantization.max.numpy(), quantization.min.numpy()
        np.testing.assert_allclose(high[:3], widest[:3])
        # Of a channel of zeros too: 8 bits cannot quantize an empty range.
        assert 0 < high[3] < 1e-3
        np.testing.assert_array_equal(low, -high)
        rounded = quantization.rounded(weights).numpy().reshape(-1, 4)
        steps = rounded / (high / 127)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        np.testing.assert_allclose(steps, by_channel / (high / 127), atol=0.501)
        np.testing.assert_allclose(np.abs(steps).max(0), [127, 127, 127, 0], atol=1e-3)


@pytest.fixture
def convolution() -> Callable[..., QuantizedConvBatchNorm]:
    def convolution(filters: int | None = 5, **kwargs) -> QuantizedConvBatchNorm:
        layer = QuantizedConvBatchNorm(filters, 3, **kwargs)
        layer.build((None, None, None, 4))
        random = np.random.default_rng(7)
        for variable in (layer.kernel, layer.batch_norm.beta, layer.batch_norm.moving_mean):
            variable.assign(random.normal(0, 0.4, variable.shape))
        for variable in (layer.batch_norm.gamma, layer.batch_norm.moving_variance):
            variable.assign(random.uniform(0.5, 2, variable.shape))
        return layer

    return convolution


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(8).uniform(0, 6, (3, 7, 6, 4)).astype(np.float32)


kinds = pytest.mark.parametrize("filters", [5, None], ids=["full", "depthwise"])


def folded(layer: QuantizedConvBatchNorm) -> tuple[tf.Tensor, tf.Tensor]:
    """Weights and bias with the moving statistics in them."""
    norm = layer.batch_norm
    factor = norm.gamma.value / tf.sqrt(norm.moving_variance.value + 1e-3)
    weights = layer.kernel.value * (factor[:, None] if layer.depthwise else factor)
    return weights, norm.beta.value - factor * norm.moving_mean.value


class TestTraining:
    @kinds
    @pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
    def test_ranges(self, filters, momentum: float, convolution, inputs: np.ndarray) -> None:
        layer = convolution(filters, activation=False)
        layer.act_quant.min.assign(-8)
        layer.act_quant.max.assign(4)
        layer(inputs, training=True, momentum=momentum)
        weights, bias = folded(layer)
        np.testing.assert_allclose(layer.weights_quant.min.numpy(), tf.reduce_min(weights), 1e-5)
        np.testing.assert_allclose(layer.weights_quant.max.numpy(), tf.reduce_max(weights), 1e-5)
        convolve = tf.nn.conv2d if filters else tf.nn.depthwise_conv2d
        rounded = layer.weights_quant.rounded(weights)
        outputs = convolve(inputs, rounded, [1, 1, 1, 1], "SAME") + bias
        for bound, old, batch in (
            (layer.act_quant.min, -8, tf.reduce_min(outputs)),
            (layer.act_quant.max, 4, tf.reduce_max(outputs)),
        ):
            expected = momentum * old + (1 - momentum) * float(batch)
            np.testing.assert_allclose(bound.numpy(), expected, rtol=1e-4)

    def test_ranges_contain_zero(self, convolution, inputs: np.ndarray) -> None:
        layer = convolution(activation=False)
        layer.kernel.assign(np.abs(layer.kernel.numpy()) + 1)
        layer.batch_norm.moving_mean.assign(np.full(5, -100))
        layer(inputs, training=True, momentum=0.0)
        assert layer.weights_quant.min.numpy() == layer.act_quant.min.numpy() == 0
        assert layer.act_quant.max.numpy() > 100

    def test_batch_norm_stays(self, convolution, inputs: np.ndarray) -> None:
        layer = convolution()
        before = [v.numpy() for v in layer.batch_norm.variables]
        layer(inputs, training=True, momentum=0.0)
        for variable, value in zip(layer.batch_norm.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)

    def test_training_and_inference_agree_once_ranges_are_there(
        self, convolution, inputs: np.ndarray
    ) -> None:
        layer = convolution()
        trained = layer(inputs, training=True, momentum=0.0)
        np.testing.assert_array_equal(layer(inputs), trained)
        assert len(np.unique(trained)) <= 256

    @pytest.mark.parametrize("frozen", ["inference", "trainable=False"])
    def test_what_is_frozen_keeps_its_ranges(
        self, frozen: str, convolution, inputs: np.ndarray
    ) -> None:
        layer = convolution()
        layer.trainable = frozen == "inference"
        before = [v.numpy() for v in layer.variables]
        outputs = layer(inputs, training=frozen != "inference", momentum=0.0)
        for variable, value in zip(layer.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
        np.testing.assert_array_equal(outputs, layer(inputs))

    @kinds
    def test_gradients_go_straight_through(self, filters, convolution, inputs: np.ndarray) -> None:
        """As if the rounded weights and outputs were the exact ones; where nothing is clipped."""
        layer = convolution(filters, activation=False)
        weight = np.random.default_rng(9).normal(size=(3, 7, 6, filters or 4)).astype(np.float32)
        layer(inputs, training=True, momentum=0.0)
        for bound in (layer.act_quant.min, layer.act_quant.max):
            bound.assign(1.1 * bound.numpy())
        variables = [v.value for v in layer.trainable_variables]
        with tf.GradientTape() as tape:
            outputs = layer(inputs, training=True, momentum=1.0)
            loss = tf.reduce_sum(outputs * weight)
        gradients = tape.gradient(loss, variables)

        convolve = tf.nn.conv2d if filters else tf.nn.depthwise_conv2d
        with tf.GradientTape() as tape:
            weights, bias = folded(layer)
            error = layer.weights_quant.rounded(weights) - weights
            exact = convolve(inputs, weights + tf.stop_gradient(error), [1, 1, 1, 1], "SAME")
            loss = tf.reduce_sum((exact + bias) * weight)
        for found, expected in zip(gradients, tape.gradient(loss, variables), strict=True):
            assert np.abs(expected).min() > 0
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

    def test_logits_adapt_too(self, random_images: Callable) -> None:
        model = MobileNet(VARIANT, 3, dropout_rate=0.0)
        model.logits.biases.assign([-20, 0, 30])
        model(random_images(2, 64), training=True, activation_range_momentum=0.0)
        ranges = {k: float(v.numpy()) for k, v in model.logits.slim_variables.items() if "/m" in k}
        kernel = model.logits.kernel.numpy()
        low, high, lowest, highest = ranges.values()
        np.testing.assert_allclose([low, high], [kernel.min(), kernel.max()])
        assert -22 < lowest < -18
        assert 28 < highest < 32

    @pytest.mark.parametrize("name", first_fast(CONVOLUTIONS))
    def test_every_trainable_variable_has_a_gradient(
        self, name: str, random_images: Callable
    ) -> None:
        model = MobileNet(name, 3)
        images = random_images(4, 64)
        model(images, training=True, activation_range_momentum=0.0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True) ** 2)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        assert len(gradients) == CONVOLUTIONS[name][0] * 3 + 2
        for gradient in gradients:
            assert np.isfinite(gradient).all()
            assert np.any(gradient)

    @pytest.mark.parametrize("where", ["constructor", "call"])
    def test_momentum(self, where: str, random_images: Callable) -> None:
        images = random_images(2, 64)
        given = {"activation_range_momentum": 0.25}
        model = MobileNet(VARIANT, **(given if where == "constructor" else {}))
        first = model.convolutions[0].act_quant.max
        before = first.numpy()
        model(images, training=True, **(given if where == "call" else {}))
        moved = first.numpy()
        model(images, training=True, activation_range_momentum=0.0)
        assert first.numpy() != before
        np.testing.assert_allclose(moved, 0.25 * before + 0.75 * first.numpy(), rtol=1e-5)


@pytest.fixture(scope="module", params=first_fast(CONVOLUTIONS))
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, MobileNet]:
    keras.utils.set_random_seed(2)
    model = MobileNet(request.param, class_names=["a", "b", "c"], activation_range_momentum=0.5)
    images = np.random.default_rng(3).uniform(size=(4, 64, 64, 3)).astype(np.float32)
    model(images, training=True, activation_range_momentum=0.0)
    folder = tmp_path_factory.mktemp("module") / "quantops"
    mobilenets.save(model, folder)
    return folder, model


@pytest.fixture(scope="module")
def loaded(saved: tuple[Path, MobileNet]) -> Any:
    """As TensorFlow loads it; not to be trained."""
    return hub.load(str(saved[0]))


class TestModule:
    def test_inference(
        self, saved: tuple[Path, MobileNet], loaded: Any, random_images: Callable
    ) -> None:
        _, model = saved
        layer = hub.KerasLayer(loaded)
        for size in (64, 51):
            images = random_images(2, size)
            np.testing.assert_array_equal(layer(images), model(images))

    def test_a_training_step_is_the_models(
        self, saved: tuple[Path, MobileNet], random_images: Callable
    ) -> None:
        folder, written = saved
        images = random_images(3, 64)
        arguments = {"activation_range_momentum": 0.25}
        layer = hub.KerasLayer(str(folder), trainable=True, arguments=arguments)
        model = mobilenets.load(folder, activation_range_momentum=0.25)
        model.dropout_rate = 0.0
        before = {v.name: v.numpy() for v in layer.weights}
        layer(images, training=True)
        model(images, training=True)
        changed = {v.name for v in layer.weights if not np.array_equal(v.numpy(), before[v.name])}
        assert all("_quant/" in name for name in changed)
        assert any("/act_quant/max" in name for name in changed)
        found = {v.name.removesuffix(":0"): v.numpy() for v in layer.weights}
        logits = f"{written.name}/Logits/"
        for name, variable in model.slim_variables.items():
            # Dropout moves the logits' range.
            tolerance = 1e-2 if name.startswith(logits) else 1e-6
            np.testing.assert_allclose(found[name], variable.numpy(), tolerance, tolerance, name)
        convolutions, full = CONVOLUTIONS[str(written.variant)]
        assert len(layer.trainable_weights) == convolutions * 3 + 2
        assert len(layer.losses) == full + 1

    def test_the_first_trace_has_the_variants_size(self, loaded: Any) -> None:
        signature = loaded.__call__.concrete_functions[0].structured_input_signature
        assert signature[0][0].shape[1:3] == [64, 64]

    def test_back_to_keras(self, saved: tuple[Path, MobileNet], random_images: Callable) -> None:
        folder, model = saved
        loaded = mobilenets.load(folder)
        assert (loaded.variant, loaded.activation_range_momentum) == (model.variant, 0.5)
        images = random_images(2, 64)
        np.testing.assert_array_equal(loaded(images), model(images))

    def test_keras_file(
        self, saved: tuple[Path, MobileNet], tmp_path: Path, random_images: Callable
    ) -> None:
        model = saved[1]
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        images = random_images(2, 64)
        np.testing.assert_array_equal(loaded(images), model(images))


class TestInvertedResidual:
    """V2: the projection has no activation, and a sum is rounded too."""

    @pytest.fixture
    def block(self) -> InvertedResidual:
        block = InvertedResidual(4, scope="MobilenetV2/expanded_conv_2", quantized=True)
        block.build((None, None, None, 4))
        random = np.random.default_rng(7)
        for variable in block.trainable_variables:
            variable.assign(random.normal(0, 0.4, variable.shape))
        return block

    def test_names_and_first_ranges(self, block: InvertedResidual) -> None:
        names = list(block.slim_variables)
        assert len(names) == 3 * 9 + 2
        scope = "MobilenetV2/expanded_conv_2"
        assert names[5:9] == [
            f"{scope}/expand/{name}"
            for name in (
                "weights_quant/min",
                "weights_quant/max",
                "act_quant/min",
                "act_quant/max",
            )
        ]
        assert names[-2:] == [
            f"{scope}/post_activation_bypass_quant/{end}" for end in ("min", "max")
        ]
        found = [v.value.name.removesuffix(":0") for v in block.slim_variables.values()]
        assert found == names
        _, _, project = block.convolutions
        lowest = [float(each.min.numpy()) for each in (project.act_quant, block.sum_quant)]
        assert lowest == [-6, -6]

    def test_the_sum_is_rounded_in_its_own_range(
        self, block: InvertedResidual, inputs: np.ndarray
    ) -> None:
        inputs = inputs - 3
        outputs = block(inputs, training=True, momentum=0.0)
        rounded = block.sum_quant
        low, high = float(rounded.min.numpy()), float(rounded.max.numpy())
        last = block.convolutions[-1].act_quant
        assert (low, high) != (float(last.min.numpy()), float(last.max.numpy()))
        projected = inputs
        for convolution in block.convolutions:
            projected = convolution(projected)
        total = inputs + projected
        np.testing.assert_allclose([low, high], [total.numpy().min(), total.numpy().max()], 1e-6)
        assert len(np.unique(outputs)) <= 256
        assert np.abs(outputs - total).max() <= 0.501 * (high - low) / 255
        np.testing.assert_array_equal(block(inputs), outputs)

    @pytest.mark.parametrize("frozen", ["inference", "trainable=False"])
    def test_what_is_frozen_keeps_its_ranges(
        self, frozen: str, block: InvertedResidual, inputs: np.ndarray
    ) -> None:
        block.trainable = frozen == "inference"
        before = [v.numpy() for v in block.variables]
        block(inputs, training=frozen != "inference", momentum=0.0)
        for variable, value in zip(block.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)

    def test_without_a_residual_there_is_no_sum(self) -> None:
        block = InvertedResidual(4, strides=2, quantized=True)
        block.build((None, None, None, 4))
        assert block.sum_quant is None
        assert len(block.slim_variables) == 27


class TestRefused:
    def test_reduced_precision(self) -> None:
        with pytest.raises(ValueError, match="float32; got dtype 'mixed_bfloat16'"):
            MobileNet(VARIANT, dtype="mixed_bfloat16")

    @pytest.mark.parametrize(
        ("bounds", "problem"),
        [
            ((-1, 2), None),
            ((0, 2), None),
            ((-1, 0), None),
            ((-1, -1), "a/act_quant/min: -1 is not below a/act_quant/max, which is -1"),
            ((2, -1), "a/act_quant/min: 2 is not below a/act_quant/max, which is -1"),
            ((0.5, 2), "a/act_quant/min: 0.5 is above 0; a range must contain 0"),
            ((-2, -0.5), "a/act_quant/max: -0.5 is below 0; a range must contain 0"),
            ((None, 2), "a/act_quant/min: missing, but there is a/act_quant/max"),
            ((-1, None), "a/act_quant/max: missing, but there is a/act_quant/min"),
        ],
        ids=str,
    )
    def test_range(self, bounds: tuple, problem: str | None) -> None:
        values = {
            f"a/act_quant/{name}": np.float32(bound)
            for name, bound in zip(("min", "max"), bounds, strict=True)
            if bound is not None
        }
        others = {"a/weights": np.full((1, 1), 3.0, np.float32)}
        assert range_problems(values | others) == ([problem] if problem else [])

    @pytest.mark.parametrize(
        ("lows", "highs", "problem"),
        [
            ([-1, -2], [1, 2], None),
            ([-1, 0], [1, 0], "0 is not below a/weights_quant/max, which is 0"),
            (
                [-1, -2],
                [1, 1.5],
                "-2 is not the negative of a/weights_quant/max, which is 1.5; "
                "a channel's range must be symmetric",
            ),
        ],
        ids=["symmetric", "empty", "asymmetric"],
    )
    def test_ranges_of_channels(self, lows: list, highs: list, problem: str | None) -> None:
        values = {
            f"a/weights_quant/{name}": np.array(bounds, np.float32)
            for name, bounds in (("min", lows), ("max", highs))
        }
        expected = [f"a/weights_quant/min (channel 1): {problem}"] if problem else []
        assert range_problems(values) == expected


if __name__ == "__main__":
    for golden in GOLDEN:
        np.savez(Path(sys.argv[2]) / f"{golden}.npz", **computed(Path(sys.argv[1]), golden))
