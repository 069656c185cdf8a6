"""`keras.applications.MobileNet` and `MobileNetV2` carrying the weights of a Slim checkpoint.

The network is not ours: of the library, only the names of its layers are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mobilenets import Variant, architecture
from mobilenets.weights.keras_names import application_layers

from .. import keras_settings

__all__ = [
    "APPLICATION",
    "both_outputs",
    "build",
    "builds",
    "input_size",
    "outputs",
    "reference",
]

APPLICATION = {"mobilenet_v1": "MobileNet", "mobilenet_v2": "MobileNetV2"}
"""The name in `keras.applications` of each family."""


def builds(variant: Variant) -> bool:
    """Whether keras.applications has this network: its V1 has no minimum of 8 channels."""
    return variant.family == "mobilenet_v2" or int(32 * variant.depth_multiplier) >= 8


def input_size(variant: Variant) -> int:
    """The size nearest to the variant's at which keras.applications pads as Slim does, in pixels.

    Its V1 pads strided convolutions by (0, 1) also where the input is odd, where `SAME` means
    (1, 1); at multiples of 32 no strided convolution has an odd input. Its V2 pads by what fits.
    """
    if variant.family == "mobilenet_v2":
        return variant.image_size
    return max(32, round(variant.image_size / 32) * 32)


@keras_settings.standard()
def build(
    variant: Variant, num_classes: int | None, weights: str | None = None, library: Any = keras
) -> Any:
    """The network of `keras.applications`, at the image size `input_size(variant)`.

    Args:
      variant: A float variant that `keras.applications` has.
      num_classes: Length of the logits; None for the pooled features.
      weights: A weights file to load; None leaves the weights random.
      library: Whose model it is: Keras 3, or `tf_keras`, which has the same networks.
    """
    size = input_size(variant)
    top = {"classes": num_classes, "classifier_activation": None} if num_classes else {}
    return getattr(library.applications, APPLICATION[variant.family])(
        input_shape=(size, size, 3),
        alpha=variant.depth_multiplier,
        weights=weights,
        include_top=bool(num_classes),
        pooling=None if num_classes else "avg",
        **top,
    )


@keras_settings.standard()
def outputs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The outputs of a network of `keras.applications` for images.

    Args:
      model: As `build` and `reference` return it.
      images: `[batch, size, size, 3]`, RGB in [0, 1], which the network takes in [-1, 1].

    Returns:
      `[batch, num_features]` or `[batch, num_classes]`, float32.
    """
    return np.asarray(model(2 * images - 1, training=False))


@keras_settings.standard()
def both_outputs(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """The pooled features and, with classes, the logits of a network of `keras.applications`.

    Args:
      model: As `reference` returns it.
      images: As for `outputs`.

    Returns:
      `feature_vector`, `[batch, num_features]`, and with classes `classification`,
      `[batch, num_classes]`; float32.
    """
    (pool,) = (
        layer for layer in model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)
    )
    found = {"feature_vector": pool.output}
    if pool is not model.layers[-1]:
        found["classification"] = model.output
    return {
        kind: np.asarray(output).reshape(len(images), -1)
        for kind, output in keras.Model(model.input, found)(2 * images - 1, training=False).items()
    }


@keras_settings.standard()
def reference(
    variant: Variant, values: Mapping[str, np.ndarray], num_classes: int | None
) -> keras.Model:
    """The keras.applications network with the given weights.

    Args:
      variant: The network.
      values: Slim variable name to value; batch norms' moving statistics too.
      num_classes: Length of the logits; None for the pooled features.

    Returns:
      A model from `[batch, size, size, 3]` in [-1, 1] to `[batch, num_features]` features or
      `[batch, num_classes]` logits, where size is `input_size(variant)`.
    """
    first = variant.family == "mobilenet_v1"
    model = build(variant, num_classes)
    network = architecture.scope(variant.family)
    for line in architecture.convolutions(variant, num_classes):
        scope = f"{network}/{line.scope}"
        if line.kind == "logits":
            weights, biases = values[f"{scope}/weights"], values[f"{scope}/biases"]
            layer = model.get_layer("conv_preds" if first else "predictions")
            layer.set_weights([weights if first else weights[0, 0], biases])
            continue
        convolution, norm = application_layers(line.scope)
        kernel = "depthwise_weights" if line.kind == "depthwise" else "weights"
        model.get_layer(convolution).set_weights([values[f"{scope}/{kernel}"]])
        model.get_layer(norm).set_weights(
            [
                values[f"{scope}/BatchNorm/{statistic}"]
                for statistic in ("gamma", "beta", "moving_mean", "moving_variance")
            ]
        )
    return model
