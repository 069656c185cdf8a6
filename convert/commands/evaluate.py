"""`evaluate`: the accuracy of models, and how they compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from . import _arguments

if TYPE_CHECKING:
    from ..evaluate import Evaluation

HELP = "measure top-1 and top-5 accuracy on labelled images, and compare models with each other"
# Of the classes that lose most, as many as fit on a screen.
_MOST_LOSSES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a classification module's folder, anything else that mobilenets.load takes, a "
        "classifier built on a module (a SavedModel's folder or a .keras file), or a .tflite file; "
        "others are compared with the first",
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
    _arguments.batches(parser)
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="image size of the models (default: their own)",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write each image's class, and each model's class and probability for it",
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    with console.progress() as progress:
        task = progress.add_task("loading TensorFlow", total=None)
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..evaluate import evaluate

        done = evaluate(
            options.models,
            options.images,
            ground_truth=options.ground_truth,
            crop=options.crop,
            batch_size=options.batch_size,
            image_size=options.image_size,
            csv=options.csv,
            on_progress=lambda count, total: progress.update(
                task, description="images", completed=count, total=total
            ),
        )
    if options.json:
        console.print_json(done)
        return 0
    _print(done)
    if options.csv:
        console.say("Predictions: {}", options.csv)
    return 0


def _print(done: Evaluation) -> None:
    several = len(done.models) > 1
    table = console.table(
        *(("", "model") if several else ("model",)),
        *("bytes>", "ms>", "top-1 %>", "top-5 %>"),
        *(("difference>", "95 %>", "agreement %>", "mean>", "worst>") if several else ()),
    )
    for number, model in enumerate(done.models, 1):
        row = [
            *([str(number)] if several else []),
            console.plain(model.model),
            console.figure(model.bytes, ","),
            f"{model.milliseconds:.2f}",
            f"{model.top1:.1f}",
            console.figure(model.top5, ".1f"),
        ]
        found = model.compared
        if found:
            row += [
                f"{found.difference:+.1f}",
                f"{found.low:+.1f} to {found.high:+.1f}",
                f"{found.agreement:.1f}",
                f"{found.mean_difference:.1e}",
                f"{found.worst_difference:.1e}",
            ]
        table.add_row(*row)
    console.print_table(table)
    crop = "central crop" if done.crop == "central" else "whole images"
    console.say(
        f"{done.images} images, {{}}; {crop} at {done.image_size} px. "
        "ms: one image at a time; LiteRT on one thread.",
        done.layout,
    )
    if several:
        console.say(
            "Compared with {}: difference of top-1 in points with its paired 95 % interval; share "
            "of images with the same class; largest difference of a probability, mean and worst.",
            done.models[0].model,
        )
    published = {each.variant: each for each in done.models if each.published_top1 is not None}
    for name, model in published.items():
        console.say(
            f"Published for {{}}: top-1 {console.figure(model.published_top1, '.1f')} %, top-5 "
            f"{console.figure(model.published_top5, '.1f')} % on ILSVRC-2012's 50,000 validation "
            "images, central crop.",
            name,
        )
    if done.losses:
        _print_losses(done)


def _print_losses(done: Evaluation) -> None:
    """The classes with the largest losses, numbered columns for the models."""
    others = range(2, len(done.models) + 1)
    table = console.table(
        *("class", "images>", "1: right>"),
        *(column for i in others for column in (f"{i}: right>", f"{i}: lost to")),
    )
    for loss in done.losses[:_MOST_LOSSES]:
        row = [console.plain(loss.name), str(loss.images), str(loss.right[0])]
        for right, taken in zip(loss.right[1:], loss.taken_for[1:], strict=True):
            row += [str(right), console.plain(taken or "-")]
        table.add_row(*row)
    console.print_table(table)
    shown = min(len(done.losses), _MOST_LOSSES)
    console.say(
        f"The largest losses, {shown} of {len(done.losses)} classes; lost to: what most of the "
        "images that only the first recognises are taken for."
    )
