"""`checkpoint`: one checkpoint to modules."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mobilenets import names

from .. import console
from ..choices import KINDS
from . import _arguments
from ._conversions import print_conversions

HELP = "convert one checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.source(parser)
    _arguments.modules_output(parser)
    _arguments.complete(
        parser.add_argument(
            "--variant", metavar="NAME", help="hub or Slim name (default: from the checkpoint)"
        ),
        _names,
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="image size (default: from the checkpoint)",
    )
    parser.add_argument(
        "--kind",
        dest="kinds",
        action="append",
        choices=KINDS,
        help="kind of module to write; may be repeated (default: both)",
    )
    _arguments.weights(parser)
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="text file with one class name per line (default: ImageNet's for 1001 classes)",
    )
    parser.add_argument(
        "--serving",
        action="store_true",
        help="write modules for serving instead: constant and folded, faster to load and on single "
        "images, not trainable; to <name>/<kind>-serving",
    )
    _arguments.json(parser)


def _names() -> Sequence[str]:
    from mobilenets.published import archives

    return [name for archive in archives().values() for name in (archive.name, archive.slim_name)]


def run(options: argparse.Namespace) -> int:
    named = names.parse(options.source)
    kinds = options.kinds or ([named.kind] if named and named.kind else None)
    with console.status("loading TensorFlow") as status:
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..conversion import convert

        conversions = convert(
            options.source,
            options.output,
            variant=options.variant,
            image_size=options.image_size,
            kinds=kinds,
            weights=options.weights,
            labels=options.labels,
            serving=options.serving,
            report=lambda line: status.update(console.plain(line)),
        )
    if not kinds and len(conversions) < len(KINDS):
        console.note("The checkpoint has no logits: only a feature vector was made.")
    print_conversions(conversions, options.json)
    return 0
