"""Where a published variant is looked for, and in which order."""

from __future__ import annotations

import os

# Not from the package, which would bring TensorFlow.
import mobilenets.published as published
from mobilenets.fetching import cache_folder, mirror
from mobilenets.published import Source

__all__ = ["MIRROR", "sources"]

MIRROR = "mirror"
"""What a source is that `MOBILENETS_MIRROR` names; it holds modules."""


def sources(name: str, kind: str) -> list[Source]:
    """Where a published variant can be had: first what needs no network, then best first.

    The best is a mirror, if `MOBILENETS_MIRROR` names one: a URL or a folder that holds an
    `index.json` and what it lists, see docs/hosting.md.

    Args:
      name: The hub's name; one of `published.archives()`.
      kind: One of `published.KINDS`.
    """
    found = published.sources(name, kind)
    if at := os.environ.get("MOBILENETS_MIRROR", "").rstrip("/"):
        found.insert(0, Source(MIRROR, f"{at}/{name}/{kind}", index=f"{at}/index.json"))
    return sorted(found, key=lambda source: not _at_hand(source))


def _at_hand(source: Source) -> bool:
    """Whether it needs no network."""
    return mirror.at_hand(source) if source.index else cache_folder.place(source.url).is_file()
