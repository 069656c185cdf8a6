"""Classifiers of every kind as functions from images to scores of classes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from mobilenets import MobileNet

from . import opening
from .errors import ConvertError
from .export.litert_run import milliseconds, probabilities
from .opening import Lite, Serving, independent

if TYPE_CHECKING:
    from .export.litert_source import Inference

__all__ = ["Classifier", "opened"]

_Function: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
_Names: TypeAlias = tuple[str, ...] | None
_OPERATOR = schema.BuiltinOperator
_HANDED_ON = ("Identity", "Reshape", "Squeeze", "Cast")


@dataclass(frozen=True)
class Classifier:
    """A classifier in inference.

    Attributes:
      source: Where it is from.
      scores: Logits or probabilities `[batch, classes]` of images `[batch, size, size, 3]`, RGB
        float32 in [0, 1].
      softmax: Whether the scores are probabilities already.
      latency: Measures the milliseconds for one image, the median of 30 runs: of a LiteRT model on
        one thread, of others on TensorFlow's threads.
      image_size: Height and width of the images, in pixels.
      num_classes: The number of classes, 2 or more.
      class_names: Their names, if known.
      variant: Hub name of a module; None for others.
      bytes: What its files take on disk; None for a name or a URL.
    """

    source: str
    scores: Callable[[np.ndarray], np.ndarray]
    softmax: bool
    latency: Callable[[], float]
    image_size: int
    num_classes: int
    class_names: tuple[str, ...] | None
    variant: str | None
    bytes: int | None

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """The probabilities of scores."""
        wide = scores.astype(np.float64)
        return wide if self.softmax else probabilities(wide)


def opened(source: str | os.PathLike[str], image_size: int | None = None) -> Classifier:
    """Opens a classifier.

    Args:
      source: As `opening.opened` takes it.
      image_size: In pixels; None takes the model's. A LiteRT model has its own.

    Raises:
      ConvertError: The source cannot be loaded, is not a classifier, takes images of another size,
        or scales them in another way.
    """
    name, model = os.fspath(source), opening.opened(source, image_size)
    if isinstance(model, Lite):
        return _lite(model)
    if isinstance(model, Serving):
        # Here, because this loads tf_keras.
        from .export import litert_source

        return _module(name, litert_source.saved(model.path).call, model, image_size)
    if isinstance(model, MobileNet):
        return _module(name, lambda images: model(images, training=False), model, image_size)
    return _saved(name, model)


def _module(
    source: str, call: _Function, model: MobileNet | Serving, image_size: int | None
) -> Classifier:
    if model.num_classes is None:
        raise ConvertError(f"{source} is a feature vector: evaluate its classification")
    size = image_size or model.variant.image_size
    run = tf.function(call, input_signature=[tf.TensorSpec([None, size, size, 3])], autograph=False)

    def scores(images: np.ndarray) -> np.ndarray:
        return run(tf.convert_to_tensor(images)).numpy()

    return _checked(
        source,
        scores,
        softmax=False,
        size=size,
        class_names=model.class_names,
        variant=model.variant.name,
    )


def _saved(source: str, model: Inference) -> Classifier:
    """A classifier that TensorFlow runs, of one image at a time if it allows no more."""
    frozen, function = model.frozen, model.batched
    white, size = model.white, model.image_size
    end = frozen.outputs[0].op
    while end.type in _HANDED_ON:
        end = end.inputs[0].op
    if end.type == "Sigmoid":
        raise independent(source)
    (images,) = function.inputs
    one = images.shape[0] == 1

    def scores(images: np.ndarray) -> np.ndarray:
        scaled = tf.convert_to_tensor(images) * white
        batches = tf.split(scaled, len(images)) if one else [scaled]
        return np.concatenate([function(batch)["default"].numpy() for batch in batches])

    return _checked(source, scores, softmax=end.type == "Softmax", size=size)


def _lite(lite: Lite) -> Classifier:
    source, end = str(lite.path), lite.kind(lite.last())
    if end == _OPERATOR.LOGISTIC:
        raise independent(source)
    model, scaled = lite.running()

    def scores(images: np.ndarray) -> np.ndarray:
        outputs = [model.run(scaled(image)) for image in images]
        if len(outputs[0]) != 1:
            raise ConvertError(f"{source}: expected one output, found {len(outputs[0])}")
        return np.stack([output for (output,) in outputs])

    return _checked(
        source,
        scores,
        softmax=end == _OPERATOR.SOFTMAX,
        size=lite.image_size,
        class_names=lite.class_names,
        latency=model.latency,
    )


def _checked(
    source: str,
    scores: Callable[[np.ndarray], np.ndarray],
    *,
    softmax: bool,
    size: int,
    class_names: _Names | Callable[[int], _Names] = None,
    variant: str | None = None,
    latency: Callable[[], float] | None = None,
) -> Classifier:
    """A classifier that has computed the scores of one image."""
    image = np.zeros((1, size, size, 3), np.float32)
    shape = list(scores(image).shape)
    if len(shape) != 2 or shape[1] < 2:
        raise ConvertError(
            f"{source} is not a classifier: expected a score for each of two classes or more, "
            f"found output {shape}"
        )
    return Classifier(
        source=source,
        scores=scores,
        softmax=softmax,
        latency=latency or (lambda: milliseconds(lambda: scores(image))),
        image_size=size,
        num_classes=shape[1],
        class_names=class_names(shape[1]) if callable(class_names) else class_names,
        variant=variant,
        bytes=_bytes(Path(source)),
    )


def _bytes(path: Path) -> int | None:
    """What a file, a folder or the files of a checkpoint's prefix take; None if there are none."""
    if path.is_file():
        return path.stat().st_size
    beside = path.parent.glob(f"{glob.escape(path.name)}.*")
    files = path.rglob("*") if path.is_dir() else beside
    return sum(file.stat().st_size for file in files if file.is_file()) or None
