"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..choices import CROPS, WEIGHTS

__all__ = [
    "batches",
    "complete",
    "count",
    "json",
    "module",
    "modules_output",
    "only",
    "source",
    "weights",
]


def source(parser: argparse.ArgumentParser) -> None:
    """SOURCE: weights in any format that `mobilenets.weights` reads."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a checkpoint's prefix, a file, folder or archive of weights (TF-Slim, TF1 or TF2 hub "
        "module, Keras, frozen graph, Hugging Face), its URL, or a published name",
    )


def module(parser: argparse.ArgumentParser) -> None:
    """MODULE: a module to export."""
    parser.add_argument(
        "module",
        metavar="MODULE",
        help="a module's folder, or anything else that mobilenets.load takes",
    )


def modules_output(parser: argparse.ArgumentParser) -> None:
    """--output: the folder of modules."""
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write modules to"
    )


def weights(parser: argparse.ArgumentParser) -> None:
    """--weights: which variables of a checkpoint to export."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="variables to export (default: auto, as in the published modules: raw ones for V1, "
        "moving averages for V2 where there are any)",
    )


def only(parser: argparse.ArgumentParser, example: str) -> None:
    """--only: a glob over hub names."""
    complete(
        parser.add_argument(
            "--only", metavar="GLOB", help=f"only variants whose hub name matches, e.g. '{example}'"
        ),
        _hub_names,
    )


def _hub_names() -> Sequence[str]:
    from mobilenets.published import archives

    return list(archives())


def batches(parser: argparse.ArgumentParser) -> None:
    """--crop and --batch-size: how images reach a model."""
    parser.add_argument(
        "--crop",
        choices=CROPS,
        default="central",
        help="central (default): 87.5 %% of each side, as for the published accuracy; none: whole "
        "images",
    )
    parser.add_argument(
        "--batch-size",
        type=count,
        default=32,
        metavar="N",
        help="number of images per batch (default: 32)",
    )


def json(parser: argparse.ArgumentParser) -> None:
    """--json: output for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON to standard output")


def complete(action: Any, values: Callable[[], Sequence[str]]) -> None:
    """Completes an argument's value in the shell, through argcomplete."""
    action.completer = lambda **_: values()


def count(text: str) -> int:
    """A whole number of 1 or more, as an argument's type."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
