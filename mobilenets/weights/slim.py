"""TF-Slim checkpoints and TF1 hub modules: bundles whose keys are Slim's variable names.

A checkpoint of a training holds more than the network: `select` decides which variables count, and
classifies the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets import architecture
from mobilenets.weights import bundle
from mobilenets.weights.bundle import Checkpoint
from mobilenets.weights.contents import SELECTIONS, Weights
from mobilenets.weights.errors import WeightsError
from mobilenets.weights.identify import family_of, is_variable

__all__ = ["EXPECTED", "Selection", "read", "recognises", "select"]

EXPECTED = "a checkpoint's prefix, a folder or .tgz that holds one, or a TF1 hub module"

_AVERAGE = "/ExponentialMovingAverage"
_LOSS = re.compile(r"(?:.*/)?(?:\w*loss(?:_\d+)?|value)")

# What else training leaves behind, by key. The optimizers are those that Slim's
# train_image_classifier offers; TensorFlow 1 names a slot `<variable>/<optimizer>[_<number>]`.
# Zero-debiased moving averages, such as those of contrib.quantize, count in `biased` and
# `local_step`.
_LEFTOVERS = {
    "global_step": re.compile("global_step"),
    "optimizer slots": re.compile(
        r".*/(?:Adadelta|Adagrad|Adam|Ftrl|Momentum|RMSProp)(?:_\d+)?"
        r"|(?:.*/)?beta[12]_power(?:_\d+)?"
    ),
    "moving-average bookkeeping": re.compile(rf".*/(?:biased|local_step)(?:{_AVERAGE})?"),
}
_LOSSES = "averages of losses"
_NOT_EXPORTED = "averages not exported"
_REPLACED = "raw variables replaced by averages"


def recognises(path: Path) -> bool:
    """Whether there is any bundle; `read` refuses bundles that are not Slim's, with the reason.

    Readers of other bundles therefore come before this one.
    """
    return bundle.is_there(path)


def read(path: Path, source: str, selection: str) -> Weights:
    """Opens the checkpoint at a path.

    Args:
      path: A path that `recognises` accepts.
      source: The path as the user named it.
      selection: Which variables count: see `select`.

    Raises:
      WeightsError: The checkpoint is incomplete, damaged or not a MobileNet's; or there are
        several.
    """
    checkpoint = Checkpoint(bundle.find(path, source), source)
    chosen = select(checkpoint, selection)

    def values(names: Iterable[str]) -> dict[str, np.ndarray]:
        keys = {name: chosen.keys[name] for name in names}
        found = checkpoint.read(keys.values())
        return {name: found[key] for name, key in keys.items()}

    return Weights(
        source=source,
        file=checkpoint.prefix.name,
        family=chosen.family,
        entries=len(checkpoint.shapes),
        keys=chosen.keys,
        shapes={name: checkpoint.shapes[key] for name, key in chosen.keys.items()},
        averaged=frozenset(name for name, key in chosen.keys.items() if key != name),
        leftovers=chosen.leftovers,
        unknown={key: checkpoint.shapes[key] for key in chosen.unknown},
        read=values,
        digest=lambda: checkpoint.fingerprint,
    )


@dataclass(frozen=True)
class Selection:
    """Which of a checkpoint's variables are exported, and the categories of the others.

    Attributes:
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      keys: The exported key of the checkpoint for every variable of the network, by Slim name, in
        sorted order: the name itself, or its moving average's.
      averaged: How many of the keys are moving averages.
      leftovers: The keys that training left behind, by category, e.g. `"optimizer slots"`.
      unknown: All other keys.
    """

    family: str
    keys: dict[str, str]
    averaged: int
    leftovers: dict[str, list[str]]
    unknown: list[str]


def select(checkpoint: Checkpoint, weights: str = "auto") -> Selection:
    """Decides which variables are exported.

    Args:
      checkpoint: The checkpoint, of which only the keys are used.
      weights: `"raw"` takes the variables themselves. `"averages"` takes the
        `ExponentialMovingAverage` of every variable that has one, batch norm's statistics too, and
        the variable itself of the others. `"auto"` follows Google's exported modules: raw for
        V1 (the constants of its frozen graphs are the raw variables, by checksum), averages for
        V2 where there are any.

    Raises:
      WeightsError: The checkpoint is not a MobileNet V1's or V2's, or averages are requested and
        there are none.
    """
    if weights not in SELECTIONS:
        raise WeightsError(f"weights must be one of {', '.join(SELECTIONS)}; got {weights!r}")
    object_names = "_CHECKPOINTABLE_OBJECT_GRAPH" in checkpoint.shapes
    family = family_of(
        checkpoint.source,
        checkpoint.shapes,
        "a Slim MobileNet's checkpoint",
        "TensorFlow 2's object names" if object_names else "",
    )
    scope = architecture.scope(family)
    raw: dict[str, str] = {}
    averages: dict[str, str] = {}
    leftovers: dict[str, list[str]] = {}
    unknown: list[str] = []
    for key in checkpoint.shapes:
        name = key.removesuffix(_AVERAGE)
        if is_variable(family, name):
            (raw if name == key else averages)[name] = key
            continue
        category = next((c for c, form in _LEFTOVERS.items() if form.fullmatch(key)), None)
        if name != key and not key.startswith(f"{scope}/") and _LOSS.fullmatch(name):
            category = _LOSSES
        (unknown if category is None else leftovers.setdefault(category, [])).append(key)

    if weights == "averages" and not averages:
        raise WeightsError(
            f"{checkpoint.source} holds no moving averages ({_AVERAGE.strip('/')}) of variables; "
            "take the raw variables (weights: raw)"
        )
    averaging = weights == "averages" or (weights == "auto" and architecture.averages(family))
    if averaging:
        replaced = [raw[name] for name in averages if name in raw]
        leftovers |= {_REPLACED: replaced} if replaced else {}
    elif averages:
        leftovers[_NOT_EXPORTED] = list(averages.values())
    chosen = raw | averages if averaging else raw
    return Selection(
        family=family,
        keys={name: chosen[name] for name in sorted(chosen)},
        averaged=len(averages) if averaging else 0,
        leftovers={category: leftovers[category] for category in sorted(leftovers)},
        unknown=unknown,
    )
