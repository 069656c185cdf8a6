"""Modules that `mobilenets.save` wrote: their configuration and their variables."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import mobilenets
from fuzz import bundles
from fuzz.cases import ERROR, Change, Expected, Format, Values, cut, flips

__all__ = ["formats"]

_CONFIG = "module/assets.extra/mobilenet.json"


def _config(change: Callable) -> Change:
    """A change of the configuration: `change(chance, config)`."""

    def changed(chance: random.Random, folder: Path) -> Expected:
        path = folder / _CONFIG
        config = json.loads(path.read_text())
        expected = change(chance, config)
        path.write_text(json.dumps(config))
        return expected

    return changed


def _odd(chance: random.Random, config: dict[str, Any]) -> Expected:
    odd = ("x", -1, 0, 1.5, 10**30, float("nan"), True, [], {}, None, [[]] * 10, "\ud800")
    for _ in range(chance.choice((1, 2))):
        config[chance.choice(sorted(config))] = chance.choice(odd)
    return None


def _odd_variant(chance: random.Random, config: dict[str, Any]) -> Expected:
    odd = ("x", -1, 0, 9.99, 31, 10**30, float("nan"), float("inf"), True, [], None, "mobilenet_v3")
    variant = config["variant"]
    if isinstance(variant, dict):
        variant[chance.choice(sorted(variant))] = chance.choice(odd)
    else:
        config["variant"] = chance.choice(("mobilenet_v9", "", "mobilenet_v2_035_96", 7, None))
    return None


def _more(chance: random.Random, config: dict[str, Any]) -> Expected:
    more = {
        "trainable": False,
        "dtype": "bfloat16",
        "name": "../../x",
        "serving": chance.choice((True, "yes")),
        "no_such": 1,
        "class_names": ["a"] * 7,
        "": 0,
    }
    key = chance.choice(sorted(more))
    config[key] = more[key]
    return None


def _less(chance: random.Random, config: dict[str, Any]) -> Expected:
    del config[chance.choice(sorted(config))]
    return None


def _terabyte(chance: random.Random, config: dict[str, Any]) -> Expected:
    config["class_names"] = None
    config["num_classes"] = chance.choice((10**8, 10**9, 2**40))
    return ERROR


def _wide(chance: random.Random, config: dict[str, Any]) -> Expected:
    config["variant"] = "mobilenet_v1_9.99_224"
    return ERROR


def _text(chance: random.Random, folder: Path) -> Expected:
    texts = (b"", b"[]", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"{", b'"x"', b"{}")
    (folder / _CONFIG).write_bytes(chance.choice(texts))
    return ERROR


def _folder(chance: random.Random, folder: Path) -> Expected:
    path = folder / "module"
    kind = chance.randrange(3)
    if kind == 0:
        (path / "saved_model.pb").unlink()
        return None
    if kind == 1:
        (path / "variables").rename(path / "elsewhere")
    else:
        for file in (path / "variables").iterdir():
            file.unlink()
    return ERROR


def formats(values: Values, sample: Path) -> list[Format]:
    """The format; the seed is the module of the checkpoint at the prefix `sample`."""

    def make(folder: Path) -> None:
        # The functions are not read, and take long to trace.
        with mock.patch("mobilenets.saved_model.Writer._signatures", return_value={}):
            mobilenets.save(mobilenets.load(sample), folder / "module")

    variables = next(each for each in bundles.formats(values, sample) if each.source == "module")
    changes = {
        **variables.changes,
        "mobilenet.json: flipped bits": flips(_CONFIG),
        "mobilenet.json: cut": cut(_CONFIG),
        "mobilenet.json: no JSON object": _text,
        "mobilenet.json: odd values": _config(_odd),
        "mobilenet.json: odd variants": _config(_odd_variant),
        "mobilenet.json: more": _config(_more),
        "mobilenet.json: less": _config(_less),
        "mobilenet.json: a terabyte of logits": _config(_terabyte),
        "mobilenet.json: a wide network": _config(_wide),
        "lacking files": _folder,
    }
    return [Format("module", make, "module", changes, module=True, once=variables.once)]
