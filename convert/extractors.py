"""Models of every kind as functions from images to features, and with classes to scores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from mobilenets import MobileNet, architecture

from . import opening
from .errors import ConvertError
from .opening import Lite, Serving, independent

if TYPE_CHECKING:
    from .export.litert_source import Inference

__all__ = ["Extractor", "opened"]

_Call: TypeAlias = Callable[[tf.Tensor], tuple[tf.Tensor, ...]]
_OPERATOR = schema.BuiltinOperator
# What may follow the matrix product of a classifier's last layer.
_AFTER_LOGITS = (
    *("Identity", "Reshape", "Squeeze", "Cast", "Softmax", "Sigmoid"),
    *("BiasAdd", "AddV2", "FakeQuantWithMinMaxVars"),
)


@dataclass(frozen=True)
class Extractor:
    """A model in inference, as what gives features.

    Attributes:
      source: Where it is from.
      run: Features `[batch, num_features]` and scores `[batch, num_classes]` of images
        `[batch, size, size, 3]`, RGB float32 in [0, 1]; only the features without classes.
      softmax: Whether the scores are probabilities already.
      image_size: Height and width of the images, in pixels.
      num_features: The length of the features.
      num_classes: The number of classes; None without.
      class_names: Their names, if known.
      fingerprint: A hash of what the model gives for an image of noise, and of the names. Models
        with the same one are the same, on the same libraries.
    """

    source: str
    run: Callable[[tf.Tensor], tuple[np.ndarray, ...]]
    softmax: bool
    image_size: int
    num_features: int
    num_classes: int | None
    class_names: tuple[str, ...] | None
    fingerprint: str


def opened(source: str | os.PathLike[str], image_size: int | None = None) -> Extractor:
    """Opens a model.

    The features of a module are its feature vector. Those of a classifier that is built on one are
    what its last layer takes; without such a layer they are its output.

    Args:
      source: As `opening.opened` takes it.
      image_size: In pixels; None takes the model's. A LiteRT model has its own.

    Raises:
      ConvertError: The source cannot be loaded, has other outputs than features or scores, takes
        images of another size, or scales them in another way.
    """
    name, model = os.fspath(source), opening.opened(source, image_size)
    if isinstance(model, Lite):
        return _lite(model)
    if isinstance(model, Serving):
        return _module(name, _serving(model), model, image_size)
    if isinstance(model, MobileNet):
        return _module(name, _native(model), model, image_size)
    return _saved(name, model)


def _native(model: MobileNet) -> _Call:
    if model.logits is None:
        return lambda images: (model(images, training=False),)
    network, logits = model.with_classes(), model.logits

    def call(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = network(images, training=False)
        return features, logits(features)

    return call


def _serving(model: Serving) -> _Call:
    loaded = tf.saved_model.load(os.fspath(model.path))
    pool = f"{architecture.scope(model.variant.family)}/global_pool"

    def call(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        endpoints = loaded(images, return_endpoints=True)
        features = tf.squeeze(endpoints[pool], [1, 2])
        return (features,) if model.num_classes is None else (features, endpoints["default"])

    return call


def _module(
    source: str, call: _Call, model: MobileNet | Serving, image_size: int | None
) -> Extractor:
    size = image_size or model.variant.image_size
    run = tf.function(call, input_signature=[tf.TensorSpec([None, size, size, 3])], autograph=False)
    return _checked(
        source,
        lambda images: tuple(each.numpy() for each in run(images)),
        softmax=False,
        size=size,
        class_names=lambda classes: model.class_names,
    )


def _saved(source: str, model: Inference) -> Extractor:
    """What TensorFlow runs, of one image at a time if it allows no more."""
    function, white = model.batched, model.white
    (images,), (output,) = function.inputs, function.outputs
    passed, end = set(), output.op
    while end.type in _AFTER_LOGITS:
        passed.add(end.type)
        end = end.inputs[0].op
    if "Sigmoid" in passed:
        raise independent(source)
    wanted = [end.inputs[0], output] if end.type == "MatMul" else [output]
    run = function.prune(images, wanted)

    def on_batch(batch: tf.Tensor) -> tuple[np.ndarray, ...]:
        scaled = batch * white
        parts = tf.split(scaled, len(batch)) if images.shape[0] == 1 else [scaled]
        computed = [[each.numpy() for each in run(part)] for part in parts]
        return tuple(np.concatenate(each) for each in zip(*computed, strict=True))

    return _checked(source, on_batch, softmax="Softmax" in passed, size=model.image_size)


def _lite(lite: Lite) -> Extractor:
    source, end = str(lite.path), lite.kind(lite.last())
    if end == _OPERATOR.LOGISTIC:
        raise independent(source)
    last, output = lite.last([_OPERATOR.SOFTMAX]), int(lite.graph.graph.outputs[-1])
    wanted = [output]
    if lite.kind(last) in (_OPERATOR.FULLY_CONNECTED, _OPERATOR.CONV_2D):
        wanted = [int(last.inputs[0]), output]
    model, scaled = lite.running(wanted)

    def on_batch(batch: tf.Tensor) -> tuple[np.ndarray, ...]:
        computed = [[each.ravel() for each in model.run(scaled(each))] for each in batch.numpy()]
        return tuple(np.stack(each) for each in zip(*computed, strict=True))

    return _checked(
        source,
        on_batch,
        softmax=end == _OPERATOR.SOFTMAX,
        size=lite.image_size,
        class_names=lite.class_names,
    )


def _checked(
    source: str,
    run: Callable[[tf.Tensor], tuple[np.ndarray, ...]],
    *,
    softmax: bool,
    size: int,
    class_names: Callable[[int], tuple[str, ...] | None] = lambda classes: None,
) -> Extractor:
    """An extractor that has computed the features of one image."""
    noise = np.random.default_rng(0).uniform(size=(1, size, size, 3)).astype(np.float32)
    outputs = run(tf.constant(noise))
    if any(each.ndim != 2 for each in outputs):
        shapes = ", ".join(str(list(each.shape)) for each in outputs)
        raise ConvertError(f"{source}: expected a vector for each image, found output {shapes}")
    features, *scores = outputs
    num_classes = scores[0].shape[1] if scores else None
    names = class_names(num_classes) if num_classes else None
    digest = hashlib.sha256("\n".join(names or ()).encode())
    for each in outputs:
        digest.update(each.tobytes())
    return Extractor(
        source=source,
        run=run,
        softmax=softmax,
        image_size=size,
        num_features=features.shape[1],
        num_classes=num_classes,
        class_names=names,
        fingerprint=digest.hexdigest(),
    )
