"""What all layers of the networks share: dtype, input check and the settings of inner layers.

Keras saves a layer's own configuration, but not the settings of layers and variables inside a
custom layer, such as which of them are frozen. `Part` saves those too, so that `.keras` files,
clones, copies and models with a network inside keep them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = [
    "L2",
    "Part",
    "Split",
    "asserted",
    "checked",
    "default_regularizer",
    "endpoint",
    "input_channels",
    "network_dtype",
    "share",
]

# Slim's mobilenet_v1_arg_scope and mobilenet_v2.training_scope: weight decay 4e-5 on
# tf.nn.l2_loss, which is half the sum of squares.
L2 = 4e-5 / 2

Split = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Splits an activation into the tensor to return and the tensor to pass on."""
_Settings = Mapping[str, Mapping[str, Any]]


class Part:
    """Mixin for Keras layers: the configuration includes the settings of inner layers.

    The layer calls `restore_settings` once its inner layers and variables exist.

    Args:
      inside: Attributes that differ from a new layer's, by path of the inner layer or variable,
        e.g. `Conv2d_1/depthwise/BatchNorm`; as `get_config` returns them.
      dtype: A dtype or policy; None takes Keras's global policy if its variables are float32
        (`float32` or a mixed one), else `float32`.
    """

    def __init__(self, *, inside: _Settings | None = None, dtype: Any = None, **kwargs) -> None:
        kwargs.pop("requires", None)
        super().__init__(autocast=False, dtype=network_dtype(dtype), **kwargs)  # type: ignore[call-arg]
        self._pending = {path: dict(values) for path, values in (inside or {}).items()}

    def restore_settings(self) -> None:
        """Applies the configuration's settings inside, and shows inner layers to TensorFlow."""
        members = dict(_members(self))
        for path, values in self._pending.items():
            for attribute, value in values.items():
                if attribute in ("regularizer", "activity_regularizer"):
                    value = keras.regularizers.deserialize(value)
                elif attribute == "constraint":
                    value = keras.constraints.deserialize(value)
                setattr(members[path], attribute, value)
        self._pending = {}
        for layer in self._layers:  # type: ignore[attr-defined]
            # Keras hides layers in lists from TensorFlow: a tf.train.Checkpoint would lack them.
            self._track_trackable(layer, layer.name, overwrite=True)  # type: ignore[attr-defined]

    def settings(self, trainable: bool) -> dict[str, dict[str, Any]]:
        """Settings of inner layers that differ from those of a new layer with this `trainable`.

        Outer layers come first, since freezing a layer freezes its inner ones.
        """
        if self._pending:
            return {path: dict(values) for path, values in self._pending.items()}
        return dict(_changed(self, "", trainable))

    def get_config(self) -> dict:
        inside = self.settings(self.trainable)  # type: ignore[attr-defined]
        return {
            # A hint in Keras's error if it cannot find the class.
            "requires": "import mobilenets",
            **super().get_config(),  # type: ignore[misc]
            **({"inside": inside} if inside else {}),
        }

    @property
    def output(self) -> Any:
        """The output of a layer that was called on a Keras tensor."""
        try:
            return super().output  # type: ignore[misc]
        except (AttributeError, ValueError):
            raise AttributeError(
                f"{self.name!r} has no output: a MobileNet is not a functional model. "  # type: ignore[attr-defined]
                "model(images, return_endpoints=True) gives every activation by name, for images "
                "or a keras.Input"
            ) from None


def _members(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every inner layer and every variable by path."""
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        yield f"{prefix}{variable.name}", variable
    for inner in layer._layers:
        yield f"{prefix}{inner.name}", inner
        yield from _members(inner, f"{prefix}{inner.name}/")


def _changed(
    layer: keras.layers.Layer, prefix: str, trainable: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    for variable in layer._trainable_variables:
        changes: dict[str, Any] = {}
        if variable.trainable != trainable:
            changes["trainable"] = variable.trainable
        regularizer = keras.regularizers.serialize(variable.regularizer)
        if regularizer != keras.regularizers.serialize(default_regularizer(variable.name)):
            changes["regularizer"] = regularizer
        if variable.constraint is not None:
            changes["constraint"] = keras.constraints.serialize(variable.constraint)
        if changes:
            yield f"{prefix}{variable.name}", changes
    for inner in layer._layers:
        changes = {}
        if inner.trainable != trainable:
            changes["trainable"] = inner.trainable
        if inner.activity_regularizer is not None:
            changes["activity_regularizer"] = keras.regularizers.serialize(
                inner.activity_regularizer
            )
        if changes:
            yield f"{prefix}{inner.name}", changes
        yield from _changed(inner, f"{prefix}{inner.name}/", inner.trainable)


def default_regularizer(variable: str) -> keras.regularizers.Regularizer | None:
    """Slim's weight decay: on the kernels of full convolutions only."""
    return keras.regularizers.L2(L2) if variable == "weights" else None


def network_dtype(dtype: Any) -> Any:
    """The dtype policy of a layer: the given one, else the global one, else float32.

    Keras's `floatx`, and global policies whose variables are not float32, are ignored: the weights
    are always float32.
    """
    if dtype is not None:
        return dtype
    policy = keras.config.dtype_policy()
    return policy if policy.variable_dtype == "float32" else "float32"


def endpoint(outputs: tf.Tensor, split: bool | Split) -> tuple[tf.Tensor, tf.Tensor]:
    """A layer's outputs to return as an endpoint, and its outputs to pass on."""
    return split(outputs) if callable(split) else (outputs, outputs)


def share(name: str, value: Any) -> Any:
    """Returns a number in [0, 1], be it a scalar tensor or a variable, and refuses all else.

    Args:
      name: In the error.
      value: What may be one.

    Raises:
      ValueError: It is none. In graphs `tf.errors.InvalidArgumentError`, before it is used.
    """
    refusal = f"{name} must be in [0, 1]"
    good: bool | tf.Tensor = False
    if isinstance(value, int | float | np.number):
        good = 0 <= value <= 1
    else:
        with contextlib.suppress(TypeError, ValueError, tf.errors.InvalidArgumentError):
            value = tf.ensure_shape(tf.convert_to_tensor(value, tf.float32), [])
            good = (value >= 0) & (value <= 1)
    if tf.is_symbolic_tensor(good):
        return asserted(value, good, refusal)
    if not good:
        raise ValueError(f"{refusal}; got {value!r}")
    return value


def asserted(value: Any, condition: tf.Tensor | bool, refusal: str) -> tf.Tensor:
    """A graph's tensor, which is there once the condition is known to be true.

    Without the order, a training step could change variables before it fails.
    """
    # Text alone: for numbers TensorFlow would make functions of its own.
    with tf.control_dependencies([tf.debugging.Assert(condition, [refusal])]):
        return tf.identity(value)


def checked(inputs: tf.Tensor, channels: int, name: str) -> tf.Tensor:
    """Returns the inputs if they are `[batch, height, width, channels]` and have pixels.

    For another number of channels TensorFlow's kernels give wrong results; for another rank they
    end the process. A shape that is still unknown is checked when the operation runs.

    Raises:
      ValueError: The inputs have another shape.
    """
    shape = inputs.shape
    if shape.rank is None or (shape.rank == 4 and shape[-1] is None):
        return tf.ensure_shape(inputs, [None, None, None, channels])
    if shape.rank != 4 or shape[-1] != channels or 0 in shape[1:3].as_list():
        raise ValueError(
            f"{name} takes [batch, height, width, {channels}], got {_words(shape)}"
            f"{_advice(shape.as_list(), channels)}"
        )
    return inputs


def input_channels(shape: Sequence[int | None], name: str) -> int:
    """The number of channels in the shape `[batch, height, width, channels]` of a layer's input.

    Raises:
      ValueError: The shape has another rank, or its number of channels is unknown.
    """
    channels = shape[-1] if len(shape) == 4 else None
    if channels is None:
        expected = "[batch, height, width, channels] with known channels"
        raise ValueError(f"{name} takes {expected}, got {_words(tf.TensorShape(shape))}")
    return channels


def _words(shape: tf.TensorShape) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _advice(shape: list[int | None], channels: int) -> str:
    if len(shape) == 4 and 0 in shape[1:3]:
        return ": height and width are 1 pixel or more"
    if len(shape) == 4 and shape[1] == channels:
        return ": channels come last, tf.transpose(images, [0, 2, 3, 1]) puts them there"
    if len(shape) == 3 and shape[-1] == channels:
        return ": images[tf.newaxis] makes a batch of one image"
    if len(shape) == 5 and shape[-1] == channels:
        return ": for frames, take keras.layers.TimeDistributed"
    return ""
