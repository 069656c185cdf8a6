"""Runs and compares LiteRT models in LiteRT's own interpreter, with XNNPACK as on devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from mobilenets import MobileNet, architecture

from ..quiet import held_back
from .litert_graph import LiteGraph

__all__ = [
    "RUNS",
    "Comparison",
    "LiteModel",
    "LitePart",
    "Outputs",
    "compare",
    "cosines",
    "lite_outputs",
    "milliseconds",
    "probabilities",
    "source_outputs",
]

RUNS = 30
"""The number of runs for a latency, which is their median."""


def milliseconds(run: Callable[[], object]) -> float:
    """Milliseconds for a call: the median of `RUNS`, after one to warm up."""
    run()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e3


class LiteModel:
    """A loaded LiteRT model from one image to vectors; XNNPACK computes as much as it can.

    Attributes:
      shape: The input's, with the batch.
      takes_floats: Whether the input is float; integers are pixels.
      in_xnnpack: Whether XNNPACK computes the whole model.
    """

    def __init__(self, content: bytes, white: int = 1) -> None:
        """Loads a model.

        Args:
          content: The contents of the file.
          white: The value of the brightest pixel that a model with float inputs takes.
        """
        self._white = white
        with held_back():
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        self.shape = tuple(self._input["shape"].tolist())
        self.takes_floats = np.dtype(self._input["dtype"]).kind == "f"
        self._outputs = self._interpreter.get_output_details()
        ends = [self._input["index"], *(output["index"] for output in self._outputs)]
        self.in_xnnpack = any(
            operator["op_name"] == "DELEGATE"
            and set(ends) <= {*operator["inputs"], *operator["outputs"]}
            for operator in self._interpreter._get_ops_details()
        )

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        """The outputs for an image `[size, size, 3]` in [0, 1], as float32, without batch."""
        self._interpreter.set_tensor(self._input["index"], self.stored(image))
        self._interpreter.invoke()
        return [
            _floats(self._interpreter.get_tensor(output["index"]), output)[0]
            for output in self._outputs
        ]

    def stored(self, image: np.ndarray) -> np.ndarray:
        """The stored values of an image, as a batch of one."""
        return self._stored(image)[np.newaxis]

    def _stored(self, image: np.ndarray) -> np.ndarray:
        dtype = np.dtype(self._input["dtype"])
        if self.takes_floats:
            return (self._white * image).astype(dtype)
        # Integer models of both kinds take pixels; int8 counts them from -128.
        pixels = np.round(image * 255).astype(np.int64)
        return (pixels + np.iinfo(dtype).min).astype(dtype)

    def latency(self) -> float:
        """Milliseconds for an image on one thread: the median of `RUNS`."""
        return milliseconds(self._interpreter.invoke)


class LitePart:
    """A loaded part of a LiteRT model; its inputs and outputs are stored values."""

    def __init__(self, content: bytes) -> None:
        with held_back():
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()

    def run(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for the inputs, both in order and with a batch."""
        for detail, value in zip(self._inputs, values, strict=True):
            self._interpreter.set_tensor(detail["index"], value)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]

    def floats(self, output: int, values: np.ndarray) -> np.ndarray:
        """The stored values of an output as floats."""
        return _floats(values, self._outputs[output])


def _floats(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    if values.dtype.kind == "f":
        return values
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


@dataclass(frozen=True)
class Comparison:
    """How a LiteRT model compares with its source.

    Attributes:
      images: Number of images compared.
      top1: Share of images with the same most probable class; None without classes.
      cosine: The lowest cosine over all images between the features of model and source; between
        their outputs for a classifier that is not a `MobileNet`.
      difference: The largest difference of a probability for a `MobileNet` with classes, otherwise
        of an output.
      milliseconds: For one image, on one thread of this machine.
      in_xnnpack: Whether XNNPACK computes the whole model.
    """

    images: int
    top1: float | None
    cosine: float
    difference: float
    milliseconds: float
    in_xnnpack: bool


def compare(
    content: bytes,
    source: MobileNet | Callable[[np.ndarray], Any],
    images: np.ndarray,
    white: int = 1,
) -> Comparison:
    """Runs a LiteRT model and its source on the same images.

    Args:
      content: The contents of the file.
      source: A MobileNet, or a classifier as a function of images `[1, size, size, 3]`.
      images: `[number, size, size, 3]`, RGB in [0, 1].
      white: As for `LiteModel`.
    """
    logits = isinstance(source, MobileNet) and source.num_classes is not None
    wanted, found = source_outputs(source, images), lite_outputs(content, images, white, logits)
    if logits:
        differences = probabilities(found.scores) - probabilities(wanted.scores)
    else:
        differences = found.scores - wanted.scores
    classes = logits or not isinstance(source, MobileNet)
    model = LiteModel(content, white)
    return Comparison(
        images=len(images),
        top1=float(np.mean(found.scores.argmax(1) == wanted.scores.argmax(1))) if classes else None,
        cosine=float(cosines(found.features, wanted.features).min()),
        difference=float(np.abs(differences).max()),
        milliseconds=model.latency(),
        in_xnnpack=model.in_xnnpack,
    )


@dataclass(frozen=True)
class Outputs:
    """What a model says of images, as float64.

    Attributes:
      scores: Its outputs, `[images, outputs]`.
      features: What its logits are computed from, `[images, features]`; the outputs where there
        are no logits, or where they are not a MobileNet's.
    """

    scores: np.ndarray
    features: np.ndarray


def lite_outputs(
    content: bytes, images: np.ndarray, white: int = 1, logits: bool = False
) -> Outputs:
    """Runs a LiteRT model.

    Args:
      content: The contents of the file.
      images: As for `compare`.
      white: As for `LiteModel`.
      logits: Whether the last layer with weights makes logits of features.
    """
    model = LiteModel(content, white)
    scores = features = _stacked(model.run(image)[0] for image in images)
    if logits:
        graph = LiteGraph(content)
        inner = LiteModel(graph.until([graph.convolutions[-1].input]), white)
        features = _stacked(inner.run(image)[0] for image in images)
    return Outputs(scores, features)


def source_outputs(source: MobileNet | Callable[[np.ndarray], Any], images: np.ndarray) -> Outputs:
    """Runs what a LiteRT model is made of; arguments as for `compare`."""
    if not isinstance(source, MobileNet) or source.num_classes is None:
        scores = _stacked(source(image[np.newaxis]) for image in images)
        return Outputs(scores, scores)
    pairs = [_scores_and_features(source, image) for image in images]
    return Outputs(*map(_stacked, zip(*pairs, strict=True)))


def _scores_and_features(model: MobileNet, image: np.ndarray) -> tuple[Any, Any]:
    # Keeps two of the endpoints alone.
    endpoints = model(image[np.newaxis], return_endpoints=True)
    pool = f"{architecture.scope(model.variant.family)}/global_pool"
    return endpoints["default"], endpoints[pool]


def cosines(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The cosine of each row with its counterpart; 1 for equal ones, even of zeros."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    result = (found == wanted).all(1).astype(np.float64)
    np.divide((found * wanted).sum(1), lengths, out=result, where=lengths > 0)
    return result


def _stacked(outputs: Iterable[Any]) -> np.ndarray:
    """One row for each image."""
    return np.stack([np.asarray(output, np.float64).reshape(-1) for output in outputs])


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of each row."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
