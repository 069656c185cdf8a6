"""The index of a TensorBundle, read and checked before TensorFlow reads it.

TensorFlow ends the process where an entry of the index cannot be parsed or has an impossible shape,
which a checksum does not prevent in a forged file. What passes here it reads, or refuses with an
error. The index is a table of sorted keys (tensorflow/core/lib/io/format.h, block.cc): blocks of
entries, each followed by a byte for its compression and a checksum, which TensorFlow verifies; a
block that points to these; and a footer that points to that one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

__all__ = ["Entry", "Index", "is_string", "read"]

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER, _TRAILER = 48, 5
_SNAPPY = 1
# The index of a checkpoint with some thousand variables has a megabyte.
_MOST_BYTES = 256 << 20
# TensorFlow's own limits.
_MOST_DIMENSIONS, _MOST_SHARDS = 254, 99_999
_MOST_ELEMENTS = 2**60


@dataclass(frozen=True)
class Entry:
    """A variable.

    Attributes:
      dtype: NumPy's name of its dtype, e.g. `"float32"`.
      shape: Its shape.
      shard: Which of the data files holds it.
      start: Where its bytes begin there.
      end: Where they end.
      sliced: Whether it is stored in parts, which have entries of their own.
    """

    dtype: str
    shape: tuple[int, ...]
    shard: int
    start: int
    end: int
    sliced: bool

    @property
    def bytes(self) -> int:
        """Size of the value in memory; of strings, which have any length, what refers to them."""
        return math.prod(self.shape) * max(tf.as_dtype(self.dtype).size, 1)


class Index(NamedTuple):
    """The number of data files, and the variables by key in sorted order."""

    shards: int
    entries: dict[str, Entry]


def read(path: Path) -> Index:
    """The index at a path.

    Raises:
      ValueError: The file is damaged or no bundle's index; the message says how.
      OSError: The file cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("it is too large for an index")
    content = path.read_bytes()
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise ValueError("it does not end as an index does")
    try:
        pairs = list(_pairs(content))
    except (IndexError, struct.error) as error:
        raise ValueError("a block ends too early") from error
    if not pairs or pairs[0][0]:
        raise ValueError("it has no header")
    shards = _shards(pairs[0][1])
    found: dict[str, Entry] = {}
    last = b""
    for key, value in pairs[1:]:
        if key <= last:
            raise ValueError("its keys are not sorted, or one is there twice")
        last = key
        # The parts of sliced variables, which TensorFlow finds by keys that begin so.
        if key.startswith(b"\0"):
            _parsed(key, value)
            continue
        found[key.decode()] = _entry(key, value, shards)
    return Index(shards, found)


def is_string(stored: bytes) -> bool:
    """Whether the bytes of a scalar string in a data file have the length that they say.

    They are the length, a checksum of it, and the string.
    """
    try:
        length, at = _number(stored, 0)
    except (IndexError, ValueError):
        return False
    return at + 4 + length == len(stored)


def _pairs(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values in the order of the file."""
    footer = len(content) - _FOOTER
    at = footer
    for _ in range(2):
        # The block of other blocks' descriptions is there, and empty.
        _, at = _number(content, at)
    offset, at = _number(content, at)
    size, _ = _number(content, at)
    for _, handle in _block(content, offset, size, footer):
        start, at = _number(handle, 0)
        length, _ = _number(handle, at)
        yield from _block(content, start, length, footer)


def _block(content: bytes, offset: int, size: int, footer: int) -> Iterator[tuple[bytes, bytes]]:
    if offset + size + _TRAILER > footer:
        raise ValueError("a block lies outside the file")
    compression = content[offset + size]
    if compression > _SNAPPY:
        raise ValueError("a block has an unknown compression")
    block = content[offset : offset + size]
    if compression:
        block = _unpacked(block)
    (count,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * count
    if end < 0:
        raise ValueError("a block ends too early")
    restarts = set(struct.unpack(f"<{count}I", block[end:-4]))
    at, key = 0, b""
    while at < end:
        start = at
        shared, at = _number(block, at)
        own, at = _number(block, at)
        length, at = _number(block, at)
        # Searches begin at the restarts, whose keys are whole.
        if shared > len(key) or at + own + length > end or (start in restarts and shared):
            raise ValueError("a block's entries do not fit it")
        restarts.discard(start)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length
    # An empty block has one restart.
    if restarts - {0}:
        raise ValueError("a block's entries do not fit it")


def _unpacked(block: bytes) -> bytes:
    """What Snappy compressed (its format_description.txt), as TensorFlow 1 did for TF Hub."""
    length, at = _number(block, 0)
    found = bytearray()
    while at < len(block):
        tag = block[at]
        at += 1
        kind, size = tag & 3, tag >> 2
        if kind == 0:
            if size > 59:
                extra = size - 59
                size = int.from_bytes(block[at : at + extra], "little")
                at += extra
            found += block[at : at + size + 1]
            at += size + 1
            continue
        if kind == 1:
            size, back = 4 + (size & 7), (tag >> 5) << 8 | block[at]
            at += 1
        else:
            wide = 2 if kind == 2 else 4
            size, back = size + 1, int.from_bytes(block[at : at + wide], "little")
            at += wide
        if not 0 < back <= len(found):
            raise ValueError("a compressed block is damaged")
        for _ in range(size):
            found.append(found[-back])
    if at != len(block) or len(found) != length:
        raise ValueError("a compressed block is damaged")
    return bytes(found)


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where the next one begins."""
    value = 0
    for shift in range(0, 64, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in it is too long")


def _shards(value: bytes) -> int:
    try:
        header = tensor_bundle_pb2.BundleHeaderProto.FromString(value)
    except DecodeError as error:
        raise ValueError("its header is damaged") from error
    if not 1 <= header.num_shards <= _MOST_SHARDS:
        raise ValueError(f"its header speaks of {header.num_shards} data files")
    return header.num_shards


def _parsed(key: bytes, value: bytes) -> tensor_bundle_pb2.BundleEntryProto:
    try:
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
    except DecodeError as error:
        raise ValueError(f"the entry of {_shown(key)} is damaged") from error
    sizes = [dim.size for dim in entry.shape.dim]
    if (
        entry.shape.unknown_rank
        or len(sizes) > _MOST_DIMENSIONS
        or any(size < 0 for size in sizes)
        # Also of the dimensions before one of 0.
        or math.prod(max(size, 1) for size in sizes) > _MOST_ELEMENTS
    ):
        raise ValueError(f"{_shown(key)} has an impossible shape")
    return entry


def _entry(key: bytes, value: bytes, shards: int) -> Entry:
    entry = _parsed(key, value)
    try:
        dtype = tf.as_dtype(entry.dtype)
    except TypeError as error:
        raise ValueError(f"{_shown(key)} has no dtype that TensorFlow knows") from error
    if dtype != dtype.base_dtype:
        # Of a reference to a variable.
        raise ValueError(f"{_shown(key)} has no dtype of values")
    if entry.offset < 0 or entry.size < 0 or not 0 <= entry.shard_id < shards:
        raise ValueError(f"{_shown(key)} lies in no data file")
    found = Entry(
        dtype=dtype.name,
        shape=tuple(dim.size for dim in entry.shape.dim),
        shard=entry.shard_id,
        start=entry.offset,
        end=entry.offset + entry.size,
        sliced=len(entry.slices) > 0,
    )
    for part in entry.slices:
        if len(part.extent) != len(found.shape) or any(
            not 0 <= extent.start <= extent.start + max(extent.length, 0) <= size
            for extent, size in zip(part.extent, found.shape, strict=True)
        ):
            raise ValueError(f"{_shown(key)} has parts that do not fit it")
    if dtype.size and not found.sliced and entry.size != found.bytes:
        raise ValueError(f"{_shown(key)} has {entry.size} bytes, which do not fit its shape")
    return found


def _shown(key: bytes) -> str:
    return repr(key[:100].decode(errors="replace"))
