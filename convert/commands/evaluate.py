"""`evaluate`: the accuracy of a module."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import console
from ..choices import CROPS
from . import _arguments

HELP = "measure top-1 and top-5 accuracy on labelled images, beside the published accuracy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "module",
        metavar="MODULE",
        help="a classification module's folder, or anything else that mobilenets.load takes",
    )
    parser.add_argument(
        "--images",
        required=True,
        type=Path,
        metavar="DIR",
        help="a folder with one subfolder per class, named after the class, its position or its "
        "synset; or the folder of ImageNet's validation images",
    )
    parser.add_argument(
        "--ground-truth",
        type=Path,
        metavar="FILE",
        help="synsets of ImageNet's validation images, one per line in the images' order",
    )
    parser.add_argument(
        "--crop",
        choices=CROPS,
        default="central",
        help="central (default): 87.5 %% of each side, as for the published accuracy; none: whole "
        "images",
    )
    parser.add_argument(
        "--batch-size",
        type=_arguments.count,
        default=32,
        metavar="N",
        help="number of images per batch (default: 32)",
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    with console.progress() as progress:
        task = progress.add_task("loading TensorFlow", total=None)
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..evaluate import evaluate

        done = evaluate(
            options.module,
            options.images,
            ground_truth=options.ground_truth,
            crop=options.crop,
            batch_size=options.batch_size,
            on_progress=lambda count, total: progress.update(
                task, description="images", completed=count, total=total
            ),
        )
    if options.json:
        console.print_json(done)
        return 0
    table = console.table(
        "variant", "images>", "top-1 %>", "top-5 %>", "published: top-1 %>", "top-5 %>"
    )
    figures = (done.top1, done.top5, done.published_top1, done.published_top5)
    table.add_row(
        done.variant, str(done.images), *(console.figure(figure, ".1f") for figure in figures)
    )
    console.print_table(table)
    crop = "central crop" if done.crop == "central" else "whole images"
    console.say("Classes: {}; {} at {} px.", done.layout, crop, done.image_size)
    if done.published_top1 is not None:
        console.say("Published: on ILSVRC-2012's 50,000 validation images, central crop.")
    return 0
