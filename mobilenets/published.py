"""Google's published MobileNets: the places of their weights, and their published accuracy.

Needs nothing beyond the standard library.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "Archive", "Source", "archives", "by_hand", "hub_modules", "sources"]

KINDS = ("feature_vector", "classification")
"""What a published module gives: features, or the logits of ImageNet's classes."""


@dataclass(frozen=True)
class Archive:
    """One published ImageNet checkpoint, as a row of `published.toml`.

    Attributes:
      name: The hub's name of the variant, such as `mobilenet_v1_050_160/quantops`.
      slim_name: TF-Slim's name, such as `mobilenet_v1_0.5_160_quant`.
      million_macs: Multiply-accumulates for one image of the variant's size, in millions.
      million_parameters: Parameters in millions, with the logits layer.
      top1: Published top-1 accuracy on ImageNet's validation images, in percent.
      top5: Published top-5 accuracy on ImageNet's validation images, in percent.
      url: URL of the `.tgz`.
      sha256: The SHA-256 of the `.tgz`, as 64 lower-case hexadecimal digits.
    """

    name: str
    slim_name: str
    million_macs: int
    million_parameters: float
    top1: float
    top5: float
    url: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """One place that has a variant's weights.

    Attributes:
      what: Description for users, such as `"TF-Slim archive"`.
      url: Its `http(s)://` URL, or a path on this machine. Of a mirror's module without a hash, the
        folder of its versions.
      sha256: The published SHA-256 of its bytes in hexadecimal; None if none was published.
      index: URL or path of the mirror's `index.json`, which tells the versions and their hashes;
        None for a source that is none of a mirror's.
    """

    what: str
    url: str
    sha256: str | None = None
    index: str | None = None


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))


@functools.cache
def archives() -> dict[str, Archive]:
    """The 54 published checkpoints by hub name, in the order of `published.toml`."""
    return {name: Archive(name=name, **row) for name, row in _table().items() if "slim_name" in row}


def sources(name: str, kind: str) -> list[Source]:
    """The places that have a variant's weights, best first.

    Args:
      name: The hub's name, such as `mobilenet_v2_035_96`; one of `archives()`.
      kind: One of `KINDS`. An archive serves for both. Its checkpoint has 1001 logits, a file of
        keras.applications 1000.
    """
    archive = archives()[name]
    found = [Source("TF-Slim archive", archive.url, archive.sha256)]
    if name.endswith("/quantops"):
        # The hub has quantops modules for TF1 only, and no other project has these weights.
        return found
    family, numbers = _parts(name)
    for row in _table()["sources"][family]:
        alpha = row.get("alpha", {}).get(numbers["multiplier"])
        found.append(Source(row["what"], row[kind].format(name=name, alpha=alpha, **numbers)))
    return found


def hub_modules(name: str) -> set[str]:
    """The URLs of Google's own TF2 Hub modules of a variant, of both kinds.

    Args:
      name: The hub's name; one of `archives()`.
    """
    beginnings = ("https://tfhub.dev/google/", "https://www.kaggle.com/models/google/")
    urls = {source.url for kind in KINDS for source in sources(name, kind)}
    return {url for url in urls if url.startswith(beginnings)}


def by_hand(name: str, kind: str) -> str:
    """How to get a variant's weights by hand, as a clause of a sentence.

    Args:
      name: The hub's name; one of `archives()`.
      kind: One of `KINDS`.
    """
    if name.endswith("/quantops"):
        return f"by hand: download {archives()[name].url} and give its path with variant={name!r}"
    family, numbers = _parts(name)
    handle = _table()["by_hand"][family].format(kind=kind.replace("_", "-"), **numbers)
    return (
        f"by hand: download it from https://www.kaggle.com/models/{handle}, or call "
        f'kagglehub.model_download("{handle}"), and give the path with variant={name!r}'
    )


def _parts(name: str) -> tuple[str, dict[str, str]]:
    family, multiplier, size = name.removesuffix("/quantops").rsplit("_", 2)
    return family, {"multiplier": multiplier, "size": size}
