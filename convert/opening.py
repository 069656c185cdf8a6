"""Opens models of every kind: modules, classifiers built on them, and LiteRT files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets import MobileNet, Variant, saved_model

from .errors import ConvertError, first_line
from .export import litert
from .export.litert_graph import LiteGraph
from .export.litert_run import LiteModel
from .labels import read_labels

if TYPE_CHECKING:
    from .export.litert_source import Inference

__all__ = ["Lite", "Opened", "Serving", "independent", "opened"]

_OPERATOR = schema.BuiltinOperator
_HANDED_ON = (
    *(_OPERATOR.DEQUANTIZE, _OPERATOR.QUANTIZE),
    *(_OPERATOR.RESHAPE, _OPERATOR.SQUEEZE),
)
# Of 8-bit values from -1 to 1, three steps.
_STEPS = 3 * 2 / 255


@dataclass(frozen=True)
class Serving:
    """A module for serving.

    Attributes:
      path: Its folder.
      config: What it was made of, as `mobilenets.saved_model.config` gives it.
    """

    path: Path
    config: dict[str, Any]

    @property
    def variant(self) -> Variant:
        """The network."""
        return Variant(**self.config["variant"])

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None for a feature vector."""
        return self.config["num_classes"]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Their names, if known."""
        names = self.config["class_names"]
        return None if names is None else tuple(names)


@dataclass(frozen=True)
class Lite:
    """A LiteRT model of one image.

    Attributes:
      path: Its file.
      content: The file's contents.
      graph: The model taken apart.
      image_size: Height and width of the image, in pixels.
    """

    path: Path
    content: bytes
    graph: LiteGraph
    image_size: int

    def last(self, handed_on: Sequence[int] = ()) -> Any:
        """The last operator that computes something; None if none does.

        Args:
          handed_on: Kinds of operators that do not count.
        """
        (*_, tensor) = self.graph.graph.outputs
        made = {output: op for op in self.graph.graph.operators for output in op.outputs}
        while tensor in made and self.graph.kind(made[tensor]) in (*_HANDED_ON, *handed_on):
            tensor = made[tensor].inputs[0]
        return made.get(tensor)

    def kind(self, operator: Any) -> int | None:
        """The kind of an operator, a `BuiltinOperator`; None for None."""
        return None if operator is None else self.graph.kind(operator)

    def running(self, outputs: Sequence[int] | None = None) -> tuple[LiteModel, Scaled]:
        """The model, loaded, and what it takes of an image in [0, 1].

        Args:
          outputs: The tensors to compute; None takes the model's own output.

        Raises:
          ConvertError: The model has no convolution, or unsupported preprocessing.
        """
        content = self.content if outputs is None else self.graph.until(outputs)
        white, scaled = self._scale
        return LiteModel(content, white), scaled

    @functools.cached_property
    def _scale(self) -> tuple[int, Scaled]:
        """The value of the brightest pixel, and how an image in [0, 1] is scaled before.

        The first convolution takes [-1, 1]. Float models scale to that from [0, 1], from [0, 255],
        or not at all, as Google's own do.
        """
        if not self.graph.convolutions:
            raise ConvertError(
                f"{self.path} is not a classifier on a MobileNet: it has no convolution"
            )
        start = self.graph.convolutions[0].input
        if start in self.graph.graph.inputs:
            floats = LiteModel(self.content).takes_floats
            return 1, (lambda image: 2 * image - 1) if floats else (lambda image: image)
        first = LiteModel(self.graph.until([start]))
        if not first.takes_floats:
            return 1, lambda image: image
        black, one, many = (
            _centre(first.run(np.full(first.shape[1:], value, np.float32))[0])
            for value in (0, 1, 255)
        )
        if np.allclose(black, -1, atol=_STEPS):
            for white, brightest in ((1, one), (255, many)):
                if np.allclose(brightest, 1, atol=_STEPS):
                    return white, lambda image: image
        if np.allclose(black, 0, atol=_STEPS) and np.allclose(one, 1, atol=_STEPS):
            return 1, lambda image: 2 * image - 1
        raise ConvertError(
            f"{self.path}: unsupported input scaling: expected [0, 1], [-1, 1], or [0, 255] "
            "rescaled"
        )

    def class_names(self, num_classes: int) -> tuple[str, ...] | None:
        """The names in the file of labels beside it; None if there is none.

        Raises:
          ConvertError: The file has another number of names.
        """
        labels = litert.labels_of(self.path)
        return read_labels(labels, num_classes) if labels.is_file() else None


Scaled: TypeAlias = Callable[[np.ndarray], np.ndarray]
Opened: TypeAlias = "MobileNet | Serving | Inference | Lite"
"""A module as a model, a module for serving, a classifier built on a module, or a LiteRT model."""


def opened(source: str | os.PathLike[str], image_size: int | None = None) -> Opened:
    """Opens a model.

    Args:
      source: What `mobilenets.load` takes; a module for serving; a classifier built on a MobileNet
        (a SavedModel's folder or a `.keras` file); or a `.tflite` file with float, uint8 or int8
        input. Integer input is pixels.
      image_size: In pixels; None takes the model's.

    Raises:
      ConvertError: The source cannot be loaded, or takes images of another size.
    """
    path = Path(source)
    if path.suffix == ".tflite":
        return _lite(path, image_size)
    config = _serving(path)
    # Here, because this loads tf_keras.
    from .export import litert_source

    litert_source.check_size(image_size)
    if config is not None:
        return Serving(path, config)
    return litert_source.read(source, image_size)


def _serving(path: Path) -> dict[str, Any] | None:
    """The configuration of a module for serving; None for anything else."""
    try:
        serving = saved_model.is_module(path) and saved_model.is_serving(path)
        return saved_model.config(path) if serving else None
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path} cannot be loaded: {first_line(error)}") from error


def _lite(path: Path, image_size: int | None) -> Lite:
    if not path.is_file():
        raise ConvertError(f"{path}: no such file")
    try:
        content = path.read_bytes()
        shape, graph = LiteModel(content).shape, LiteGraph(content)
    except Exception as error:
        # A damaged file may be misread anywhere, with any exception.
        reason = first_line(error)
        raise ConvertError(f"{path} is not a LiteRT model that can be run: {reason}") from error
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 3:
        raise ConvertError(
            f"{path}: expected one input of an image [1, size, size, 3], found {list(shape)}"
        )
    if image_size not in (None, shape[1]):
        raise ConvertError(
            f"{path} takes {shape[1]}-pixel images; an image size of {image_size} does not match",
            "image_size",
        )
    return Lite(path, content, graph, shape[1])


def _centre(image: np.ndarray) -> np.ndarray:
    """The pixel that padding does not reach."""
    return image[tuple(length // 2 for length in image.shape[:2])]


def independent(source: str) -> ConvertError:
    """The error for a classifier that gives no probabilities of one class among others."""
    return ConvertError(
        f"{source} ends in a sigmoid, so that its classes are independent: take a classifier with "
        "logits or a softmax"
    )
