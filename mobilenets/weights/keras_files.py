"""Keras's own files: `.h5`, `.weights.h5` and `.keras`, of Keras 3 and of tf_keras.

The network may be keras.applications' MobileNet or MobileNetV2 (its published files too, whatever
their names), a network of this package, or a hub.KerasLayer; alone or inside a model.

A classifier on the network's mean features becomes the logits if it is the only layer outside the
network that has weights; otherwise the result is a feature vector. The logits are the values before
the model's `softmax` (or `sigmoid`).

keras.applications' networks take images in [-1, 1]; ours take images in [0, 1] and scale them to
[-1, 1] themselves. Preprocessing before the network is not part of the weights; its layers are
listed among the leftovers. Its V1 pads strided convolutions by ((0, 1), (0, 1)) at every image
size, which equals `SAME` where all of their inputs are even: at multiples of 32 pixels. Its batch
norms have the epsilon 1e-3, like ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mobilenets import images
from mobilenets.weights import keras_config, keras_hdf5, keras_layout, keras_names
from mobilenets.weights.contents import SELECTIONS, Weights
from mobilenets.weights.errors import WeightsError
from mobilenets.weights.keras_layout import Layer, Saved
from mobilenets.weights.keras_names import Network

__all__ = ["EXPECTED", "read", "recognises"]

EXPECTED = "a .h5, .weights.h5 or .keras file of a MobileNet"

_OUTSIDE = "layers outside the network"
_BEFORE = "layers before the network"
_IMAGENET_CLASSES = 1000
# Shares of plausible values: a trained batch norm's gamma is rarely negative, its beta often.
_MOSTLY = 0.9


def recognises(path: Path) -> bool:
    """Whether a file is HDF5 or a zip of Keras, by its first bytes."""
    return keras_hdf5.is_keras(path)


def read(path: Path, source: str, selection: str) -> Weights:
    """Opens the MobileNet in a Keras file.

    Args:
      path: A path that `recognises` accepts.
      source: The path as the user named it.
      selection: `"auto"` or `"raw"`; a Keras file holds no moving averages of variables.

    Raises:
      WeightsError: The file is damaged, is not Keras's, points to other files, or holds no
        MobileNet V1 or V2, or several; or averages are requested.
    """
    if selection not in SELECTIONS:
        raise WeightsError(f"weights must be one of {', '.join(SELECTIONS)}; got {selection!r}")
    if selection == "averages":
        raise WeightsError(
            f"{source} holds no moving averages of variables; take the raw variables (weights: raw)"
        )
    saved = keras_layout.saved(path, source)
    network = _network(saved)
    if network.numbered:
        _check_numbered(path, source, network)
    outside = [layer for layer in saved.layers if layer not in network.layers]
    classifier = _classifier(saved, network, outside)
    keys = dict(network.keys)
    if classifier:
        outside.remove(classifier)
        keys |= zip(
            keras_names.logits_names(network.family), classifier.variables.values(), strict=True
        )
    leftovers = {category: list(names) for category, names in saved.leftovers.items()}
    if outside:
        leftovers[_OUTSIDE] = [key for layer in outside for key in layer.variables.values()]
    before = keras_config.layers_before(saved.config) if saved.config else []
    leftovers |= {_BEFORE: before} if before else {}
    used = set(keys.values())
    unknown = [
        key for layer in network.layers for key in layer.variables.values() if key not in used
    ]
    shapes = {name: saved.shapes[key] for name, key in keys.items()}
    # A Dense layer's [features, classes] is Slim's 1x1 convolution.
    dense, biases = keras_names.logits_names(network.family)
    if len(shapes.get(dense, ())) == 2:
        shapes[dense] = (1, 1, *shapes[dense])

    size = keras_config.image_size(saved.config) if saved.config else None

    def values(names: Iterable[str]) -> dict[str, np.ndarray]:
        wanted = {name: keys[name] for name in names}
        found = keras_hdf5.read_datasets(path, source, wanted.values())
        return {name: found[key].reshape(shapes[name]) for name, key in wanted.items()}

    return Weights(
        source=source,
        file=path.name,
        family=network.family,
        keys={name: keys[name] for name in sorted(keys)},
        shapes={name: shapes[name] for name in sorted(shapes)},
        leftovers={category: leftovers[category] for category in sorted(leftovers)},
        unknown={key: saved.shapes[key] for key in [*unknown, *saved.unlisted]},
        entries=len(saved.shapes),
        image_size=size,
        settings=keras_config.settings(saved.config) if saved.config else {},
        pads_as_slim=not (saved.config and size) or keras_config.pads_as_slim(saved.config, size),
        class_names=_class_names(saved, network, classifier, shapes.get(biases)),
        read=values,
        digest=lambda: _digest(path, source),
    )


def _network(saved: Saved) -> Network:
    networks = keras_names.find(saved)
    if keras_names.is_v3(saved):
        raise WeightsError(f"{saved.source}: this is MobileNet V3; only V1 and V2 are supported")
    if not networks:
        names = list(dict.fromkeys(layer.path for layer in saved.layers)) or ["none"]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise WeightsError(
            f"{saved.source} holds no MobileNet V1 or V2: its layers are "
            f"{', '.join(names[:5])}{more}"
        )
    if len(networks) > 1 or networks[0].twice:
        raise WeightsError(f"{saved.source} holds several MobileNets; save only the one to read")
    return networks[0]


def _check_numbered(path: Path, source: str, network: Network) -> None:
    """Raises WeightsError if the values of numbered variables do not fit their positions."""
    names = [name for name in network.keys if name.endswith(("/gamma", "/moving_variance"))]
    found = keras_hdf5.read_datasets(path, source, (network.keys[name] for name in names))
    by_kind = {
        kind: np.concatenate([found[network.keys[n]].ravel() for n in names if n.endswith(kind)])
        for kind in ("/gamma", "/moving_variance")
    }
    if (by_kind["/gamma"] > 0).mean() < _MOSTLY or (by_kind["/moving_variance"] < 0).any():
        raise WeightsError(
            f"{source}: the variables of {network.numbered} have numbers instead of names, and are "
            "in an unknown order; save them with names: model.save_weights('model.h5') in tf_keras"
        )


def _classifier(saved: Saved, network: Network, outside: list[Layer]) -> Layer | None:
    """The layer outside the network that computes the logits."""
    weights, _ = keras_names.logits_names(network.family)
    if weights in network.keys:
        return None
    own = [layer for layer in outside if layer.where in network.places]
    # Layers may follow the network's own top if they are in a model around the network.
    candidates = outside if len(outside) == 1 else own
    if len(candidates) != 1 or any("max_pool" in name for name in saved.names):
        return None
    (layer,) = candidates
    last = network.keys.get(keras_names.last_kernel(network.family), "")
    features = saved.shapes.get(last)
    shapes = [saved.shapes[key] for key in layer.variables.values()]
    if features is None or len(shapes) != 2 or len(shapes[1]) != 1:
        return None
    inputs, (classes,) = features[-1], shapes[1]
    dense = shapes[0] == (inputs, classes)
    top = shapes[0] == (1, 1, inputs, classes) and _has_name(saved, layer, network, "conv_preds")
    if not (dense or top):
        return None
    if saved.config and not keras_config.takes_logits(saved.config, classes):
        return None
    return layer


def _has_name(saved: Saved, layer: Layer, network: Network, name: str) -> bool:
    """Whether a layer has this name, or may have it if the file does not keep names."""
    if network.by_name:
        return layer.name == name
    return not saved.config or name in keras_config.names(saved.config)


def _class_names(
    saved: Saved, network: Network, classifier: Layer | None, biases: tuple[int, ...] | None
) -> tuple[str, ...] | None:
    if biases is None:
        return None
    named = keras_config.class_names(saved.config) if saved.config else None
    if named and len(named) == biases[0]:
        return named
    # keras.applications was trained without the background class, in the same order.
    tops = ("conv_preds", "predictions")
    if (
        classifier
        and biases == (_IMAGENET_CLASSES,)
        and classifier.where in network.places
        and any(_has_name(saved, classifier, network, name) for name in tops)
    ):
        return images.class_names()[1:]
    return None


def _digest(path: Path, source: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{source}: cannot read {path}: {error.strerror}") from error
