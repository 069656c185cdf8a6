"""Where a published variant is looked for, and in which order."""

from __future__ import annotations

import os

# Not from the package, which would bring TensorFlow.
import mobilenets.published as published
from mobilenets.fetching import cache_folder
from mobilenets.published import Source

__all__ = ["MIRROR", "sources"]

MIRROR = "mirror"
"""What a source is that `MOBILENETS_MIRROR` names; it holds modules."""


def sources(name: str, kind: str) -> list[Source]:
    """Where a published variant can be had: first what needs no network, then best first.

    The best is a mirror, if `MOBILENETS_MIRROR` names one: a URL or a folder that holds
    `<hub name>/<kind>/1.tar.gz` and a `SHA256SUMS` with a line `sha256  path` for each.

    Args:
      name: The hub's name; one of `published.archives()`.
      kind: One of `published.KINDS`.
    """
    found = published.sources(name, kind)
    if mirror := os.environ.get("MOBILENETS_MIRROR", "").rstrip("/"):
        path = f"{mirror}/{name}/{kind}/1.tar.gz"
        found.insert(0, Source(MIRROR, path, sums=f"{mirror}/SHA256SUMS"))
    return sorted(found, key=lambda source: not cache_folder.place(source.url).is_file())
