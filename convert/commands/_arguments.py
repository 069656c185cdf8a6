"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..choices import WEIGHTS

__all__ = ["complete", "count", "json", "module", "modules_output", "only", "source", "weights"]


def source(parser: argparse.ArgumentParser) -> None:
    """SOURCE: a checkpoint."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a .ckpt prefix, a folder or .tgz that holds one, or a TF1 hub module's folder",
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
    """--weights: which variables of a checkpoint count."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="auto, as in the published modules: V1 raw, V2 moving averages where there are any",
    )


def only(parser: argparse.ArgumentParser, example: str) -> None:
    """--only: a glob over hub names."""
    complete(
        parser.add_argument(
            "--only", metavar="GLOB", help=f"only variants whose hub names match, e.g. '{example}'"
        ),
        _hub_names,
    )


def _hub_names() -> Sequence[str]:
    from mobilenets.published import archives

    return list(archives())


def json(parser: argparse.ArgumentParser) -> None:
    """--json: output for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON to standard output")


def complete(action: Any, values: Callable[[], Sequence[str]]) -> None:
    """Completes an argument's value in the shell, through argcomplete."""
    action.completer = lambda **_: values()


def count(text: str) -> int:
    """A number from 1 up, as an argument's type."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)
