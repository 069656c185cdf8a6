"""`features`: the features of a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from . import _arguments

if TYPE_CHECKING:
    from ..features import Extracted

HELP = "write the features, and a classifier's predictions, of all images in a folder"
# Of the files that could not be read, as many as fit on a screen.
_MOST_SKIPPED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "module",
        metavar="MODULE",
        help="a module's folder, anything else that mobilenets.load takes, a classifier built on a "
        "module (a SavedModel's folder or a .keras file), or a .tflite file",
    )
    parser.add_argument(
        "--images",
        required=True,
        type=Path,
        metavar="DIR",
        help="images (searched recursively); its folders, if all images lie in some, become labels",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="the .npz or .parquet file to write; after an interruption the same command continues",
    )
    _arguments.batches(parser)
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="image size of the model (default: its own)",
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    with console.progress() as progress:
        task = progress.add_task("loading TensorFlow", total=None)
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..features import extract

        done = extract(
            options.module,
            options.images,
            options.output,
            crop=options.crop,
            batch_size=options.batch_size,
            image_size=options.image_size,
            on_note=lambda text: console.note(console.plain(text)),
            on_progress=lambda count, total: progress.update(
                task, description="images", completed=count, total=total
            ),
        )
    if options.json:
        console.print_json(done)
    else:
        _print(done)
    return 1 if done.skipped else 0


def _print(done: Extracted) -> None:
    crop = "central crop" if done.crop == "central" else "whole images"
    what = [f"{done.num_features} features each"]
    if done.folders is not None:
        what.append(f"labels of {len(done.folders)} folders")
    if done.num_classes is not None:
        what.append(f"predictions of {done.num_classes} classes")
    console.say(
        f"{{}}: {done.images} images, {crop} at {done.image_size} px; {', '.join(what)}.",
        done.output,
    )
    computed = done.images - done.resumed
    console.say(
        f"{computed} images in {done.seconds:.1f} s, {computed / done.seconds:.0f} a second."
        + (f" An earlier run had done {done.resumed}." if done.resumed else "")
    )
    if done.skipped:
        console.say(f"{len(done.skipped)} files are not in it:")
        for reason in list(done.skipped.values())[:_MOST_SKIPPED]:
            console.say("  {}", reason)
        if len(done.skipped) > _MOST_SKIPPED:
            console.say(f"  and {len(done.skipped) - _MOST_SKIPPED} more (--json lists all)")
