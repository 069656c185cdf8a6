"""Indexes that TensorFlow would not survive, or would read as something else, are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from fuzz import tables
from refusals import refused
from slim_checkpoints import DATA, INDEX, opened
from tensorflow.core.protobuf import tensor_bundle_pb2

from mobilenets.weights import bundle_index

BIASES = b"MobilenetV1/Logits/Conv2d_1c_1x1/biases"
_Entry = tensor_bundle_pb2.BundleEntryProto


def forged(model: Path, change: Callable[[tables.Entries], None]) -> None:
    """Changes an index's entries; its checksums are right."""
    pairs = tables.entries(Path(f"{model}{INDEX}"))
    change(pairs)
    tables.write(Path(f"{model}{INDEX}"), pairs)


def entry(change: Callable[[_Entry], None]) -> Callable[[tables.Entries], None]:
    """A change of the entry of the biases, of shape [600]."""

    def changed(pairs: tables.Entries) -> None:
        place = next(n for n, (key, _) in enumerate(pairs) if key == BIASES)
        found = tables.entry(pairs[place][1])
        change(found)
        pairs[place] = BIASES, found.SerializeToString()

    return changed


def shape(*sizes: int) -> Callable[[tables.Entries], None]:
    def change(found: _Entry) -> None:
        del found.shape.dim[:]
        for size in sizes:
            found.shape.dim.add(size=size)

    return entry(change)


def unknown_rank(found: _Entry) -> None:
    found.shape.unknown_rank = True


def a_slice(found: _Entry) -> None:
    found.slices.add().extent.add(start=500, length=101)


def header(**fields: int) -> Callable[[tables.Entries], None]:
    def change(pairs: tables.Entries) -> None:
        found = tensor_bundle_pb2.BundleHeaderProto(**fields)
        pairs[0] = b"", found.SerializeToString()

    return change


def twice(pairs: tables.Entries) -> None:
    pairs.insert(1, pairs[1])


FORGED = {
    # TensorFlow 2.21 ends the process at these.
    "an entry that is none": (
        lambda pairs: pairs.append((b"~", b"\xff\xff")),
        "the entry of '~' is damaged",
    ),
    "a negative dimension": (shape(-1), "impossible shape"),
    "dimensions whose product overflows": (shape(2**62, 2**62), "impossible shape"),
    "300 dimensions": (shape(*[1] * 300), "impossible shape"),
    "a reference": (entry(lambda e: setattr(e, "dtype", 101)), "no dtype of values"),
    # At these it does not, or not always.
    "an unknown rank": (entry(unknown_rank), "impossible shape"),
    "a size that does not fit": (shape(599), "2400 bytes, which do not fit its shape"),
    "an unknown dtype": (entry(lambda e: setattr(e, "dtype", 9999)), "no dtype that TensorFlow"),
    "a negative offset": (entry(lambda e: setattr(e, "offset", -1)), "lies in no data file"),
    "a file that is none": (entry(lambda e: setattr(e, "shard_id", 7)), "lies in no data file"),
    "a part beyond the end": (entry(a_slice), "parts that do not fit it"),
    "no data files": (header(num_shards=0), "speaks of 0 data files"),
    "too many data files": (header(num_shards=2**31 - 1), "speaks of 2147483647 data files"),
    "a damaged header": (lambda pairs: pairs.__setitem__(0, (b"", b"\xff")), "header is damaged"),
    "no header": (lambda pairs: pairs.pop(0), "it has no header"),
    "a key twice": (twice, "not sorted, or one is there twice"),
    "unsorted keys": (lambda pairs: pairs.append(pairs.pop(1)), "not sorted"),
    "a key that is no text": (lambda pairs: pairs.append((b"\xff", pairs[1][1])), "utf-8"),
}


@pytest.mark.parametrize(("change", "message"), FORGED.values(), ids=FORGED)
def test_a_forged_index_is_refused(
    change: Callable[[tables.Entries], None], message: str, model: Path
) -> None:
    forged(model, change)
    with refused(f"model.ckpt-20.index is damaged or not a checkpoint's index .*{message}"):
        opened(model).__enter__()


def test_what_is_forged_is_what_was_written(model: Path) -> None:
    """What the other tests build on."""
    before = bundle_index.read(Path(f"{model}{INDEX}"))
    forged(model, lambda pairs: None)
    assert bundle_index.read(Path(f"{model}{INDEX}")) == before
    reader = tf.compat.v1.train.NewCheckpointReader(str(model))
    shapes = {key: tuple(sizes) for key, sizes in reader.get_variable_to_shape_map().items()}
    assert shapes == {key: found.shape for key, found in before.entries.items()}


def huge(found: _Entry) -> None:
    found.shape.dim[0].size = 10**12
    found.size = 4 * 10**12


def resource(found: _Entry) -> None:
    found.dtype = tf.resource.as_datatype_enum


@pytest.mark.parametrize(
    ("change", "reason"),
    [(huge, "it ends too early"), (resource, "its dtype is resource")],
    ids=["a terabyte", "what is no number"],
)
def test_an_entry_is_checked_before_it_is_read(
    change: Callable[[_Entry], None], reason: str, model: Path, values: dict[str, np.ndarray]
) -> None:
    forged(model, entry(change))
    others = sorted(key for key in values if key.encode() != BIASES)
    with opened(model) as checkpoint:
        assert checkpoint.read(others).keys() == set(others)
        with refused(f"cannot read {BIASES.decode()}: .*{reason}"):
            checkpoint.read([BIASES.decode()])


def test_a_length_beyond_the_data_is_not_believed(model: Path) -> None:
    data = Path(f"{model}{DATA}")
    length = struct.pack("<Q", 2**40)
    check = struct.pack("<I", tables.masked(length))
    text = b"\x80\x80\x80\x80\x80\x20" + check
    at = data.stat().st_size
    data.write_bytes(data.read_bytes() + text)

    def a_string(found: _Entry) -> None:
        del found.shape.dim[:]
        found.dtype, found.offset, found.size = 7, at, len(text)
        found.crc32c = tables.masked(length + check)

    forged(model, entry(a_string))
    with opened(model) as checkpoint, refused("cannot read .*it is no string"):
        checkpoint.read_bytes(BIASES.decode())


def block_of(compressed: bytes) -> bytes:
    """An index with one block, compressed by Snappy."""
    handle = tables._varint(0) + tables._varint(len(compressed))
    content = compressed + b"\1" + struct.pack("<I", tables.masked(compressed + b"\1"))
    ends = []
    for block in (tables._block([]), tables._block([(b"~", handle)])):
        ends.append(tables._varint(len(content)) + tables._varint(len(block)))
        content += block + b"\0" + struct.pack("<I", tables.masked(block + b"\0"))
    footer = b"".join(ends).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    return content + footer


@pytest.fixture
def compressible(tmp_path: Path) -> tuple[Path, bytes, bytes]:
    """The path of an index, its one block, and the same compressed by literals and copies."""
    value = _Entry(dtype=1, size=4).SerializeToString()
    pairs = [(b"", tensor_bundle_pb2.BundleHeaderProto(num_shards=1).SerializeToString())]
    pairs += [(b"a" * 70, value), (b"b" * 70, value)]
    plain = tables._block(pairs)
    first = plain.index(b"a" * 70) + 1
    second = plain.index(b"b" * 70) + 1
    between = plain[first + 69 : second]
    packed = tables._varint(len(plain))
    packed += bytes([first - 1 << 2]) + plain[:first]
    # 64 bytes and 5 bytes, each from the byte before.
    run = bytes([63 << 2 | 2, 1, 0]) + bytes([1 << 2 | 1, 1])
    packed += run + bytes([len(between) - 1 << 2]) + between + run
    packed += bytes([len(plain) - second - 69 - 1 << 2]) + plain[second + 69 :]
    return tmp_path / "model.index", plain, packed


def test_a_compressed_index(compressible: tuple[Path, bytes, bytes]) -> None:
    path, plain, packed = compressible
    assert len(packed) < len(plain)
    path.write_bytes(block_of(packed))
    path.with_suffix(".data-00000-of-00001").write_bytes(bytes(4))
    found = bundle_index.read(path)
    reader = tf.compat.v1.train.NewCheckpointReader(str(path.with_suffix("")))
    assert found.entries.keys() == reader.get_variable_to_shape_map().keys()
    assert list(found.entries) == ["a" * 70, "b" * 70]


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed[:-1],
        lambda packed: b"\1" + packed[1:],
        lambda packed: packed.replace(bytes([63 << 2 | 2, 1, 0]), bytes([63 << 2 | 2, 0, 0])),
        lambda packed: packed.replace(bytes([63 << 2 | 2, 1, 0]), bytes([63 << 2 | 2, 255, 255])),
        lambda packed: packed + bytes([63 << 2]),
    ],
    ids=["cut", "another length", "from nowhere", "from before the beginning", "no literal"],
)
def test_a_damaged_compressed_index(
    change: Callable[[bytes], bytes], compressible: tuple[Path, bytes, bytes]
) -> None:
    path, _, packed = compressible
    path.write_bytes(block_of(change(packed)))
    with pytest.raises(ValueError, match=r"damaged|ends too early|too long"):
        bundle_index.read(path)


@pytest.mark.parametrize("size", [0, 10, 47])
def test_what_is_too_short(size: int, tmp_path: Path) -> None:
    (tmp_path / "model.index").write_bytes(bytes(size))
    with pytest.raises(ValueError, match="does not end as an index does"):
        bundle_index.read(tmp_path / "model.index")


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.index").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="too large for an index"):
        bundle_index.read(tmp_path / "model.index")
