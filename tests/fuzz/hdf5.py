"""Keras's files: HDF5 in its three layouts, and the zip of `.keras`."""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

import mobilenets
from fuzz.cases import ERROR, Change, Expected, Format, Values, cut, flipped, flips, grown, zeroed
from mobilenets import weights

__all__ = ["formats"]

_MEMBER = "model.weights.h5"


class _Seed:
    """Where the seed keeps each value, by Slim name."""

    def __init__(self, path: Path) -> None:
        with weights.open(path) as found:
            self.keys = dict(found.keys)
            self.shapes = dict(found.shapes)
        with h5py.File(path, "r") as file:
            self.places = {name: file[key].id.get_offset() for name, key in self.keys.items()}

    def ranges(self) -> list[tuple[int, int]]:
        return sorted(
            (place, place + 4 * int(np.prod(self.shapes[name])))
            for name, place in self.places.items()
        )

    def held(self, content: bytes) -> Values:
        """The values that lie where the seed had them."""
        return {
            name: np.frombuffer(content, "<f4", int(np.prod(shape)), self.places[name]).reshape(
                shape
            )
            for name, shape in self.shapes.items()
            if self.places[name] + 4 * int(np.prod(shape)) <= len(content)
        }


def _in_file(change: Callable) -> Callable[[_Seed, str], Change]:
    """A change of one variable's dataset: `change(chance, file, key, folder)`."""

    def bound(seed: _Seed, name: str) -> Change:
        def changed(chance: random.Random, folder: Path) -> Expected:
            with h5py.File(folder / name, "r+") as file:
                return change(chance, file, chance.choice(sorted(seed.keys.values())), folder)

        return changed

    return bound


def _replaced(file: h5py.File, key: str, **arguments: object) -> h5py.Dataset:
    """A dataset in place of another, with its values unless others are given."""
    value = file[key][()]
    del file[key]
    if "shape" not in arguments and "data" not in arguments:
        arguments["data"] = value
    return file.create_dataset(key, **arguments)


def _external_link(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    del file[key]
    file[key] = h5py.ExternalLink(chance.choice(("/etc/passwd", "other.h5", "/dev/zero")), "/x")
    return ERROR


def _soft_link(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    del file[key]
    file[key] = h5py.SoftLink(chance.choice(("/no/such", f"/{key}", "/", ".")))
    return ERROR


def _hard_links(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    if chance.random() < 0.5:
        file[f"{key}_again"] = file[key]
    else:
        # A cycle: a group within itself.
        file[f"{key.rpartition('/')[0]}/cycle"] = file["/"]
    return ERROR


def _virtual(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    shape = file[key].shape
    del file[key]
    layout = h5py.VirtualLayout(shape=shape, dtype="<f4")
    layout[...] = h5py.VirtualSource("other.h5", "x", shape=shape)
    file.create_virtual_dataset(key, layout)
    return ERROR


def _external_storage(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    shape = file[key].shape
    size = 4 * int(np.prod(shape))
    external = [(chance.choice(("/etc/passwd", "/dev/zero", "raw.bin")), 0, size)]
    _replaced(file, key, shape=shape, dtype="<f4", external=external)
    return ERROR


def _unwritten(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    """A dataset without values, which HDF5 reads as zeros."""
    shape = file[key].shape
    chunks = tuple(max(1, n // 2) for n in shape) if chance.random() < 0.5 else None
    dataset = _replaced(file, key, shape=shape, dtype="<f4", chunks=chunks)
    if chunks and chance.random() < 0.5:
        # One chunk of several.
        dataset[tuple(slice(0, n) for n in chunks)] = 1
    return ERROR


def _terabyte(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    shape = chance.choice(((2**38,), (2**62,), (2**31, 2**31), (1, 1, 256, 10**9)))
    chunks = (1,) * (len(shape) - 1) + (1024,)
    compression = chance.choice((None, "gzip"))
    dataset = _replaced(file, key, shape=shape, dtype="<f4", chunks=chunks, compression=compression)
    if chance.random() < 0.5:
        dataset[tuple(slice(0, n) for n in chunks)] = 1
    return ERROR


def _bomb(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    """Logits that deflate to 64 MiB of zeros out of 64 KiB."""
    _replaced(file, key, data=np.zeros((4096, 4096), "<f4"), compression="gzip")
    return ERROR


def _filters(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    shape = file[key].shape
    if not shape:
        return None
    options = [
        {"compression": "gzip", "shuffle": True},
        {"compression": "lzf", "fletcher32": True},
        {"fletcher32": True},
        {"compression": "gzip", "compression_opts": 9, "chunks": (1,) * len(shape)},
        # Filters that this machine does not have.
        {"compression": 32001, "allow_unknown_filter": True},
        {"compression": 307, "allow_unknown_filter": True},
    ]
    option = chance.choice(options)
    value = file[key][()]
    if value.size > 2000 and option.get("chunks"):
        option = options[0]
    del file[key]
    try:
        file.create_dataset(key, data=value, **option)
    except (OSError, ValueError):
        return ERROR
    return None


def _dtype(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    shape = file[key].shape
    odd = h5py.h5t.IEEE_F32LE.copy()
    # Not IEEE's: HDF5 would convert them.
    odd.set_fields(31, 23, 8, 0, 22)
    kinds = (
        *(">f4", "<f8", "<f2", "<i4", "u1", "S8", "<c8"),
        *(h5py.string_dtype(), h5py.vlen_dtype("<f4"), h5py.ref_dtype, h5py.regionref_dtype),
        *(np.dtype([("a", "<f4"), ("b", "<i8")]), h5py.enum_dtype({"A": 1}), np.dtype("V16")),
        *(np.dtype(("<f4", (2,))), h5py.opaque_dtype(np.dtype("M8[s]")), odd),
    )
    kind = chance.choice(kinds)
    del file[key]
    if kind is odd:
        made = h5py.h5d.create(file.id, None, odd, h5py.h5s.create_simple(shape))
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(shape, np.float32))
        file[key] = h5py.Dataset(made)
        return ERROR
    file.create_dataset(key, shape=shape, dtype=kind)
    return ERROR


def _shape(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    value = file[key][()]
    shape = value.shape
    del file[key]
    kind = chance.randrange(5)
    if kind == 0:
        file.create_dataset(key, data=h5py.Empty("<f4"))
    elif kind == 1:
        file.create_dataset(key, data=np.float32(1).reshape(() if shape else (1,)))
    elif kind == 2:
        file.create_dataset(key, data=value[..., None])
    elif kind == 3:
        file.create_dataset(key, shape=(0, *shape[1:]), dtype="<f4")
    else:
        file.create_dataset(key, data=np.ones((1,) * 32, "<f4"))
    return ERROR


def _not_finite(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    value = file[key][()]
    value.flat[chance.randrange(value.size)] = chance.choice((np.nan, np.inf, -np.inf))
    file[key][...] = value
    return ERROR


def _lacking(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    del file[key]
    return ERROR


def _added(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    names = ("Größe/重み", "a" * 60_000, "\n\x1b[2J", "vars", "model_weights", "layers/x/vars/0")
    with_ = chance.choice(names)
    if with_ not in file:
        file.create_dataset(with_, data=np.ones(3, "<f4"))
    return None


def _deep(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    group = file
    for _ in range(1500):
        group = group.create_group("d")
    group.create_dataset("x", data=np.ones(3, "<f4"))
    return None


def _many(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    group = file.create_group("many")
    for number in range(3000):
        group.create_group(f"layers_{number}/vars" if number % 3 else f"g{number}")
    return None


def _attributes(chance: random.Random, file: h5py.File, key: str, folder: Path) -> Expected:
    """What Keras says of layers, said otherwise."""
    owners = [file]
    file.visititems(lambda name, item: owners.append(item) if len(item.attrs) else None)
    owner = chance.choice([each for each in owners if len(each.attrs)] or [file])
    names = [*owner.attrs, "layer_names", "weight_names", "model_config", "name"]
    values = (
        *(7, np.zeros((3, 3)), h5py.Empty("S1"), b"\xff\xfe", "x" * 60_000, np.nan),
        *(np.array([b"../../etc", b"/"], "S16"), np.array(["a"] * 50, "S60"), "[" * 30_000),
        *('{"a":' * 10_000, "{}", "[]", np.array([], "S8"), np.array([b"a\0b", b""], "S9")),
    )
    name = chance.choice(names)
    if name in owner.attrs:
        del owner.attrs[name]
    owner.attrs[name] = chance.choice(values)
    return None


_CHANGES = {
    "external link": _external_link,
    "soft link": _soft_link,
    "hard links and cycles": _hard_links,
    "virtual dataset": _virtual,
    "values in another file": _external_storage,
    "values never written": _unwritten,
    "a terabyte": _terabyte,
    "a bomb": _bomb,
    "filters": _filters,
    "other dtype": _dtype,
    "other shape": _shape,
    "NaN and infinity": _not_finite,
    "lacking dataset": _lacking,
    "added dataset": _added,
    "1,500 groups deep": _deep,
    "3,000 groups": _many,
    "attributes": _attributes,
}


def _some_flips(seed: _Seed, name: str, inside: bool) -> Change:
    """Flips bits of the values, or of HDF5's own structures."""

    def change(chance: random.Random, folder: Path) -> Expected:
        content = (folder / name).read_bytes()
        ranges = seed.ranges()
        if not inside:
            ends = [0, *(stop for _, stop in ranges)]
            starts = [*(start for start, _ in ranges), len(content)]
            ranges = [pair for pair in zip(ends, starts, strict=True) if pair[0] < pair[1]]
        for _ in range(chance.choice((1, 1, 2, 4))):
            start, stop = chance.choice(ranges)
            content = flipped(content, chance.randrange(start, stop), chance.randrange(8))
        (folder / name).write_bytes(content)
        return seed.held(content)

    return change


def _extreme(seed: _Seed, name: str) -> Change:
    """Sets a whole field of HDF5's structures to a number that breaks arithmetic."""

    def change(chance: random.Random, folder: Path) -> Expected:
        content = (folder / name).read_bytes()
        ranges = seed.ranges()
        ends = [0, *(stop for _, stop in ranges)]
        starts = [*(start for start, _ in ranges), len(content)]
        start, stop = chance.choice([p for p in zip(ends, starts, strict=True) if p[1] - p[0] > 16])
        at = chance.randrange(start, stop - 8)
        form = chance.choice(("<Q", "<I", "<H", "B"))
        top = 2 ** (8 * struct.calcsize(form))
        number = chance.choice((0, 1, top - 1, top // 2, top // 2 - 1))
        new = struct.pack(form, number)
        changed = content[:at] + new + content[at + len(new) :]
        (folder / name).write_bytes(changed)
        return seed.held(changed)

    return change


def _of_hdf5(name: str, path: Path) -> dict[str, Change]:
    seed = _Seed(path)

    def as_held(change: Change) -> Change:
        def changed(chance: random.Random, folder: Path) -> Expected:
            change(chance, folder)
            return seed.held((folder / name).read_bytes())

        return changed

    return {
        "values: flipped bits": _some_flips(seed, name, inside=True),
        "structures: flipped bits": _some_flips(seed, name, inside=False),
        "structures: extreme numbers": _extreme(seed, name),
        "cut": as_held(cut(name)),
        "bytes appended": as_held(grown(name)),
        "zeroed block": as_held(zeroed(name)),
        **{kind: _in_file(change)(seed, name) for kind, change in _CHANGES.items()},
    }


_ONCE = frozenset({"a bomb", "1,500 groups deep", "3,000 groups", "lacking member"})


def _packed(path: Path, members: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)


def _members(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _repacked(change: Callable) -> Change:
    """A change of the zip's members: `change(chance, members)`."""

    def changed(chance: random.Random, folder: Path) -> Expected:
        members = _members(folder / "model.keras")
        expected = change(chance, members)
        with warnings.catch_warnings():
            # Of members with one name.
            warnings.simplefilter("ignore")
            _packed(folder / "model.keras", members)
        return expected

    return changed


def _member_at(members: list[tuple[str, bytes]], name: str) -> int:
    return next(n for n, (each, _) in enumerate(members) if each == name)


def _config(chance: random.Random, members: list[tuple[str, bytes]]) -> Expected:
    at = _member_at(members, "config.json")
    deep = '{"class_name": "Model", "config": {"layers": [' * 400 + "]}}" * 400
    code = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}}
    texts = (
        *(b"", b"[]", b"null", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000),
        *(deep.encode(), json.dumps(code).encode(), b"9" * 100_000),
        b'{"config": {"layers": [1, null, {"config": []}]}}',
        b'{"class_name": 7, "config": "x"}',
    )
    members[at] = "config.json", chance.choice(texts)
    return None


def _odd_members(chance: random.Random, members: list[tuple[str, bytes]]) -> Expected:
    at = _member_at(members, _MEMBER)
    content = members[at][1]
    kind = chance.randrange(6)
    if kind == 0:
        members[at] = _MEMBER, b""
    elif kind == 1:
        members.append((_MEMBER, b"x"))
    elif kind == 2:
        members.append(("../../outside", b"x"))
        members.append(("/outside", b"x"))
        return None
    elif kind == 3:
        # A zip within the zip.
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr(_MEMBER, content)
        members[at] = _MEMBER, inner.getvalue()
    elif kind == 4:
        members[at] = _MEMBER, content[: chance.randrange(len(content))]
    else:
        members.extend((f"{n}", b"") for n in range(5000))
        return None
    return ERROR


def _without(chance: random.Random, members: list[tuple[str, bytes]]) -> Expected:
    del members[_member_at(members, chance.choice((_MEMBER, "config.json")))]
    return ERROR


def _sizes(chance: random.Random, folder: Path) -> Expected:
    """The directory at the end of the zip says other sizes, methods and places."""
    path = folder / "model.keras"
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2", 0, content.rindex(_MEMBER.encode()))
    field, size = chance.choice(((20, 4), (24, 4), (10, 2), (8, 2), (42, 4), (28, 2)))
    top = 256**size
    new = chance.choice((0, 1, 8, 99, top // 2, top - 1))
    content[at + field : at + field + size] = new.to_bytes(size, "little")
    path.write_bytes(content)
    return None


def formats(values: Values, sample: Path) -> list[Format]:
    """The formats; all hold these values of the checkpoint at the prefix `sample`."""
    model = mobilenets.load(sample)

    def legacy(folder: Path) -> None:
        model.save(folder / "model.h5")

    def numbered(folder: Path) -> None:
        model.save_weights(folder / "model.weights.h5")

    def zipped(folder: Path) -> None:
        model.save(folder / "model.keras")

    seeds = sample.parent
    legacy(seeds), numbered(seeds), zipped(seeds)
    keras = {
        "flipped bits": flips("model.keras"),
        "cut": cut("model.keras"),
        "bytes appended": grown("model.keras"),
        "zeroed block": zeroed("model.keras"),
        "config.json": _repacked(_config),
        "odd members": _repacked(_odd_members),
        "lacking member": _repacked(_without),
        "forged sizes": _sizes,
    }
    return [
        Format(
            "Keras .h5",
            legacy,
            "model.h5",
            _of_hdf5("model.h5", seeds / "model.h5"),
            once=_ONCE,
        ),
        Format(
            "Keras .weights.h5",
            numbered,
            "model.weights.h5",
            _of_hdf5("model.weights.h5", seeds / "model.weights.h5"),
            once=_ONCE,
        ),
        Format("Keras .keras", zipped, "model.keras", keras, once=_ONCE),
    ]
