"""A quantops network as plain TensorFlow operations on the variables of a Slim checkpoint.

It follows the graph that `tf.contrib.quantize` makes of Slim's network for evaluation; int8 has a
range for each channel of the weights and one for the pooled features. It shares nothing with the
layers of `mobilenets`. Conversions of quantized networks are verified against it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mobilenets import Variant, architecture

__all__ = ["outputs", "step"]

_EPSILON = 1e-3
_IMAGE_RANGE = 1.0005
_LOGITS = "Logits/Conv2d_1c_1x1"


def outputs(
    variant: Variant, values: Mapping[str, np.ndarray], num_classes: int | None, images: np.ndarray
) -> dict[str, np.ndarray]:
    """The original graph's outputs for images.

    Args:
      variant: A quantized network.
      values: Slim variable name to value.
      num_classes: Length of the logits; None for the pooled features alone.
      images: `[batch, height, width, 3]` in [0, 1].

    Returns:
      `feature_vector`, `[batch, num_features]`, and with classes `classification`, logits
      `[batch, num_classes]`; float32.
    """
    network = architecture.scope(variant.family)
    x = tf.quantization.fake_quant_with_min_max_vars(
        2 * tf.constant(images) - 1, -_IMAGE_RANGE, _IMAGE_RANGE
    )
    channels = 3
    for row in architecture.rows(variant):
        shortcut = x
        for convolution in row.convolutions(channels):
            x = _convolved(x, convolution, network, values)
        if row.adds_input(channels):
            x = _rounded(shortcut + x, f"{network}/{row.name}/post_activation_bypass_quant", values)
        channels = row.filters
    features = tf.reduce_mean(x, [1, 2], keepdims=True)
    if variant.quantized == "int8":
        features = _rounded(features, f"{network}/global_pool_quant", values)
    found = {"feature_vector": features[:, 0, 0].numpy()}
    if num_classes is None:
        return found
    scope = f"{network}/{_LOGITS}"
    kernel = _rounded(values[f"{scope}/weights"], f"{scope}/weights_quant", values, narrow=True)
    logits = tf.nn.conv2d(features, kernel, 1, "SAME") + values[f"{scope}/biases"]
    logits = _rounded(logits, f"{scope}/act_quant", values)
    return {**found, "classification": logits[:, 0, 0].numpy()}


def _convolved(
    x: tf.Tensor,
    convolution: architecture.Convolution,
    network: str,
    values: Mapping[str, np.ndarray],
) -> tf.Tensor:
    """A convolution with folded batch norm, its activation, and the rounding of both."""
    scope = f"{network}/{convolution.scope}"
    ranges = _range_scope(scope)
    gamma, beta, mean, variance = (
        values[f"{scope}/BatchNorm/{name}"]
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    factor = gamma * tf.math.rsqrt(variance + np.float32(_EPSILON))
    strides = [1, convolution.strides, convolution.strides, 1]
    if convolution.filters is None:
        kernel = values[f"{scope}/depthwise_weights"] * tf.reshape(factor, [1, 1, -1, 1])
        kernel = _rounded(kernel, f"{ranges}/weights_quant", values, narrow=True)
        x = tf.nn.depthwise_conv2d(x, kernel, strides, "SAME")
    else:
        kernel = values[f"{scope}/weights"] * factor
        kernel = _rounded(kernel, f"{ranges}/weights_quant", values, narrow=True)
        x = tf.nn.conv2d(x, kernel, strides, "SAME")
    x += beta - mean * factor
    if convolution.activation:
        x = tf.nn.relu6(x)
    return _rounded(x, f"{ranges}/act_quant", values)


def _range_scope(scope: str) -> str:
    # Operations of Slim's V1 repeat the network's scope, and ranges are named after operations.
    return f"MobilenetV1/{scope}" if scope.startswith("MobilenetV1/") else scope


def _rounded(
    x: tf.Tensor, scope: str, values: Mapping[str, np.ndarray], narrow: bool = False
) -> tf.Tensor:
    low, high = values[f"{scope}/min"], values[f"{scope}/max"]
    if low.ndim:
        rows = tf.reshape(x, [-1, len(low)])
        rows = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            rows, low, high, narrow_range=narrow
        )
        return tf.reshape(rows, x.shape)
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, narrow_range=narrow)


def step(variant: Variant, values: Mapping[str, np.ndarray], num_classes: int | None) -> float:
    """The size of one step of the last 8-bit rounding, in units of the output."""
    network = architecture.scope(variant.family)
    last = architecture.rows(variant)[-1]
    (*_, convolution) = last.convolutions(last.filters)
    scope = _range_scope(f"{network}/{convolution.scope}")
    rounding = f"{scope}/act_quant"
    if variant.quantized == "int8":
        rounding = f"{network}/global_pool_quant"
    if num_classes is not None:
        rounding = f"{network}/{_LOGITS}/act_quant"
    low, high = values[f"{rounding}/min"], values[f"{rounding}/max"]
    return float(high - low) / 255
