"""`keras-weights`: a module's weights for keras.applications."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from .. import console
from . import _arguments

HELP = "export a module's weights for keras.applications"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.module(parser)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="NAME.weights.h5 for Keras 3's format, NAME.h5 for Keras 2's; Keras 3 and tf_keras "
        "load both",
    )
    parser.add_argument(
        "--no-top", action="store_true", help="omit the logits, for include_top=False"
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    with console.status(f"exporting {options.module}"):
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..export.keras_weights import export

        done = export(options.module, options.output, top=not options.no_top)
    if options.json:
        fields = dataclasses.asdict(done)
        console.print_json({"file": fields.pop("path"), **fields, "call": done.call})
        return 0
    table = console.table("file", "classes>", "difference>", "of outputs to>")
    table.add_row(
        console.plain(done.path),
        console.figure(done.classes, "d"),
        console.figure(done.largest_difference, ".1e"),
        console.figure(done.largest_output, ".3g"),
    )
    console.print_table(table)
    console.say("{}", done.call)
    if done.compared_size != done.image_size:
        console.say(
            "Compared at {} pixels: at {}, keras.applications.{} pads otherwise and gives other "
            "outputs.",
            done.compared_size,
            done.image_size,
            done.application,
        )
    return 0
