"""Frozen graphs: `GraphDef` files whose variables became constants under their Slim names.

Google published one beside every checkpoint (`mobilenet_v1_1.0_224_frozen.pb`), and `retrain.py`
of 2017 made others from them. `freeze_graph` gives each constant the name of its variable, and
keeps the operation that read the variable: an `Identity` called `<name>/read`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2, node_def_pb2

from mobilenets import architecture
from mobilenets.weights.contents import Weights
from mobilenets.weights.errors import WeightsError, first_few
from mobilenets.weights.identify import family_of, is_variable

__all__ = ["EXPECTED", "read", "recognises"]

EXPECTED = "a frozen graph (.pb)"

_SAVED_MODEL = "saved_model.pb"
_LAYERS = "layers outside the network"
_CONSTANTS = "constants of operations"
# The beginning of a GraphDef in Protocol Buffers' wire format: its first node (field 1), which
# begins with its name and its operation (fields 1 and 2).
_NODE, _NAME, _OPERATION = 0x0A, 0x0A, 0x12
_OPERATIONS = re.compile(rb"[A-Z_][A-Za-z0-9_>]*")
_LONGEST = 4096
# Protocol Buffers' limit for a message.
_MOST_BYTES = 2 << 30


def recognises(path: Path) -> bool:
    """Whether a file begins like a GraphDef, or is meant to be one by its suffix `.pb`."""
    if not path.is_file():
        return False
    if path.suffix == ".pb":
        return True
    with path.open("rb") as file:
        return _begins_with_node(file.read(2 * _LONGEST))


def _begins_with_node(content: bytes) -> bool:
    stream = iter(content)
    try:
        if next(stream) != _NODE:
            return False
        _number(stream)
        if next(stream) != _NAME:
            return False
        name = bytes(islice(stream, min(_number(stream), _LONGEST)))
        if next(stream) != _OPERATION:
            return False
        operation = bytes(islice(stream, min(_number(stream), _LONGEST)))
    except StopIteration:
        return False
    return bool(name) and _OPERATIONS.fullmatch(operation) is not None


def _number(stream: Iterator[int]) -> int:
    """The next variable-length number."""
    value = 0
    for shift in range(0, 70, 7):
        byte = next(stream)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value


def read(path: Path, source: str, selection: str) -> Weights:
    """Opens the constants that were a MobileNet's variables.

    Layers outside its scope, such as the head that `retrain.py` trains on the logits, are left
    out and listed.

    Args:
      path: A path that `recognises` accepts.
      source: The path as the user named it.
      selection: `"averages"` is refused: a graph is frozen with one value of each variable.

    Raises:
      WeightsError: Moving averages are requested; or the file is not a GraphDef, holds no
        MobileNet V1 or V2, or has folded batch norms.
    """
    size = path.stat().st_size
    graph = _parsed(path, source)
    if selection == "averages":
        raise WeightsError(
            f"{source} holds no moving averages, since it was frozen with one value of each "
            "variable; take the raw variables (weights: raw)"
        )
    family = family_of(source, (node.name for node in graph.node), "a MobileNet's frozen graph")
    scope = architecture.scope(family)
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    _refuse_doubled(source, graph)
    shapes = {name: _shape(node) for name, node in constants.items()}
    names = [name for name in constants if is_variable(family, name)]
    _refuse_folded(source, scope, names, constants)

    were_read = {
        node.input[0]
        for node in graph.node
        if node.op == "Identity" and node.name == f"{node.input[0] if node.input else ''}/read"
    }
    leftovers: dict[str, list[str]] = {}
    unknown: dict[str, tuple[int, ...]] = {}
    for name, node in constants.items():
        if name in names:
            continue
        # Operations have constants too: shapes and axes, which are whole numbers, and numbers such
        # as batch norm's epsilon, which nothing reads by way of an Identity.
        floating = _dtype(node).is_floating
        if not (name in were_read or (floating and shapes[name] and np.prod(shapes[name]))):
            leftovers.setdefault(_CONSTANTS, []).append(name)
        elif name.startswith(f"{scope}/"):
            unknown[name] = shapes[name]
        else:
            leftovers.setdefault(_LAYERS, []).append(name)

    def values(wanted: Iterable[str]) -> dict[str, np.ndarray]:
        return {name: _value(constants[name], source, size) for name in wanted}

    return Weights(
        source=source,
        file=path.name,
        family=family,
        entries=len(constants),
        keys={name: name for name in sorted(names)},
        shapes={name: shapes[name] for name in sorted(names)},
        leftovers={category: leftovers[category] for category in sorted(leftovers)},
        unknown=unknown,
        image_size=_image_size(graph),
        read=values,
        digest=lambda: hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _parsed(path: Path, source: str) -> graph_pb2.GraphDef:
    if path.name == _SAVED_MODEL:
        raise WeightsError(
            f"{source} is a SavedModel's graph, and its variables lie beside it: name its folder"
        )
    if path.stat().st_size > _MOST_BYTES:
        raise WeightsError(f"{source} is larger than 2 GiB, which no GraphDef can be")
    graph = graph_pb2.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except DecodeError:
        graph.Clear()
    # Other Protocol Buffers messages may parse as a GraphDef with unknown fields only.
    if not any(node.op for node in graph.node):
        raise WeightsError(
            f"{source} is damaged or not a GraphDef: expected a frozen graph; "
            "copy or download it again"
        )
    return graph


def _refuse_doubled(source: str, graph: graph_pb2.GraphDef) -> None:
    """Raises WeightsError if a name has two constants, of which either could be meant."""
    counts = Counter(node.name for node in graph.node if node.op == "Const")
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise WeightsError(f"{source} holds several constants called {first_few(doubled)}")


def _refuse_folded(
    source: str, scope: str, names: list[str], constants: dict[str, node_def_pb2.NodeDef]
) -> None:
    """Raises WeightsError if there are no batch norms, whatever the reason."""
    if any("/BatchNorm/" in name for name in names):
        return
    if any(
        name.startswith(f"{scope}/") and _dtype(node).is_floating and _shape(node)
        for name, node in constants.items()
    ):
        raise WeightsError(
            f"{source} was optimized: batch norm is folded into its convolutions, which cannot be "
            "undone; use the checkpoint, or the frozen graph before optimization"
        )
    raise WeightsError(
        f"{source} holds no constants of {scope}/…: it is not frozen; use its checkpoint"
    )


def _dtype(node: node_def_pb2.NodeDef) -> tf.DType:
    """The constant's dtype; string if TensorFlow does not know the dtype's number."""
    try:
        return tf.as_dtype(node.attr["value"].tensor.dtype)
    except TypeError:
        return tf.string


def _shape(node: node_def_pb2.NodeDef) -> tuple[int, ...]:
    return tuple(dim.size for dim in node.attr["value"].tensor.tensor_shape.dim)


def _value(node: node_def_pb2.NodeDef, source: str, size: int) -> np.ndarray:
    tensor = node.attr["value"].tensor
    # TensorFlow reads zeros where there is no value, and repeats a single one.
    claimed = math.prod(_shape(node)) * max(_dtype(node).size, 1)
    if claimed > size or not (tensor.tensor_content or tensor.float_val):
        raise WeightsError(
            f"{source}: {node.name} has no values for its dtype and shape; "
            "copy or download it again"
        )
    try:
        return tf.make_ndarray(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{source}: the value of {node.name} does not fit its dtype and shape; "
            "copy or download it again"
        ) from error


def _image_size(graph: graph_pb2.GraphDef) -> int | None:
    """Height and width in pixels, if the inputs fix one size of images `[batch, size, size, 3]`."""
    sizes = set()
    for node in graph.node:
        if node.op == "Placeholder":
            shape = [dim.size for dim in node.attr["shape"].shape.dim]
            if len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2] >= 32:
                sizes.add(shape[1])
    return sizes.pop() if len(sizes) == 1 else None
