"""What the command line prints."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from convert import console
from convert.errors import ConvertError


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("module", metavar="MODULE")
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--input-output", dest="interface", choices=("a", "b"))
    return parser


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("images", " (--images DIR)"),
        ("interface", " (--input-output)"),
        ("module", ""),
        ("another", ""),
        (None, ""),
    ],
)
def test_an_error_names_the_option(argument, told, parser, capsys) -> None:
    assert console.fail(ConvertError("a [b] {c} is wrong", argument), parser) == 2
    assert capsys.readouterr().err == f"error: a [b] {{c}} is wrong{told}\n"


def test_markup_and_braces_are_printed_as_they_are(capsys) -> None:
    console.say("[bold]{}[/bold]: {}", "[red] {x}", 3)
    assert capsys.readouterr().out == "[red] {x}: 3\n"
