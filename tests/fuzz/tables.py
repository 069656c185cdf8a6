"""The index of a TensorBundle, taken apart and put together again with right checksums.

A forged index has right checksums, so TensorFlow's own writers cannot make one. The index is a
table as LevelDB writes it (tensorflow/core/lib/io/format.h): blocks of sorted keys and values, each
followed by its compression and its checksum, and a footer that says where the blocks are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from tensorflow.core.protobuf import tensor_bundle_pb2

__all__ = ["Entries", "crc32c", "entries", "masked", "mended", "write"]

Entries = list[tuple[bytes, bytes]]
"""The keys and values of a table, in the order of the file; the first is the bundle's header."""

_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48
_TRAILER = 5


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRCS = _crc_table()


def crc32c(content: bytes) -> int:
    """The Castagnoli checksum."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRCS[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> int:
    """The checksum as TensorFlow stores it."""
    crc = crc32c(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _number(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _in_block(block: bytes) -> Entries:
    (restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = len(block) - 4 - 4 * restarts, 0, b""
    found = []
    while at < end:
        shared, at = _number(block, at)
        own, at = _number(block, at)
        length, at = _number(block, at)
        key = key[:shared] + block[at : at + own]
        found.append((key, block[at + own : at + own + length]))
        at += own + length
    return found


def _blocks(content: bytes) -> list[tuple[int, int]]:
    """Where the blocks with entries are: offset and size."""
    footer = content[-_FOOTER:]
    _, at = _number(footer, 0)
    _, at = _number(footer, at)
    offset, at = _number(footer, at)
    size, _ = _number(footer, at)
    found = []
    for _, handle in _in_block(content[offset : offset + size]):
        start, at = _number(handle, 0)
        length, _ = _number(handle, at)
        found.append((start, length))
    return found


def entries(index: Path) -> Entries:
    """All keys and values."""
    content = index.read_bytes()
    return [
        pair
        for start, length in _blocks(content)
        for pair in _in_block(content[start : start + length])
    ]


def mended(content: bytes) -> bytes:
    """A changed index with the checksums of its blocks made right again."""
    changed = bytearray(content)
    for start, length in _blocks(content):
        end = start + length + 1
        changed[end : end + 4] = struct.pack("<I", masked(bytes(changed[start:end])))
    return bytes(changed)


def _block(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    content, restarts = bytearray(), []
    for key, value in pairs:
        # Every entry is a restart: no key shares its beginning with the one before.
        restarts.append(len(content))
        content += b"\0" + _varint(len(key)) + _varint(len(value)) + key + value
    restarts = restarts or [0]
    return (
        bytes(content)
        + struct.pack(f"<{len(restarts)}I", *restarts)
        + struct.pack("<I", len(restarts))
    )


def write(index: Path, pairs: Entries) -> None:
    """Writes a table of the entries in this order, each block with its right checksum."""
    content, handles = bytearray(), []

    def add(block: bytes) -> bytes:
        handle = _varint(len(content)) + _varint(len(block))
        content.extend(block + b"\0" + struct.pack("<I", masked(block + b"\0")))
        return handle

    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        handles.append((part[-1][0], add(_block(part))))
    ends = add(_block([])) + add(_block(handles))
    index.write_bytes(bytes(content) + ends.ljust(_FOOTER - 8, b"\0") + _MAGIC)


def entry(value: bytes) -> tensor_bundle_pb2.BundleEntryProto:
    """What a value of the index says."""
    return tensor_bundle_pb2.BundleEntryProto.FromString(value)
