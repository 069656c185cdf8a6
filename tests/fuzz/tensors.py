"""Hugging Face's folders: the safetensors file and its configuration. No checksums."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from weight_formats import hugging_face

from fuzz.cases import ERROR, Change, Expected, Format, Values, cut, flipped, flips, grown, zeroed

__all__ = ["formats"]

_FILE, _CONFIG = "hf/model.safetensors", "hf/config.json"


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _write(path: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


class _Seed:
    """Where the seed keeps each value."""

    def __init__(self, values: Values, content: bytes) -> None:
        self._values = values
        header, _ = _split(content)
        self.start = 8 + int.from_bytes(content[:8], "little")
        names = [name for name, entry in header.items() if entry.get("dtype") == "F32"]
        self._places = {
            slim: self.start + header[name]["data_offsets"][0]
            for slim, name in zip(values, names, strict=True)
        }

    def held(self, content: bytes) -> Values:
        """The values that lie where the seed had them, in Slim's order of axes."""
        found = {}
        for name, value in self._values.items():
            place = self._places[name]
            if place + value.nbytes <= len(content):
                raw = np.frombuffer(content, "<f4", value.size, place)
                found[name] = _slim(name, raw, value.shape)
        return found


def _slim(name: str, raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) < 4:
        return raw.reshape(shape)
    height, width, inputs, outputs = shape
    if name.endswith("depthwise_weights"):
        return raw.reshape(inputs, outputs, height, width).transpose(2, 3, 0, 1)
    return raw.reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)


def _entry(change: Callable) -> Change:
    """A change of one tensor in the header: `change(chance, entry, header)`."""

    def forge(chance: random.Random, folder: Path) -> Expected:
        header, data = _split((folder / _FILE).read_bytes())
        names = [name for name, entry in header.items() if entry.get("dtype") == "F32"]
        name = chance.choice(names)
        expected = change(chance, name, header)
        _write(folder / _FILE, header, data)
        return expected

    return forge


def _dtype(chance: random.Random, name: str, header: dict[str, Any]) -> Expected:
    header[name]["dtype"] = chance.choice(("F64", "I32", "F16", "U8", "", "X", None, 7, ["F32"]))
    return ERROR


def _shape(chance: random.Random, name: str, header: dict[str, Any]) -> Expected:
    shape = header[name]["shape"]
    header[name]["shape"] = chance.choice(
        (
            [*shape, 1],
            shape[:-1],
            [-1],
            [2**40, *shape],
            [2**70],
            [1.0 * n for n in shape],
            [True, *shape],
            [str(n) for n in shape],
            [1] * 100_000,
            "8",
            None,
            {},
        )
    )
    return ERROR


def _offsets(chance: random.Random, name: str, header: dict[str, Any]) -> Expected:
    begin, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = chance.choice(
        (
            [begin + 4, end + 4],
            [begin, end - 4],
            [end, begin],
            [-4, end - begin - 4],
            [2**62, 2**62 + end - begin],
            [2**70, 2**70 + end - begin],
            [float(begin), float(end)],
            [begin],
            [],
            None,
            [0, end - begin] if begin else [4, end + 4],
        )
    )
    return ERROR


def _swapped(chance: random.Random, name: str, header: dict[str, Any]) -> Expected:
    """Two entries under one name: JSON lets the later one count."""
    header[name.upper()] = header.pop(name)
    return ERROR


def _renamed(chance: random.Random, name: str, header: dict[str, Any]) -> Expected:
    names = ("", "Größe.重み", "a" * 1_000_000, "../../x", "\n\x1b[2J", "\ud800", "__metadata__")
    header[chance.choice(names)] = header.pop(name)
    return ERROR


def _not_entry(chance: random.Random, name: str, header: dict[str, Any]) -> Expected:
    header[name] = chance.choice((None, 7, "x", [], {}, [header[name]]))
    return ERROR


def _length(chance: random.Random, folder: Path) -> Expected:
    path = folder / _FILE
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    new = chance.choice((0, 1, length - 1, length + 1, 10**8, 10**12, 2**63, 2**64 - 1))
    path.write_bytes(new.to_bytes(8, "little") + content[8:])
    return ERROR


def _text(chance: random.Random, folder: Path) -> Expected:
    header, data = _split((folder / _FILE).read_bytes())
    depth = chance.choice((900, 100_000))
    text = json.dumps(header).encode()
    new = chance.choice(
        (
            b"[" * depth,
            b'{"a":' * depth,
            b"[]",
            b"null",
            b"\xff\xfe" + text,
            b'{"__metadata__": ' + b"[" * 900 + b"]" * 900 + b"}",
            b'{"a": ' + b"9" * 10_000 + b"}",
            text[:-1],
            b"{}",
        )
    )
    _write(folder / _FILE, new, data)
    return ERROR


def _not_finite(values: Values) -> Change:
    def change(chance: random.Random, folder: Path) -> Expected:
        path = folder / _FILE
        header, data = _split(path.read_bytes())
        floats = [entry for entry in header.values() if entry.get("dtype") == "F32"]
        begin, end = chance.choice(floats)["data_offsets"]
        at = begin + 4 * chance.randrange((end - begin) // 4)
        bad = np.float32(chance.choice((np.nan, np.inf, -np.inf))).tobytes()
        _write(path, header, data[:at] + bad + data[at + 4 :])
        return ERROR

    return change


def _config(chance: random.Random, folder: Path) -> Expected:
    """Configurations of other networks, and of none."""
    path = folder / _CONFIG
    config = json.loads(path.read_text())
    odd = ("x", -1, 0, 1.5, 10**30, True, [], {}, None, [[]] * 10)
    keys = (*config, "image_size", "id2label", "depth_multiplier", "architectures", "hidden_act")
    for _ in range(chance.choice((1, 2))):
        config[chance.choice(keys)] = chance.choice(odd)
    path.write_text(json.dumps(config))
    return None


def _config_text(chance: random.Random, folder: Path) -> Expected:
    texts = (b"", b"[]", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"{", b'"x"')
    (folder / _CONFIG).write_bytes(chance.choice(texts))
    return ERROR


def _config_link(chance: random.Random, folder: Path) -> Expected:
    path = folder / _CONFIG
    path.unlink()
    path.symlink_to(chance.choice(("/dev/zero", "config.json", "/no/such", "/")))
    return ERROR


def _pickle(chance: random.Random, folder: Path) -> Expected:
    """PyTorch's own file, which is a pickle and is never read."""
    (folder / _FILE).rename(folder / "hf" / "pytorch_model.bin")
    return ERROR


def formats(values: Values) -> list[Format]:
    """The format; the seed has these values by Slim name, and no logits."""
    seed: list[_Seed] = []

    def make(folder: Path) -> None:
        hugging_face(folder / "hf", values, image_size=64)
        seed.append(_Seed(values, (folder / _FILE).read_bytes()))

    def as_held(change: Change) -> Change:
        def changed(chance: random.Random, folder: Path) -> Expected:
            change(chance, folder)
            return seed[0].held((folder / _FILE).read_bytes())

        return changed

    def some_flips(header: bool) -> Change:
        def change(chance: random.Random, folder: Path) -> None:
            content = (folder / _FILE).read_bytes()
            start = seed[0].start
            first, last = (0, start) if header else (start, len(content))
            for _ in range(chance.choice((1, 1, 2, 4))):
                content = flipped(content, chance.randrange(first, last), chance.randrange(8))
            (folder / _FILE).write_bytes(content)

        return as_held(change)

    changes = {
        "header: flipped bits": some_flips(header=True),
        "values: flipped bits": some_flips(header=False),
        "cut": as_held(cut(_FILE)),
        "bytes appended": as_held(grown(_FILE)),
        "zeroed block": as_held(zeroed(_FILE)),
        "forged dtype": _entry(_dtype),
        "forged shape": _entry(_shape),
        "forged offsets": _entry(_offsets),
        "other case": _entry(_swapped),
        "renamed tensor": _entry(_renamed),
        "no entry": _entry(_not_entry),
        "forged length": _length,
        "forged JSON": _text,
        "NaN and infinity": _not_finite(values),
        "config.json: flipped bits": flips(_CONFIG),
        "config.json: odd values": _config,
        "config.json: no JSON object": _config_text,
        "config.json: a link": _config_link,
        "a pickle": _pickle,
    }
    return [Format("Hugging Face folder", make, "hf", changes, once=frozenset({"a pickle"}))]
