"""Keras's global settings, as the references and saved models expect them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tf_keras

__all__ = ["standard"]

_FORMAT, _DTYPE = "channels_last", "float32"


@contextlib.contextmanager
def standard() -> Iterator[None]:
    """Channels last and float32 in Keras 3 and tf_keras, whatever the user's `keras.json` says.

    Build, load and run `keras.applications` and saved Keras models in this context. It restores the
    user's settings at its end, and also serves as a decorator.
    """
    image_format, floatx = keras.config.image_data_format(), keras.config.floatx()
    policy = keras.config.dtype_policy()
    old_format, old_floatx = tf_keras.backend.image_data_format(), tf_keras.backend.floatx()
    old_policy = tf_keras.mixed_precision.global_policy()
    policy_is_set = False
    try:
        keras.config.set_image_data_format(_FORMAT)
        keras.config.set_floatx(_DTYPE)
        keras.config.set_dtype_policy(_DTYPE)
        tf_keras.backend.set_image_data_format(_FORMAT)
        tf_keras.backend.set_floatx(_DTYPE)
        # An unset policy of tf_keras follows floatx, so only another policy is replaced.
        policy_is_set = tf_keras.mixed_precision.global_policy().name != _DTYPE
        if policy_is_set:
            tf_keras.mixed_precision.set_global_policy(_DTYPE)
        yield
    finally:
        keras.config.set_image_data_format(image_format)
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
        tf_keras.backend.set_image_data_format(old_format)
        tf_keras.backend.set_floatx(old_floatx)
        if policy_is_set:
            tf_keras.mixed_precision.set_global_policy(old_policy)
