"""`inspect`: what a file of weights holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from . import _arguments

if TYPE_CHECKING:
    from mobilenets.weights import Weights

HELP = "show what a file of weights holds, and which of its variables would be exported"


# What a hash is worth, by `Origin.hash_of`.
_HASHES = {
    "published": "the published one",
    "index.json": "as the mirror's index.json says",
    "first use": "that of the first use; none was published",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.source(parser)
    _arguments.weights(parser)
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    from .. import quiet  # noqa: F401  # before anything loads TensorFlow

    # isort: split
    from mobilenets import weights

    with weights.open(options.source, options.weights) as found:
        try:
            variant: str | None = found.variant().name
            reason = None
        except weights.WeightsError as error:
            variant, reason = None, str(error)
        sha256 = _sha256(found)
    origin = found.origin
    if options.json:
        console.print_json(
            {
                "source": found.source,
                "from": origin and {"what": origin.source.what, "url": origin.source.url},
                "sha256": sha256,
                "hash": origin and origin.hash_of,
                "variant": variant,
                "num_classes": found.num_classes,
                "exported": {
                    name: {"from": key, "shape": found.shapes[name]}
                    for name, key in found.keys.items()
                },
                "leftovers": found.leftovers,
                "unknown": list(found.unknown),
            }
        )
        return 0
    classes = found.num_classes
    console.say("{}: {} entries", found.source, found.entries)
    if origin:
        console.say("from: {}, {}", origin.source.what, origin.source.url)
    if sha256:
        known = f" ({_HASHES[origin.hash_of]})" if origin else ""
        console.say("sha256: {}{}", sha256, known)
    console.say("variant: {}", variant or reason or "")
    console.say("classes: {}", "none (feature vector alone)" if classes is None else classes)
    table = console.table("what", "entries>", "for example")
    averaged = [key for name, key in found.keys.items() if name in found.averaged]
    raw = [key for name, key in found.keys.items() if name not in found.averaged]
    for what, keys in (
        ("exported, raw", raw),
        ("exported, moving averages", averaged),
        *((f"left: {category}", keys) for category, keys in found.leftovers.items()),
        ("unknown (conversion refuses these)", list(found.unknown)),
    ):
        if keys:
            table.add_row(what, str(len(keys)), keys[0])
    console.print_table(table)
    return 0


def _sha256(found: Weights) -> str | None:
    """The hash of the file that was fetched or given; None for a folder or several files."""
    if found.origin:
        return found.origin.sha256
    from mobilenets import fetching

    path = Path(found.source)
    return fetching.sha256(path) if path.is_file() else None
