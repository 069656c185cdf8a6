"""Frozen graphs: flipped, cut and forged. The format has no checksums."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorflow.core.framework import graph_pb2, node_def_pb2
from weight_formats import frozen_graph

from fuzz.cases import ERROR, Change, Expected, Format, Values, cut, flipped, grown, zeroed

__all__ = ["formats"]

_FILE = "frozen.pb"


def _graph(folder: Path) -> graph_pb2.GraphDef:
    return graph_pb2.GraphDef.FromString((folder / _FILE).read_bytes())


def _constant(chance: random.Random, graph: graph_pb2.GraphDef) -> node_def_pb2.NodeDef:
    return chance.choice([node for node in graph.node if node.op == "Const"])


def _forged(change: Callable) -> Change:
    """A change of one constant: `change(chance, node, graph)`."""

    def forge(chance: random.Random, folder: Path) -> Expected:
        graph = _graph(folder)
        expected = change(chance, _constant(chance, graph), graph)
        (folder / _FILE).write_bytes(graph.SerializeToString())
        return expected

    return forge


def _held(folder: Path, values: Values) -> Values:
    """The constants that lie where the seed had them, whatever surrounds them now."""
    content = (folder / _FILE).read_bytes()
    return {
        name: np.frombuffer(content, "<f4", value.size, start).reshape(value.shape)
        for name, value, start in _places(values)
        if start + value.nbytes <= len(content)
    }


_seed: dict[str, bytes] = {}


def _places(values: Values) -> list[tuple[str, np.ndarray, int]]:
    at, found = 0, []
    for name, value in values.items():
        # The node's name comes before its value.
        at = _seed["content"].index(value.tobytes(), _seed["content"].index(name.encode(), at))
        found.append((name, value, at))
    return found


def _flips(values: Values, inside: bool) -> Change:
    """Flips bits of the constants' values, or of what describes them."""

    def change(chance: random.Random, folder: Path) -> Expected:
        content = (folder / _FILE).read_bytes()
        ranges = [(start, start + value.nbytes) for _, value, start in _places(values)]
        ends = [0, *(stop for _, stop in ranges)]
        between = list(zip(ends, (start for start, _ in ranges), strict=False))
        for _ in range(chance.choice((1, 1, 2, 4))):
            start, stop = chance.choice(ranges if inside else between)
            content = flipped(content, chance.randrange(start, stop), chance.randrange(8))
        (folder / _FILE).write_bytes(content)
        return _held(folder, values)

    return change


def _shape(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    shape = node.attr["value"].tensor.tensor_shape
    dim = chance.choice(shape.dim)
    dim.size = chance.choice((0, -1, dim.size + 1, 2**40, 2**62, -(2**63)))
    return ERROR


def _rank(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    shape = node.attr["value"].tensor.tensor_shape
    for _ in range(chance.choice((1, 70, 3000))):
        shape.dim.add(size=chance.choice((1, 2)))
    return ERROR


def _dtype(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    node.attr["value"].tensor.dtype = chance.choice((0, 2, 3, 7, 8, 14, 19, 20, 21, 9999, -1))
    return ERROR


def _length(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    tensor = node.attr["value"].tensor
    content = tensor.tensor_content
    tensor.tensor_content = chance.choice((content[:-4], content[:-1], content + b"\0" * 4))
    return ERROR


def _empty(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    """No values at all, which TensorFlow reads as zeros."""
    tensor = node.attr["value"].tensor
    tensor.tensor_content = b""
    if chance.random() < 0.5:
        tensor.double_val.append(1)
    return ERROR


def _terabyte(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    """Logits of a terabyte, which a single value fills."""
    for each in graph.node:
        if each.op == "Const" and "/Logits/" in each.name:
            tensor = each.attr["value"].tensor
            tensor.tensor_shape.dim[-1].size = 10**9
            tensor.tensor_content = b""
            tensor.float_val.append(0.5)
    return ERROR


def _not_finite(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    tensor = node.attr["value"].tensor
    content = bytearray(tensor.tensor_content)
    at = 4 * chance.randrange(len(content) // 4)
    content[at : at + 4] = np.float32(chance.choice((np.nan, np.inf, -np.inf))).tobytes()
    tensor.tensor_content = bytes(content)
    return ERROR


def _twice(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    again = graph.node.add()
    again.CopyFrom(node)
    tensor = again.attr["value"].tensor
    tensor.tensor_content = bytes(len(tensor.tensor_content))
    return ERROR


def _renamed(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    names = ("", "Größe/重み", "a" * 1_000_000, "../../x", "\n\x1b[2J", "MobilenetV2/Conv/weights")
    node.name = chance.choice(names)
    return ERROR


def _no_value(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    if chance.random() < 0.5:
        del node.attr["value"]
    else:
        node.attr["value"].s = b"text"
    return ERROR


def _cycles(chance: random.Random, node: node_def_pb2.NodeDef, graph: object) -> Expected:
    for each in graph.node:
        each.input.append(chance.choice(graph.node).name)
    return None


def _deep(chance: random.Random, folder: Path) -> Expected:
    """Functions within functions, deeper than a parser may recurse."""
    inner = b""
    for _ in range(chance.choice((90, 200, 5000))):
        # NameAttrList.attr, its value, AttrValue.func
        inner = _field(10, inner)
        inner = _field(2, b"\n\1k" + _field(2, inner))
    node = _field(1, b"\n\4deep\x12\4NoOp" + _field(5, b"\n\1k" + _field(2, inner)))
    path = folder / _FILE
    path.write_bytes(node + path.read_bytes())
    return None


def _field(number: int, content: bytes) -> bytes:
    length, size = len(content), bytearray()
    while length >= 0x80:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


def _sparse(chance: random.Random, folder: Path) -> Expected:
    """A file of a terabyte that takes no room on the disk."""
    with (folder / _FILE).open("r+b") as file:
        file.truncate(1 << 40)
    return ERROR


def formats(values: Values) -> list[Format]:
    """The format; the seed has these values by Slim name."""

    def make(folder: Path) -> None:
        frozen_graph(folder / _FILE, values, 64)
        _seed["content"] = (folder / _FILE).read_bytes()

    def as_held(change: Change) -> Change:
        def changed(chance: random.Random, folder: Path) -> Expected:
            change(chance, folder)
            return _held(folder, values)

        return changed

    changes = {
        "values: flipped bits": _flips(values, inside=True),
        "descriptions: flipped bits": _flips(values, inside=False),
        "cut": as_held(cut(_FILE)),
        "bytes appended": as_held(grown(_FILE)),
        "zeroed block": as_held(zeroed(_FILE)),
        "functions within functions": _deep,
        "a file of a terabyte": _sparse,
        **{
            name: _forged(change)
            for name, change in {
                "forged shape": _shape,
                "forged rank": _rank,
                "forged dtype": _dtype,
                "forged length": _length,
                "no values": _empty,
                "a terabyte of logits": _terabyte,
                "NaN and infinity": _not_finite,
                "one name twice": _twice,
                "renamed constant": _renamed,
                "no value": _no_value,
                "cycles": _cycles,
            }.items()
        },
    }
    return [Format("frozen graph", make, _FILE, changes, once=frozenset({"a file of a terabyte"}))]
