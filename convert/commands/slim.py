"""`slim`: a module back to a TF-Slim checkpoint."""

from __future__ import annotations

import argparse

from .. import console
from . import _arguments

HELP = "export a module back to a TF-Slim checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.module(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="PREFIX",
        help="prefix of the files to write: PREFIX.index and PREFIX.data-00000-of-00001",
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    with console.status(f"exporting {options.module}"):
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..export.slim import export

        done = export(options.module, options.output)
    if options.json:
        console.print_json(
            {"prefix": done.path, "bytes": done.bytes, "variables": list(done.variables)}
        )
    else:
        console.say("{}: {} variables", done.path, len(done.variables))
    return 0
