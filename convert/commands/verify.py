"""`verify`: modules against their checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobilenets.errors import MobileNetError

from .. import console
from . import _arguments
from ._conversions import print_conversions

HELP = "compare modules with their checkpoints and with keras.applications"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("modules", nargs="+", type=Path, metavar="MODULE")
    parser.add_argument(
        "--checkpoint",
        metavar="SOURCE",
        help="checkpoint to compare with (default: each module's own)",
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    from .. import quiet  # noqa: F401  # before anything loads TensorFlow
    from ..conversion import verify_module

    conversions = []
    failed = False
    for module in options.modules:
        try:
            with console.status(f"verifying {module}"):
                conversions.append(verify_module(module, options.checkpoint))
        except MobileNetError as error:
            failed = True
            console.fail(error, options.parser)
    if conversions or options.json:
        print_conversions(conversions, options.json)
    return 2 if failed else 0
