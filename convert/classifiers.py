"""Opens classifiers of every kind as functions from images to scores of classes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from mobilenets import MobileNet, Variant, saved_model

from .errors import ConvertError, first_line
from .export import litert
from .export.litert_graph import LiteGraph
from .export.litert_run import LiteModel, milliseconds, probabilities
from .labels import read_labels

if TYPE_CHECKING:
    from .export.litert_source import Inference

__all__ = ["Classifier", "opened"]

_Function: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
_OPERATOR = schema.BuiltinOperator
_HANDED_ON = ("Identity", "Reshape", "Squeeze", "Cast")
_LITE_HANDED_ON = (
    *(_OPERATOR.DEQUANTIZE, _OPERATOR.QUANTIZE),
    *(_OPERATOR.RESHAPE, _OPERATOR.SQUEEZE),
)
# Of 8-bit values from -1 to 1, three steps.
_STEPS = 3 * 2 / 255


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
      source: What `mobilenets.load` takes; a module for serving; a classifier built on a MobileNet
        (a SavedModel's folder or a `.keras` file); or a `.tflite` file with float, uint8 or int8
        input. Integer input is pixels.
      image_size: In pixels; None takes the model's. A LiteRT model has its own.

    Raises:
      ConvertError: The source cannot be loaded, is not a classifier, takes images of another size,
        or scales them in another way.
    """
    path, name = Path(source), os.fspath(source)
    if path.suffix == ".tflite":
        return _lite(path, image_size)
    config = _serving(path)
    # Here, because this loads tf_keras.
    from .export import litert_source

    litert_source.check_size(image_size)
    if config is not None:
        model = litert_source.saved(path)
        return _serving_module(name, model.call, config, image_size)
    model = litert_source.read(source, image_size)
    if isinstance(model, MobileNet):
        return _native(name, model, image_size)
    return _saved(name, model)


def _serving(path: Path) -> dict[str, Any] | None:
    """The configuration of a module for serving; None for anything else."""
    try:
        serving = saved_model.is_module(path) and saved_model.is_serving(path)
        return saved_model.config(path) if serving else None
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path} cannot be loaded: {first_line(error)}") from error


def _native(source: str, model: MobileNet, image_size: int | None) -> Classifier:
    return _module(
        source,
        lambda images: model(images, training=False),
        model.variant,
        image_size,
        model.num_classes,
        model.class_names,
    )


def _serving_module(
    source: str, call: _Function, config: dict[str, Any], image_size: int | None
) -> Classifier:
    names = config["class_names"]
    return _module(
        source,
        call,
        Variant(**config["variant"]),
        image_size,
        config["num_classes"],
        None if names is None else tuple(names),
    )


def _module(
    source: str,
    call: _Function,
    variant: Variant,
    image_size: int | None,
    num_classes: int | None,
    class_names: tuple[str, ...] | None,
) -> Classifier:
    if num_classes is None:
        raise ConvertError(f"{source} is a feature vector: evaluate its classification")
    size = image_size or variant.image_size
    run = tf.function(call, input_signature=[tf.TensorSpec([None, size, size, 3])], autograph=False)

    def scores(images: np.ndarray) -> np.ndarray:
        return run(tf.convert_to_tensor(images)).numpy()

    return _checked(
        source,
        scores,
        softmax=False,
        size=size,
        class_names=class_names,
        variant=variant.name,
    )


def _saved(source: str, model: Inference) -> Classifier:
    """A classifier that TensorFlow runs, of one image at a time if it allows no more."""
    frozen, function = model.frozen, model.batched
    white, size = model.white, model.image_size
    end = frozen.outputs[0].op
    while end.type in _HANDED_ON:
        end = end.inputs[0].op
    if end.type == "Sigmoid":
        raise _independent(source)
    (images,) = function.inputs
    one = images.shape[0] == 1

    def scores(images: np.ndarray) -> np.ndarray:
        scaled = tf.convert_to_tensor(images) * white
        batches = tf.split(scaled, len(images)) if one else [scaled]
        return np.concatenate([function(batch)["default"].numpy() for batch in batches])

    return _checked(source, scores, softmax=end.type == "Softmax", size=size)


def _lite(path: Path, image_size: int | None) -> Classifier:
    source = os.fspath(path)
    if not path.is_file():
        raise ConvertError(f"{source}: no such file")
    try:
        content = path.read_bytes()
        model, graph = LiteModel(content), LiteGraph(content)
    except Exception as error:
        # A damaged file may be misread anywhere, with any exception.
        reason = first_line(error)
        raise ConvertError(f"{source} is not a LiteRT model that can be run: {reason}") from error
    shape = model.shape
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 3:
        raise ConvertError(
            f"{source}: expected one input of an image [1, size, size, 3], found {list(shape)}"
        )
    if image_size not in (None, shape[1]):
        raise ConvertError(
            f"{source} takes {shape[1]}-pixel images; an image size of {image_size} does not match",
            "image_size",
        )
    end = _lite_end(graph)
    if end == _OPERATOR.LOGISTIC:
        raise _independent(source)
    model, scaled = _lite_scaled(source, content, model, graph)

    def scores(images: np.ndarray) -> np.ndarray:
        outputs = [model.run(scaled(image)) for image in images]
        if len(outputs[0]) != 1:
            raise ConvertError(f"{source}: expected one output, found {len(outputs[0])}")
        return np.stack([output for (output,) in outputs])

    labels = litert.labels_of(path)
    return _checked(
        source,
        scores,
        softmax=end == _OPERATOR.SOFTMAX,
        size=shape[1],
        labels=labels if labels.is_file() else None,
        latency=model.latency,
    )


def _lite_end(graph: LiteGraph) -> int | None:
    """The kind of the last operator that computes something."""
    (*_, tensor) = graph.graph.outputs
    made = {output: op for op in graph.graph.operators for output in op.outputs}
    while tensor in made and graph.kind(made[tensor]) in _LITE_HANDED_ON:
        tensor = made[tensor].inputs[0]
    return graph.kind(made[tensor]) if tensor in made else None


def _lite_scaled(
    source: str, content: bytes, model: LiteModel, graph: LiteGraph
) -> tuple[LiteModel, Callable[[np.ndarray], np.ndarray]]:
    """The model, and what it takes of an image in [0, 1].

    The first convolution takes [-1, 1]. Float models scale to that from [0, 1], from [0, 255], or
    not at all, as Google's own do.
    """
    if not graph.convolutions:
        raise ConvertError(f"{source} is not a classifier on a MobileNet: it has no convolution")
    if not model.takes_floats:
        return model, lambda image: image
    start = graph.convolutions[0].input
    if start in graph.graph.inputs:
        return model, lambda image: 2 * image - 1
    first = LiteModel(graph.until([start]))
    black, one, many = (
        _centre(first.run(np.full(model.shape[1:], value, np.float32))[0]) for value in (0, 1, 255)
    )
    if np.allclose(black, -1, atol=_STEPS):
        for white, brightest in ((1, one), (255, many)):
            if np.allclose(brightest, 1, atol=_STEPS):
                return (model if white == 1 else LiteModel(content, white)), lambda image: image
    if np.allclose(black, 0, atol=_STEPS) and np.allclose(one, 1, atol=_STEPS):
        return model, lambda image: 2 * image - 1
    raise ConvertError(
        f"{source}: unsupported input scaling: expected [0, 1], [-1, 1], or [0, 255] rescaled"
    )


def _centre(image: np.ndarray) -> np.ndarray:
    """The pixel that padding does not reach."""
    return image[tuple(length // 2 for length in image.shape[:2])]


def _checked(
    source: str,
    scores: Callable[[np.ndarray], np.ndarray],
    *,
    softmax: bool,
    size: int,
    class_names: tuple[str, ...] | None = None,
    labels: Path | None = None,
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
        class_names=read_labels(labels, shape[1]) if labels else class_names,
        variant=variant,
        bytes=_bytes(Path(source)),
    )


def _independent(source: str) -> ConvertError:
    return ConvertError(
        f"{source} ends in a sigmoid, so that its classes are independent: evaluate a classifier "
        "with logits or a softmax"
    )


def _bytes(path: Path) -> int | None:
    """What a file, a folder or the files of a checkpoint's prefix take; None if there are none."""
    if path.is_file():
        return path.stat().st_size
    beside = path.parent.glob(f"{glob.escape(path.name)}.*")
    files = path.rglob("*") if path.is_dir() else beside
    return sum(file.stat().st_size for file in files if file.is_file()) or None
