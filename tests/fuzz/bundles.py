"""TF-Slim's checkpoints, and TensorFlow 2's with their object graph: flipped, cut and forged."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2, trackable_object_graph_pb2
from weight_formats import hub_module

from fuzz import tables
from fuzz.cases import ERROR, Change, Expected, Format, Values, cut, flips, grown, zeroed

__all__ = ["formats"]

_INDEX, _DATA = ".index", ".data-00000-of-00001"
_GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"
# In Slim's checkpoints, and in those that keep a list of variables.
_OF_NETWORK = re.compile(rb"Mobilenet|variables/")
_HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)


def _forged(prefix: str, change: Callable) -> Change:
    """A change of the index's entries: `change(chance, pairs, data)`; checksums stay right."""

    def forge(chance: random.Random, folder: Path) -> Expected:
        index, data = folder / f"{prefix}{_INDEX}", folder / f"{prefix}{_DATA}"
        pairs = tables.entries(index)
        expected = change(chance, pairs, data)
        tables.write(index, pairs)
        return expected

    return forge


def _pick(chance: random.Random, pairs: tables.Entries) -> int:
    """The place of an entry of the network."""
    return chance.choice([n for n, (key, _) in enumerate(pairs) if _OF_NETWORK.match(key)])


def _entry(change: Callable) -> Callable:
    """Changes one variable's entry: `change(chance, entry)`."""

    def changed(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
        place = _pick(chance, pairs)
        key, value = pairs[place]
        entry = tables.entry(value)
        expected = change(chance, entry)
        pairs[place] = key, entry.SerializeToString()
        return expected

    return changed


def _dtype(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    entry.dtype = chance.choice([0, 2, 3, 4, 7, 9, 10, 14, 19, 20, 21, 101, 9999])
    return ERROR


def _shape(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    sizes = [dim.size for dim in entry.shape.dim]
    new = chance.choice(
        (
            [*sizes, 1],
            [1, *sizes],
            sizes[:-1],
            [*sizes[:-1], *([sizes[-1] + 1] if sizes else [2])],
            [-1] * max(len(sizes), 1),
            [*sizes[:-1], chance.choice(_HUGE)],
            [chance.choice(_HUGE)] * max(len(sizes), 1),
            [0, *sizes[1:]],
            [-(2**63), *sizes[1:]],
            [1] * 300,
        )
    )
    del entry.shape.dim[:]
    for size in new:
        entry.shape.dim.add(size=size)
    return ERROR if new != sizes else None


def _unknown_rank(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    entry.shape.unknown_rank = True
    return None


def _offset(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    entry.offset = chance.choice((-1, -(2**63), entry.offset + 4, entry.offset + 1, 10**9, *_HUGE))
    return ERROR


def _size(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    entry.size = chance.choice((0, -1, -(2**63), entry.size + 4, entry.size - 1, *_HUGE))
    return ERROR


def _shard(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    entry.shard_id = chance.choice((1, -1, 99999, 100000, 2**31 - 1, -(2**31)))
    return ERROR


def _crc(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    entry.crc32c ^= 1 << chance.randrange(32)
    return ERROR


def _slices(chance: random.Random, entry: tensor_bundle_pb2.BundleEntryProto) -> Expected:
    for _ in range(chance.choice((1, 3))):
        part = entry.slices.add()
        for _ in range(chance.choice((0, len(entry.shape.dim), 9))):
            part.extent.add(start=chance.choice((0, -1, 5, 2**62)), length=chance.choice((-1, 1)))
    # They may be the whole of it.
    return None


def _classes(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    """Logits of a terabyte: the kernel and the biases agree, and so does the size."""
    classes = chance.choice((10**9, 10**12, 2**40))
    for place, (key, value) in enumerate(pairs):
        entry = tables.entry(value)
        # The sample's classes, and no layer's channels.
        if key and key != _GRAPH and entry.shape.dim and entry.shape.dim[-1].size == 5:
            entry.shape.dim[-1].size = classes
            entry.size = 4 * int(np.prod([float(dim.size) for dim in entry.shape.dim]))
            pairs[place] = key, entry.SerializeToString()
    return ERROR


def _header(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    header = tensor_bundle_pb2.BundleHeaderProto.FromString(pairs[0][1])
    kind = chance.randrange(4)
    if kind == 0:
        header.num_shards = chance.choice((0, -1, 2, 100000, 2**31 - 1))
    elif kind == 1:
        header.endianness = 1
    elif kind == 2:
        header.version.min_consumer = chance.choice((1, 2**31 - 1, -1))
    else:
        header.version.producer = chance.choice((0, -5, 2**31 - 1))
    pairs[0] = b"", header.SerializeToString()
    return None


def _no_header(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    pairs[0] = chance.choice([(b"", b""), (b"", b"\xff" * 20), (b"\0", pairs[0][1])])
    return None


def _no_entry(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    pairs[_pick(chance, pairs)] = pairs[-1][0] + b"~", b"\xff\xff\xff"
    return ERROR


def _order(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    pairs[1:] = chance.sample(pairs[1:], len(pairs) - 1)
    return None


def _renamed(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    place = _pick(chance, pairs)
    names = [
        b"\xff\xfe",
        "Größe/重み".encode(),
        b"a" * 1_000_000,
        b"\0",
        b"../../etc",
        b"\n\x1b[2J",
    ]
    pairs[place] = chance.choice(names), pairs[place][1]
    pairs.sort()
    return ERROR


def _added(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    value = pairs[_pick(chance, pairs)][1]
    # An object graph says which keys count.
    named = any(key == _GRAPH for key, _ in pairs)
    scope = chance.choice([b"", b"MobilenetV1/", b"MobilenetV2/Conv/"])
    count = chance.choice((1, 1, 2000))
    pairs += [(scope + "überzählig/%d".encode() % n, value) for n in range(count)]
    pairs.sort()
    return None if named else ERROR


def _twice(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    """One key with two values: the file says nothing certain, so it is refused."""
    place = _pick(chance, pairs)
    key, value = pairs[place]
    entry = tables.entry(value)
    content = bytes(entry.size)
    entry.offset = data.stat().st_size
    entry.crc32c = tables.masked(content)
    with data.open("ab") as file:
        file.write(content)
    pairs.insert(place + chance.choice((0, 1)), (key, entry.SerializeToString()))
    return ERROR


def _not_finite(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    floats = [n for n, (key, value) in enumerate(pairs) if key and tables.entry(value).dtype == 1]
    place = chance.choice([n for n in floats if tables.entry(pairs[n][1]).size])
    key, value = pairs[place]
    entry, content = tables.entry(value), bytearray(data.read_bytes())
    at = entry.offset + 4 * chance.randrange(entry.size // 4)
    bad = chance.choice((np.nan, np.inf, -np.inf))
    content[at : at + 4] = np.float32(bad).tobytes()
    data.write_bytes(content)
    entry.crc32c = tables.masked(bytes(content[entry.offset : entry.offset + entry.size]))
    pairs[place] = key, entry.SerializeToString()
    return ERROR


def _flips_in_blocks(prefix: str) -> Change:
    """Flips bits of the index and mends the checksums, as an attacker would."""

    def change(chance: random.Random, folder: Path) -> Expected:
        index = folder / f"{prefix}{_INDEX}"
        content = bytearray(index.read_bytes())
        for _ in range(chance.choice((1, 1, 2, 8))):
            content[chance.randrange(len(content) - 300)] ^= 1 << chance.randrange(8)
        index.write_bytes(tables.mended(bytes(content)))
        return None

    return change


def _only(prefix: str, *suffixes: str) -> Change:
    def change(chance: random.Random, folder: Path) -> Expected:
        (folder / f"{prefix}.meta").write_bytes(b"\n\x04meta")
        for path in list(folder.glob(f"{prefix}.*")):
            if not path.name.endswith(suffixes):
                path.unlink()
        return ERROR

    return change


def _other_shards(prefix: str) -> Change:
    def change(chance: random.Random, folder: Path) -> Expected:
        data = folder / f"{prefix}{_DATA}"
        kind = chance.randrange(4)
        if kind == 0:
            data.rename(folder / f"{prefix}.data-00000-of-00002")
        elif kind == 1:
            data.rename(folder / f"{prefix}.data-00001-of-00001")
        elif kind == 2:
            shutil.copy(data, folder / f"{prefix}.data-00000-of-00002")
            shutil.copy(data, folder / f"{prefix}.data-00001-of-00002")
            return None
        else:
            data.unlink()
            data.mkdir()
        return ERROR

    return change


def _v1_format(prefix: str, values: Values) -> Change:
    """TensorFlow's first format, one file without an index."""

    def change(chance: random.Random, folder: Path) -> Expected:
        for path in list(folder.glob(f"{prefix}.*")):
            path.unlink()
        names = sorted(values)
        tf.raw_ops.Save(
            filename=str(folder / prefix), tensor_names=names, data=[values[n] for n in names]
        )
        content = (folder / prefix).read_bytes()
        if chance.random() < 0.5:
            (folder / prefix).write_bytes(content[: chance.randrange(len(content))])
        if chance.random() < 0.5:
            (folder / f"{prefix}.meta").write_bytes(b"\n\x04meta")
        return None

    return change


def _bundle(prefix: str) -> dict[str, Change]:
    """The changes of any bundle."""
    forged = {
        "forged dtype": _entry(_dtype),
        "forged shape": _entry(_shape),
        "unknown rank": _entry(_unknown_rank),
        "forged offset": _entry(_offset),
        "forged size": _entry(_size),
        "forged shard": _entry(_shard),
        "forged checksum": _entry(_crc),
        "forged slices": _entry(_slices),
        "forged header": _header,
        "damaged header": _no_header,
        "damaged entry": _no_entry,
        "unsorted keys": _order,
        "renamed key": _renamed,
        "added keys": _added,
        "one key twice": _twice,
        "NaN and infinity": _not_finite,
        "a terabyte of logits": _classes,
    }
    return {
        "index: flipped bits": flips(prefix + _INDEX),
        "index: cut": cut(prefix + _INDEX),
        "index: bytes appended": grown(prefix + _INDEX),
        "index: zeroed block": zeroed(prefix + _INDEX),
        "data: flipped bits": flips(prefix + _DATA),
        "data: cut": cut(prefix + _DATA),
        "data: bytes appended": grown(prefix + _DATA),
        "data: zeroed block": zeroed(prefix + _DATA),
        **{name: _forged(prefix, change) for name, change in forged.items()},
        "index: flipped bits, right checksums": _flips_in_blocks(prefix),
        "only .meta": _only(prefix, ".meta"),
        "no data": _only(prefix, _INDEX, ".meta"),
        "no index": _only(prefix, _DATA),
        "other shards": _other_shards(prefix),
    }


_ONCE = frozenset({"only .meta", "no data", "no index"})


def _graph(change: Callable) -> Callable:
    """A change of the object graph: `change(chance, graph)`; its checksum stays right."""

    def changed(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
        place = next(n for n, (key, _) in enumerate(pairs) if key == _GRAPH)
        entry, content = tables.entry(pairs[place][1]), data.read_bytes()
        stored = content[entry.offset : entry.offset + entry.size]
        # The length, the checksum of the lengths, the bytes.
        start = len(stored) - _length_of(stored)
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(stored[start:])
        expected = change(chance, graph)
        if isinstance(expected, bytes):
            raw, expected = expected, None
        else:
            raw = graph.SerializeToString()
        lengths = np.uint32(len(raw)).tobytes()
        text = tables._varint(len(raw)) + np.uint32(tables.masked(lengths)).tobytes() + raw
        entry.offset, entry.size = len(content), len(text)
        # The checksum of a string's entry is over the lengths as numbers, their own, and the bytes.
        entry.crc32c = tables.masked(lengths + np.uint32(tables.masked(lengths)).tobytes() + raw)
        data.write_bytes(content + text)
        pairs[place] = _GRAPH, entry.SerializeToString()
        return expected

    return changed


def _graph_length(chance: random.Random, pairs: tables.Entries, data: Path) -> Expected:
    """A string that says it is longer than the file, with right checksums."""
    place = next(n for n, (key, _) in enumerate(pairs) if key == _GRAPH)
    entry, content = tables.entry(pairs[place][1]), data.read_bytes()
    length = chance.choice((2**31, 2**32, 2**40, 2**63, 2**64 - 1))
    number = length.to_bytes(8 if length >= 2**32 else 4, "little")
    check = np.uint32(tables.masked(number)).tobytes()
    text = tables._varint(length) + check + bytes(100)
    entry.offset, entry.size = len(content), len(text)
    entry.crc32c = tables.masked(number + check + bytes(100))
    data.write_bytes(content + text)
    pairs[place] = _GRAPH, entry.SerializeToString()
    return ERROR


def _length_of(stored: bytes) -> int:
    return tables._number(stored, 0)[0]


_Graph = trackable_object_graph_pb2.TrackableObjectGraph


def _node(chance: random.Random, graph: _Graph, variable: bool = False) -> int:
    return chance.choice(
        [n for n, node in enumerate(graph.nodes) if bool(node.attributes) or not variable]
    )


def _child(chance: random.Random, graph: _Graph) -> Expected:
    node = chance.choice([node for node in graph.nodes if node.children])
    child = chance.choice(node.children)
    child.node_id = chance.choice((-1, -5, -(2**31), 2**31 - 1, len(graph.nodes), 0, 1))
    return None


def _cycle(chance: random.Random, graph: _Graph) -> Expected:
    for _ in range(20):
        graph.nodes[_node(chance, graph)].children.add(
            node_id=chance.randrange(len(graph.nodes)), local_name="again"
        )
    return None


def _chain(chance: random.Random, graph: _Graph) -> Expected:
    """Objects within objects, so that paths through them add up to gigabytes."""
    last, name = 0, "n" * 1000
    for _ in range(20_000):
        graph.nodes[last].children.add(node_id=len(graph.nodes), local_name=name)
        last = len(graph.nodes)
        graph.nodes.add()
    return None


def _key(chance: random.Random, graph: _Graph) -> Expected:
    node = graph.nodes[_node(chance, graph, variable=True)]
    other = graph.nodes[_node(chance, graph, variable=True)]
    keys = ["", "no/such/.ATTRIBUTES/VARIABLE_VALUE", other.attributes[0].checkpoint_key, "\u202e"]
    same = node.attributes[0].checkpoint_key
    node.attributes[0].checkpoint_key = chance.choice(keys)
    return None if node.attributes[0].checkpoint_key == same else ERROR


def _full_name(chance: random.Random, graph: _Graph) -> Expected:
    node = graph.nodes[_node(chance, graph, variable=True)]
    other = graph.nodes[_node(chance, graph, variable=True)]
    same = node.attributes[0].full_name
    names = ["", "MobilenetV1/x/weights", other.attributes[0].full_name, "../x", "a" * 100_000]
    node.attributes[0].full_name = chance.choice(names)
    return None if node.attributes[0].full_name == same else ERROR


def _slots(chance: random.Random, graph: _Graph) -> Expected:
    node = graph.nodes[_node(chance, graph)]
    node.slot_variables.add(original_variable_node_id=-1, slot_name="x", slot_variable_node_id=9**9)
    return None


def _no_graph(chance: random.Random, graph: _Graph) -> Expected:
    whole = graph.SerializeToString()
    place = chance.randrange(len(whole))
    return chance.choice((b"", b"\xff" * 50, whole[:place], b"\n" * 500, whole[:place] + b"\0"))


def formats(values: Values, sample: Path) -> list[Format]:
    """The formats.

    Args:
      values: The seed's, by Slim name.
      sample: The prefix of a checkpoint with these values.
    """

    def copied(folder: Path) -> None:
        for suffix in (_INDEX, _DATA):
            shutil.copy(f"{sample}{suffix}", folder / f"model.ckpt{suffix}")

    def saved(folder: Path) -> None:
        hub_module(folder / "module", values, 64)

    def object_graph(name: str, change: Callable) -> tuple[str, Change]:
        return f"object graph: {name}", _forged("module/variables/variables", _graph(change))

    graph_changes = dict(
        [
            object_graph("children", _child),
            object_graph("cycles", _cycle),
            object_graph("20,000 objects deep", _chain),
            object_graph("keys", _key),
            object_graph("names", _full_name),
            object_graph("slots", _slots),
            object_graph("damaged", _no_graph),
            ("object graph: forged length", _forged("module/variables/variables", _graph_length)),
        ]
    )
    in_module = "module/saved_model.pb"
    return [
        Format(
            "TF-Slim checkpoint",
            copied,
            "model.ckpt",
            {**_bundle("model.ckpt"), "V1 format": _v1_format("model.ckpt", values)},
            once=_ONCE,
        ),
        Format(
            "TF2 SavedModel",
            saved,
            "module",
            {
                **_bundle("module/variables/variables"),
                **graph_changes,
                "saved_model.pb: flipped bits": flips(in_module),
                "saved_model.pb: cut": cut(in_module),
                "saved_model.pb: zeroed block": zeroed(in_module),
            },
            once=_ONCE,
        ),
    ]
