"""Facts about the MobileNet in a saved Keras model, from the configuration, read as plain data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mobilenets.model import SHARES

__all__ = [
    "class_names",
    "image_size",
    "layers_before",
    "names",
    "pads_as_slim",
    "settings",
    "takes_logits",
]

_Config = Mapping[str, Any]

_OURS = "MobileNet"
_NETWORK = ("Conv2D", "DepthwiseConv2D", "BatchNormalization", "KerasLayer", _OURS)
# Allowed between features and classifier: mean pooling, and layers without effect in inference.
_NEUTRAL = (
    *("GlobalAveragePooling2D", "AveragePooling2D", "Flatten", "Reshape", "InputLayer"),
    *("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
    # The features are not negative.
    "ReLU",
)
_MODELS = ("Functional", "Model", "Sequential")
# The padding of keras.applications before strided convolutions.
_PADDING = re.compile(r"[Cc]onv1_pad|conv_pad_\d+|block_\d+_pad")
_STRIDED = 5
_ACTIVATIONS = (None, "linear", "softmax", "sigmoid")


def _inner(config: _Config) -> _Config:
    inner = config.get("config")
    return inner if isinstance(inner, dict) else {}


def _class(config: _Config) -> str:
    return str(config.get("class_name")).rpartition(">")[2]


def _members(config: _Config) -> list[_Config]:
    layers = _inner(config).get("layers")
    return [each for each in layers if isinstance(each, dict)] if isinstance(layers, list) else []


def _leaves(config: _Config) -> Iterator[_Config]:
    """All layers in the order of the model, with inner models replaced by their layers."""
    members = _members(config)
    if not members:
        yield config
    for member in members:
        yield from _leaves(member)


def image_size(config: _Config) -> int | None:
    """Height and width of the network's images in pixels, if they are fixed and equal.

    The input of the innermost model around the network counts: layers before it may resize.
    """
    members = _members(config)
    for member in members:
        if (size := image_size(member)) is not None:
            return size
    if _class(config) == _OURS:
        variant = _inner(config).get("variant")
        size = variant.get("image_size") if isinstance(variant, dict) else None
        return size if isinstance(size, int) and size >= 32 else None
    if not any(
        _class(leaf) in ("DepthwiseConv2D", "KerasLayer")
        for member in members
        for leaf in _leaves(member)
    ):
        return None
    # Before Keras 2.4 a Sequential's first layer had the shape of its input.
    for member in members:
        inner = _inner(member)
        shape = inner.get("batch_shape") or inner.get("batch_input_shape")
        match shape:
            case [_, int() as height, int() as width, 3] if height == width and height >= 32:
                return height
    return None


def pads_as_slim(config: _Config, size: int) -> bool:
    """Whether strided convolutions see what they see with `SAME`, at an image size in pixels.

    keras.applications pads by layers of its own: V1 always by ((0, 1), (0, 1)), V2 by what fits the
    size that it was built for. `SAME` is ((1, 1), (1, 1)) for inputs of odd size.
    """
    paddings = [
        _inner(leaf).get("padding")
        for leaf in _leaves(config)
        if _class(leaf) == "ZeroPadding2D" and _PADDING.fullmatch(str(_inner(leaf).get("name")))
    ]
    # A first convolution without such a layer has SAME.
    for halved, padding in enumerate(paddings, _STRIDED - len(paddings)):
        odd = -(-size // 2**halved) % 2
        match padding:
            case [[int() as top, int() as bottom], [int() as left, int() as right]]:
                if (top, bottom, left, right) != (odd, 1, odd, 1):
                    return False
    return True


def class_names(config: _Config) -> tuple[str, ...] | None:
    """The class names in the configuration of this package's MobileNet; None without any."""
    for leaf in _leaves(config):
        names = _inner(leaf).get("class_names")
        if _class(leaf) == _OURS and isinstance(names, list):
            return tuple(map(str, names))
    return None


def settings(config: _Config) -> dict[str, float]:
    """Momenta and dropout rate of this package's MobileNet, as its arguments; empty without any."""
    for leaf in _leaves(config):
        if _class(leaf) == _OURS:
            found = {name: _inner(leaf).get(name) for name in SHARES}
            return {
                name: value
                for name, value in found.items()
                if isinstance(value, int | float) and 0 <= value <= 1
            }
    return {}


def names(config: _Config) -> set[str]:
    """Names of all layers."""
    return {str(_inner(leaf).get("name")) for leaf in _leaves(config)}


def layers_before(config: _Config) -> list[str]:
    """Names of the layers that images pass through before the network, such as a Rescaling."""
    before: list[str] = []
    for leaf in _leaves(config):
        if _class(leaf) in _NETWORK:
            return before
        if _class(leaf) not in ("InputLayer", "ZeroPadding2D", *_MODELS):
            before.append(str(_inner(leaf).get("name") or leaf.get("name")))
    return []


def takes_logits(config: _Config, classes: int) -> bool:
    """Whether the first layer with weights after the network is a classifier on mean features.

    Its activation may turn logits into probabilities.

    Args:
      config: Of the model.
      classes: Length of the layer's output.
    """
    leaves = list(_leaves(config))
    ends = [place for place, leaf in enumerate(leaves) if _class(leaf) in _NETWORK]
    top = next(
        (p for p, leaf in enumerate(leaves) if _inner(leaf).get("name") == "conv_preds"), None
    )
    if top is not None:
        return _inner(leaves[top]).get("filters") == classes
    for leaf in leaves[ends[-1] + 1 :] if ends else []:
        inner = _inner(leaf)
        if _class(leaf) == "Dense":
            return inner.get("units") == classes and inner.get("activation") in _ACTIVATIONS
        if _class(leaf) not in _NEUTRAL:
            return False
    return False
