"""Keras's containers: an HDF5 file, or a `.keras` zip of an HDF5 file and the configuration.

An HDF5 file can point to other files, and claim sizes that it does not hold; both are refused.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mobilenets.weights.errors import WeightsError

__all__ = ["MOST_ENTRIES", "contents", "is_keras", "opened", "read_datasets"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_WEIGHTS, _CONFIG, _METADATA = "model.weights.h5", "config.json", "metadata.json"
# A MobileNet V2 1.4 with the two slots of Adam is 75 MB.
_MOST_BYTES = 1 << 30
# The most bytes that deflate makes of one byte; and more variables than any layer has.
_MOST_EXPANSION, MOST_ENTRIES = 1032, 100_000
_DAMAGED = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def is_keras(path: Path) -> bool:
    """Whether a file is HDF5 or a zip that Keras wrote, damaged or not, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_HDF5):
        return True
    if not start.startswith(_ZIP):
        return False
    # Keras writes the metadata first; another program may have packed the same files again.
    if start[30:].startswith(_METADATA.encode()):
        return True
    with contextlib.suppress(zipfile.BadZipFile, OSError, NotImplementedError):
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        return _WEIGHTS in names or {_CONFIG, _METADATA} <= names
    return False


@contextlib.contextmanager
def opened(path: Path, source: str) -> Iterator[tuple[h5py.File, Mapping[str, Any] | None]]:
    """The HDF5 file at a path or in the zip there, and the zip's configuration."""
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == _ZIP
        if not zipped:
            with h5py.File(path, "r") as weights:
                yield weights, None
            return
        with zipfile.ZipFile(path) as archive:
            if _WEIGHTS not in archive.namelist():
                raise WeightsError(f"{source} is a .keras file without {_WEIGHTS}: save it again")
            content = _member(archive, _WEIGHTS, source)
            config = json.loads(_member(archive, _CONFIG, source))
        with h5py.File(io.BytesIO(content), "r") as weights:
            yield weights, config if isinstance(config, dict) else None
    except WeightsError:
        raise
    except PermissionError as error:
        raise WeightsError(f"cannot read {source}: {error.strerror}") from error
    except RecursionError as error:
        raise WeightsError(f"{source}: its configuration is nested too deeply") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{source} is damaged or incomplete ({reason}); copy or download it again"
        ) from error


def _member(archive: zipfile.ZipFile, name: str, source: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _MOST_BYTES:
        raise WeightsError(
            f"{source}: {name} in it has {size} bytes; no more than {_MOST_BYTES} are read"
        )
    return archive.read(name)


def read_datasets(path: Path, source: str, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The values of datasets by key.

    Raises:
      WeightsError: The file is damaged, or a dataset claims more than its bytes can hold.
    """
    with opened(path, source) as (file, _):
        values = {}
        for key in keys:
            dataset = file[key]
            _check(dataset, key, source)
            values[key] = np.asarray(dataset[()])
        return values


def _check(dataset: h5py.Dataset, key: str, source: str) -> None:
    """Raises WeightsError for values that HDF5 would make up, or convert from another format."""
    if dataset.shape is None:
        raise WeightsError(f"{source}: {key} holds nothing")
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    held = dataset.id.get_storage_size()
    # Values that were never written read as zeros; compressed ones may expand to any size.
    if dataset.chunks is None:
        lacking = held < claimed
    else:
        chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        lacking = claimed > max(held, 1) * _MOST_EXPANSION or dataset.id.get_num_chunks() < chunks
    if lacking or claimed > _MOST_BYTES:
        raise WeightsError(f"{source}: {key} claims {claimed} bytes, but the file holds {held}")
    if dataset.dtype == np.float32 and not dataset.id.get_type().equal(h5py.h5t.IEEE_F32LE):
        raise WeightsError(f"{source}: {key} has another format of numbers than float32")


def contents(file: h5py.File, source: str) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shapes of all datasets by path, and the paths of all groups, sorted."""
    shapes: dict[str, tuple[int, ...]] = {}
    groups: list[str] = []
    seen = {h5py.h5o.get_info(file.id).addr}
    waiting = [("", file["/"])]
    stored: list[tuple[int, int, str]] = []
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            path = f"{prefix}{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise WeightsError(
                    f"{source}: {path} links elsewhere ({type(link).__name__}); save the "
                    "weights themselves"
                )
            member = group[name]
            address = h5py.h5o.get_info(member.id).addr
            if address in seen or len(seen) > MOST_ENTRIES:
                raise WeightsError(f"{source}: {path} is linked twice, or one of too many")
            seen.add(address)
            if isinstance(member, h5py.Group):
                groups.append(path)
                waiting.append((f"{path}/", member))
            elif isinstance(member, h5py.Dataset):
                if member.external or member.is_virtual:
                    raise WeightsError(f"{source}: {path} has its values in another file")
                shapes[path] = tuple(member.shape or ())
                if (start := member.id.get_offset()) is not None:
                    stored.append((start, start + member.id.get_storage_size(), path))
    stored.sort()
    for (_, end, path), (start, _, other) in itertools.pairwise(stored):
        if start < end:
            raise WeightsError(
                f"{source}: {path} and {other} have the same bytes; copy or download it again"
            )
    return dict(sorted(shapes.items())), sorted(groups)
