"""The two blocks, against plain Keras layers, and as layers in a user's own model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from closeness import assert_close
from tiers import first_fast

from mobilenets import DepthwiseSeparable, InvertedResidual

Block = DepthwiseSeparable | InvertedResidual
CHANNELS = 6

BLOCKS: dict[str, Callable[..., Block]] = {
    "separable": lambda **kwargs: DepthwiseSeparable(10, **kwargs),
    "separable-strided": lambda **kwargs: DepthwiseSeparable(10, strides=2, **kwargs),
    "inverted": lambda **kwargs: InvertedResidual(10, **kwargs),
    "inverted-strided": lambda **kwargs: InvertedResidual(6, strides=2, **kwargs),
    "inverted-residual": lambda **kwargs: InvertedResidual(6, **kwargs),
    "inverted-expansion-3": lambda **kwargs: InvertedResidual(6, expansion=3, **kwargs),
    "inverted-no-expansion": lambda **kwargs: InvertedResidual(10, expansion=1, **kwargs),
    "inverted-no-expansion-residual": lambda **kwargs: InvertedResidual(6, expansion=1, **kwargs),
}
all_blocks = pytest.mark.parametrize("kind", BLOCKS)


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (3, 7, 10, CHANNELS)).astype(np.float32)


@pytest.fixture
def build(randomise: Callable) -> Callable[..., Block]:
    def build(kind: str, **kwargs) -> Block:
        block = BLOCKS[kind](**kwargs)
        block.build((None, None, None, CHANNELS))
        return randomise(block)

    return build


def plain(block: Block, inputs: np.ndarray, training: bool = False) -> np.ndarray:
    """What Keras's own layers make of the block's weights."""
    outputs = inputs
    weights = [variable.numpy() for variable in block.variables]
    inverted = isinstance(block, InvertedResidual)
    while weights:
        kernel, *norm = weights[:5]
        del weights[:5]
        depthwise = kernel.shape[0] == 3
        arguments = {"kernel_size": kernel.shape[0], "padding": "same", "use_bias": False}
        layer = (
            keras.layers.DepthwiseConv2D(strides=block.strides, **arguments)
            if depthwise
            else keras.layers.Conv2D(kernel.shape[-1], **arguments)
        )
        layer.build(outputs.shape)
        layer.set_weights([kernel])
        batch_norm = keras.layers.BatchNormalization(epsilon=1e-3)
        outputs = layer(outputs)
        batch_norm.build(outputs.shape)
        batch_norm.set_weights(norm)
        outputs = batch_norm(outputs, training=training)
        if weights or not inverted:
            outputs = keras.ops.relu6(outputs)
    if inverted and outputs.shape == inputs.shape:
        outputs = outputs + inputs
    return outputs.numpy()


@all_blocks
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_outputs_are_those_of_keras(
    kind: str, training: bool, build: Callable[..., Block], inputs: np.ndarray
) -> None:
    block = build(kind)
    expected = plain(block, inputs, training)
    outputs = block(inputs, training=training).numpy()
    assert outputs.shape == block.compute_output_shape(inputs.shape)
    assert_close(outputs, expected, 3e-5)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("filters", [CHANNELS, CHANNELS + 2], ids=["as-wide", "wider"])
@pytest.mark.parametrize("expansion", [1, 6], ids=["no-expansion", "expansion"])
def test_the_residual_is_added_where_it_fits(
    strides: int, filters: int, expansion: int, inputs: np.ndarray
) -> None:
    block = InvertedResidual(filters, strides, expansion)
    block.build(inputs.shape)
    # The projection gives zeros, and the residual alone is left.
    project = block.convolutions[-1]
    project.batch_norm.gamma.assign(np.zeros(filters))
    outputs = block(inputs).numpy()
    if strides == 1 and filters == CHANNELS:
        np.testing.assert_array_equal(outputs, inputs)
    else:
        assert not outputs.any()
        assert outputs.shape == (3, -(-7 // strides), -(-10 // strides), filters)


def test_separable_blocks_have_no_residual(inputs: np.ndarray) -> None:
    block = DepthwiseSeparable(CHANNELS)
    block.build(inputs.shape)
    block.convolutions[-1].batch_norm.gamma.assign(np.zeros(CHANNELS))
    assert not block(inputs).numpy().any()


@all_blocks
def test_endpoints(kind: str, build: Callable[..., Block], inputs: np.ndarray) -> None:
    block = build(kind, name="block")
    shapes = {
        key: tuple(value.shape) for key, value in block(inputs, return_endpoints=True).items()
    }
    height, width = -(-7 // block.strides), -(-10 // block.strides)
    if isinstance(block, DepthwiseSeparable):
        expected = {
            "block_depthwise": (3, height, width, CHANNELS),
            "block_pointwise": (3, height, width, block.filters),
        }
    else:
        expanded = CHANNELS * block.expansion
        expected = {
            "expansion_output": (3, 7, 10, expanded),
            "depthwise_output": (3, height, width, expanded),
            "output": (3, height, width, block.filters),
        }
        if block.expansion == 1:
            del expected["expansion_output"]
    assert shapes == expected
    assert list(shapes) == list(expected)
    *_, last = block(inputs, return_endpoints=True).values()
    np.testing.assert_array_equal(last, block(inputs))


@all_blocks
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0], ids=str)
def test_momentum_reaches_every_convolution(
    kind: str, momentum: float, build: Callable[..., Block], inputs: np.ndarray
) -> None:
    block, batch = build(kind), build(kind)
    before = [variable.numpy() for variable in block.non_trainable_variables]
    batch(inputs, training=True, momentum=0.0)
    block(inputs, training=True, momentum=momentum)
    assert len(before) == 2 * len(block.convolutions)
    for old, this, new in zip(
        before, batch.non_trainable_variables, block.non_trainable_variables, strict=True
    ):
        expected = momentum * old + (1 - momentum) * this.numpy()
        np.testing.assert_allclose(new.numpy(), expected, rtol=1e-6, atol=1e-6)


@all_blocks
@pytest.mark.parametrize("frozen", ["afterwards", "in-the-constructor"])
def test_frozen_blocks_keep_their_statistics(
    kind: str, frozen: str, build: Callable[..., Block], inputs: np.ndarray
) -> None:
    if frozen == "afterwards":
        block = build(kind)
        block.trainable = False
    else:
        block = build(kind, trainable=False)
    before = [variable.numpy() for variable in block.variables]
    outputs = block(inputs, training=True)
    assert block.trainable_variables == []
    for old, new in zip(before, block.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    np.testing.assert_array_equal(outputs, block(inputs, training=False))


@pytest.mark.parametrize(
    ("block", "names"),
    [
        (
            DepthwiseSeparable(8, scope="MobilenetV1/Conv2d_1"),
            [
                "MobilenetV1/Conv2d_1_depthwise/depthwise_weights",
                "MobilenetV1/Conv2d_1_pointwise/weights",
            ],
        ),
        (
            InvertedResidual(8, scope="MobilenetV2/expanded_conv_1"),
            [
                "MobilenetV2/expanded_conv_1/expand/weights",
                "MobilenetV2/expanded_conv_1/depthwise/depthwise_weights",
                "MobilenetV2/expanded_conv_1/project/weights",
            ],
        ),
        (
            InvertedResidual(8, name="mine"),
            ["mine/expand/weights", "mine/depthwise/depthwise_weights", "mine/project/weights"],
        ),
    ],
    ids=["separable", "inverted", "no-scope"],
)
def test_kernels_have_slim_names(block: Block, names: list[str]) -> None:
    block.build((None, None, None, CHANNELS))
    named = [next(iter(layer.slim_variables.items())) for layer in block.convolutions]
    assert [name for name, _ in named] == names
    assert [variable.value.name for _, variable in named] == [f"{name}:0" for name in names]


@all_blocks
def test_config_round_trip(kind: str) -> None:
    block = BLOCKS[kind](scope="a/b", name="c", dtype="mixed_bfloat16")
    config = block.get_config()
    again = type(block).from_config(config)
    assert again.get_config() == config
    assert {key: config[key] for key in ("filters", "strides", "scope", "name")} == {
        "filters": block.filters,
        "strides": block.strides,
        "scope": "a/b",
        "name": "c",
    }
    if isinstance(block, InvertedResidual):
        assert again.expansion == config["expansion"] == block.expansion
    assert again.dtype_policy.name == "mixed_bfloat16"


def stacked(**kwargs) -> list[keras.layers.Layer]:
    return [
        keras.layers.Rescaling(2.0, -1.0),
        *(block(**kwargs) for block in BLOCKS.values()),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
    ]


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input((None, None, 3)), *stacked()])


def functional() -> keras.Model:
    outputs = inputs = keras.Input((None, None, 3))
    for layer in stacked():
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("make", first_fast([functional, sequential]))
def test_inside_a_users_model(make: Callable[[], keras.Model], tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = make()
    images = np.random.default_rng(4).uniform(size=(6, 33, 33, 3)).astype(np.float32)
    before = [variable.numpy() for variable in model.variables]
    blocks = [layer for layer in model.layers if isinstance(layer, Block)]
    assert len(blocks) == len(BLOCKS)
    assert len(model.losses) == sum(
        layer.filters is not None for block in blocks for layer in block.convolutions
    )

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Tracing a graph would take longer than the step.
    model.compile("sgd", loss, run_eagerly=make is functional)
    model.fit(images, np.array([0, 1, 2, 0, 1, 2]), batch_size=6, verbose=0)
    for old, variable in zip(before, model.variables, strict=True):
        assert (old != variable.numpy()).any(), variable.path

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    np.testing.assert_allclose(model.predict(images, verbose=0), model(images), atol=1e-5)


def test_endpoints_in_a_functional_model(inputs: np.ndarray, build: Callable[..., Block]) -> None:
    block = build("inverted")
    images = keras.Input(inputs.shape[1:])
    model = keras.Model(images, block(images, return_endpoints=True))
    outputs = model(inputs)
    assert set(outputs) == {"expansion_output", "depthwise_output", "output"}
    assert_close(outputs["output"].numpy(), block(inputs).numpy(), 1e-6)


@all_blocks
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_reduced_precision(
    kind: str, training: bool, build: Callable[..., Block], inputs: np.ndarray
) -> None:
    block, full = build(kind, dtype="mixed_bfloat16"), build(kind)
    outputs = block(inputs, training=training)
    assert outputs.dtype == "bfloat16"
    assert {variable.dtype for variable in block.variables} == {"float32"}
    assert_close(
        keras.ops.cast(outputs, "float32").numpy(), full(inputs, training=training).numpy(), 0.05
    )
