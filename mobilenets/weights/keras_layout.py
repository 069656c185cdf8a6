"""How Keras 2 and Keras 3 lay out weights in files: the layers, and the variables of each.

Independent of MobileNets. Three layouts of HDF5 are told apart by their contents; a `.keras` file
is a zip of the last with the model's configuration:

- weights of Keras 2 and tf_keras: one group per layer, in the order of the attribute `layer_names`,
  each with the attribute `weight_names`;
- whole models of either Keras in `.h5`: the same in the group `model_weights`, beside
  `optimizer_weights`, the model's configuration as JSON in an attribute;
- `.weights.h5` of either Keras: variables numbered in `<path of attributes>/vars`. Layers are named
  by class and counter (`layers/conv2d_3/vars/0`); newer Keras 3 stores the layer's name as an
  attribute of `vars`, tf_keras does not.

Nothing is deserialized, so no code from a file is run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from mobilenets.weights import keras_hdf5
from mobilenets.weights.errors import WeightsError

__all__ = ["Layer", "Saved", "saved"]

_OPTIMIZER = "optimizer state"
_METRICS = "metrics"
_RANDOM = "state of random generators"


@dataclass(frozen=True)
class Layer:
    """A layer with variables of its own.

    Attributes:
      path: The layer's name after those of the enclosing models and layers: `base/conv1`. If the
        file keeps no names, the class and a counter: `conv2d_3`.
      where: The enclosing model, to tell a model's layers from those of an inner model: the same
        text for all layers of one model.
      variables: The dataset's key by the variable's name (`kernel`) or number (`0`).
    """

    path: str
    where: str
    variables: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Saved:
    """The contents of a file.

    Attributes:
      source: What the user called it.
      shapes: Shape of every dataset by its path in the HDF5 file.
      layers: The layers in the order of the model, as far as the layout keeps it; where the file
        names layers by class and counter, only the layers of one class are in order.
      names: Names of all layers, also of those without variables.
      leftovers: Keys that belong to no layer, by category.
      unlisted: Keys that the layout does not account for.
      config: The model's configuration, if the file has one.
    """

    source: str
    shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    leftovers: Mapping[str, list[str]]
    unlisted: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = field(default=None, repr=False)


def saved(path: Path, source: str) -> Saved:
    """The contents of the file at a path, without reading values.

    Raises:
      WeightsError: The file is damaged, points to other files, or Keras did not write it.
    """
    with keras_hdf5.opened(path, source) as (file, config):
        shapes, groups = keras_hdf5.contents(file, source)
        root = "model_weights" if "model_weights" in groups else ""
        if _attribute_exists(file[root or "/"], "layer_names"):
            if config is None and "model_config" in file.attrs:
                config = json.loads(_text(file.attrs["model_config"]))
            return _legacy(file, root, source, shapes, config)
        if any(path.rpartition("/")[2] == "vars" for path in groups):
            return _numbered(file, source, shapes, groups, config)
        tops = sorted({key.partition("/")[0] for key in [*groups, *shapes]})
        raise WeightsError(
            f"{source} is HDF5, but not a Keras file: expected layer_names, model_weights or "
            f"layers/…/vars, found {', '.join(tops[:5]) or 'nothing'}"
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _attribute_exists(group: h5py.Group, name: str) -> bool:
    return name in group.attrs or f"{name}0" in group.attrs


def _texts(group: h5py.Group, name: str) -> list[str]:
    """A list of names; HDF5 limits an attribute to 64 KB, so Keras numbers further attributes."""
    parts = [name] if name in group.attrs else []
    while not (parts and parts[0] == name) and f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    if any(math.prod(group.attrs.get_id(part).shape) > keras_hdf5.MOST_ENTRIES for part in parts):
        raise ValueError(f"{name} has too many entries")
    return [_text(each) for part in parts for each in group.attrs[part]]


def _legacy(
    file: h5py.File,
    root: str,
    source: str,
    shapes: dict[str, tuple[int, ...]],
    config: Mapping[str, Any] | None,
) -> Saved:
    prefix = f"{root}/" if root else ""
    group = file[root or "/"]
    names = _texts(group, "layer_names")
    top = ["top_level_model_weights"] if "top_level_model_weights" in group else []
    layers: list[Layer] = []
    owned: set[str] = set()
    leftovers: dict[str, list[str]] = {}
    for name in [*names, *top]:
        # By the prefix of a variable's name: an inner model is one group with all its variables,
        # the trainable ones first.
        within: dict[str, dict[str, str]] = {}
        for weight in _texts(group[name], "weight_names"):
            key = f"{prefix}{name}/{weight}"
            if key not in shapes:
                raise KeyError(f"{key} is listed but missing")
            owned.add(key)
            if "seed_generator" in weight:
                leftovers.setdefault(_RANDOM, []).append(key)
                continue
            parent, _, variable = re.sub(r":\d+$", "", weight).rpartition("/")
            within.setdefault(parent, {})[variable] = key
        layers += [
            Layer(
                path="/".join(filter(None, (name, parent))),
                where=name if len(within) > 1 else "",
                variables=variables,
            )
            for parent, variables in within.items()
        ]
    optimizer = [key for key in shapes if key.startswith("optimizer_weights/")]
    leftovers |= {_OPTIMIZER: optimizer} if optimizer else {}
    return Saved(
        source=source,
        shapes=shapes,
        layers=tuple(layers),
        names=tuple(names) + tuple(layer.name for layer in layers),
        leftovers=leftovers,
        unlisted=tuple(key for key in shapes if key not in owned and key not in optimizer),
        config=config,
    )


def _numbered(
    file: h5py.File,
    source: str,
    shapes: dict[str, tuple[int, ...]],
    groups: list[str],
    config: Mapping[str, Any] | None,
) -> Saved:
    holders = [path.rpartition("/")[0] for path in groups if path.rpartition("/")[2] == "vars"]
    called = {
        path: _text(name)
        for path in holders
        if (name := file[f"{path}/vars" if path else "vars"].attrs.get("name")) is not None
    }
    variables: dict[str, dict[str, str]] = {}
    leftovers: dict[str, list[str]] = {}
    unlisted: list[str] = []
    for key in shapes:
        path, _, number = key.rpartition("/")
        holder, _, last = path.rpartition("/")
        category = _category(key)
        if category:
            leftovers.setdefault(category, []).append(key)
        elif last == "vars" or path == "vars":
            variables.setdefault(holder, {})[number] = key
        else:
            unlisted.append(key)
    layers = []
    for holder in sorted(variables, key=_counted):
        parts = holder.split("/")
        above = ("/".join(parts[:end]) for end in range(1, len(parts)))
        names = [called[each] for each in above if each in called]
        numbers = sorted(variables[holder], key=_counted)
        layers.append(
            Layer(
                path="/".join([*names, called.get(holder, parts[-1])]),
                where=holder.rpartition("/")[0],
                variables={number: variables[holder][number] for number in numbers},
            )
        )
    without = [called.get(path, path.rpartition("/")[2]) for path in holders]
    bases = [path.rpartition("/")[2] for path in groups]
    return Saved(
        source=source,
        shapes=shapes,
        layers=tuple(layers),
        names=tuple(dict.fromkeys([*without, *bases])),
        leftovers=leftovers,
        unlisted=tuple(unlisted),
        config=config,
    )


def _category(key: str) -> str | None:
    """The category of a numbered variable that belongs to no layer; None for a layer's."""
    top, *parts = key.split("/")
    if top in ("optimizer", "_optimizer"):
        return _OPTIMIZER
    if "seed_generator" in parts or top == "seed_generator":
        return _RANDOM
    if "metric" in top or "loss_tracker" in top:
        return _METRICS
    return None


def _counted(path: str) -> list[tuple[str, int]]:
    """Sort key for the order `conv2d`, `conv2d_1`, …, `conv2d_10` at every level."""
    matches = ((part, re.fullmatch(r"(?:(.*)_)?(\d+)", part)) for part in path.split("/"))
    return [(match[1] or "", int(match[2])) if match else (part, -1) for part, match in matches]
