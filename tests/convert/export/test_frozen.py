"""Frozen graphs: what makes no difference is gone, what does is there, and the results stay."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from convert.errors import ConvertError
from convert.export.frozen import freeze

SIZE = 6


def frozen(call: Callable, batch: int | None = None) -> tuple[Callable, set[str]]:
    """The frozen function, and the kinds of its operations."""
    function = freeze(call, SIZE).function(batch)
    return function, {operation.type for operation in function.graph.get_operations()}


def assert_same(function: Callable, call: Callable, *batches: int) -> None:
    for batch in batches:
        random = np.random.default_rng(batch)
        images = tf.constant(random.uniform(size=(batch, SIZE, SIZE, 3)), tf.float32)
        np.testing.assert_allclose(function(images)["default"], call(images), rtol=1e-6)


def padded_to(multiple: int) -> Callable:
    def call(images: tf.Tensor) -> tf.Tensor:
        size = tf.shape(images)[1]
        more = -size % multiple
        return 2 * tf.pad(images, [[0, 0], [0, more], [0, more], [0, 0]])

    return call


def test_paddings_by_nothing_go() -> None:
    function, kinds = frozen(padded_to(3))
    assert not kinds & {"Pad", "PadV2", "Shape"}
    assert_same(function, padded_to(3), 1, 2)


def test_other_paddings_stay() -> None:
    function, kinds = frozen(padded_to(4))
    assert kinds & {"Pad", "PadV2"}
    # By how much is a constant all the same.
    assert "Shape" not in kinds
    assert_same(function, padded_to(4), 1, 2)


@pytest.mark.parametrize("rows", [SIZE, SIZE - 1])
def test_slices_of_everything_go_and_others_stay(rows: int) -> None:
    def call(images: tf.Tensor) -> tf.Tensor:
        return 2 * images[:, :rows]

    function, kinds = frozen(call)
    assert ("StridedSlice" in kinds) == (rows < SIZE)
    assert_same(function, call, 1, 2)


def test_a_padding_with_other_values_stays_where_it_adds_some() -> None:
    def call(images: tf.Tensor) -> tf.Tensor:
        return 2 * tf.pad(images, [[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=0.5)

    function, kinds = frozen(call)
    assert "PadV2" in kinds
    assert_same(function, call, 1, 2)


def test_an_image_size_is_a_constant() -> None:
    def call(images: tf.Tensor) -> tf.Tensor:
        pixels = tf.shape(images)[1] * tf.shape(images)[2]
        return tf.reduce_sum(images, [1, 2]) / tf.cast(pixels, tf.float32)

    function, kinds = frozen(call)
    assert "Shape" not in kinds
    assert_same(function, call, 1, 3)


def test_an_open_batch_is_none() -> None:
    def call(images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(images, [tf.shape(images)[0], -1])

    function, kinds = frozen(call)
    assert "Shape" in kinds
    assert function.inputs[0].shape.as_list() == [None, SIZE, SIZE, 3]
    # None of these numbers of images is one that it was tried with.
    assert_same(function, call, 3, 5)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_is_said(batch: int) -> None:
    function, _ = frozen(lambda images: tf.reduce_mean(images, [1, 2]), batch)
    assert function.inputs[0].shape.as_list() == [batch, SIZE, SIZE, 3]
    assert function.inputs[0].name == "images:0"


def test_a_model_that_insists_on_one_image() -> None:
    inputs = keras.Input(batch_shape=(1, SIZE, SIZE, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.ReLU()(inputs)))

    def call(images: tf.Tensor) -> tf.Tensor:
        if images.shape[0] != 1:
            raise ValueError("one image")
        return model(images)

    # Whatever is asked for, it takes one.
    for batch in (None, 1, 4):
        function, _ = frozen(call, batch)
        assert function.inputs[0].shape.as_list() == [1, SIZE, SIZE, 3]
        assert_same(function, call, 1)


def test_what_no_trace_takes_says_why() -> None:
    def call(images: tf.Tensor) -> tf.Tensor:
        raise ValueError("no images at all")

    with pytest.raises(ValueError, match="no images at all"):
        freeze(call, SIZE)


def test_variables_become_constants() -> None:
    factor = tf.Variable(3.0)
    function, kinds = frozen(lambda images: factor * images)
    assert not kinds & {"ReadVariableOp", "VarHandleOp"}
    factor.assign(0.0)
    assert_same(function, lambda images: 3 * images, 2)


def test_what_hands_on_the_images_alone() -> None:
    function, _ = frozen(lambda images: tf.stop_gradient(tf.identity(images)))
    assert_same(function, tf.identity, 2)


def test_two_outputs_are_refused() -> None:
    with pytest.raises(ConvertError, match="expected one output, found 2"):
        freeze(lambda images: (images, 2 * images), SIZE)
