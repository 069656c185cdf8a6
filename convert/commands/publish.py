"""`publish`: a folder of modules to a static site."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from . import _arguments

if TYPE_CHECKING:
    from ..publish.publication import Published

HELP = "turn a folder of modules into a site that hosts them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "modules", type=Path, metavar="MODELS", help="folder of modules, searched recursively"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="SITE",
        help="folder of the site; what was published there stays",
    )
    parser.add_argument(
        "--demo",
        type=Path,
        metavar="PACKAGES",
        help="let visitors try the classifications in their browser: the folder where npm has "
        "installed @litertjs/core",
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    with console.status("loading TensorFlow"):
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..publish import demo, site
        from ..publish.modules import find
        from ..publish.publication import publish

    modules = find(options.modules)
    runtime = None if options.demo is None else demo.runtime(options.demo)
    with console.progress() as progress:
        bar = progress.add_task("modules", total=len(modules))
        index, done = publish(
            modules, options.output, on_module=lambda published: progress.advance(bar)
        )
    with console.status("writing the pages") as status:
        site.write(
            options.output,
            index,
            runtime=runtime,
            on_model=lambda path: status.update(f"making {console.plain(path)}"),
        )
    if options.json:
        console.print_json([{"status": each.status, **vars(each.entry)} for each in done])
    else:
        _print(done, options.output)
    return 0


def _print(done: list[Published], site: Path) -> None:
    table = console.table("archive", "", "MB>", "top-1 %>", "weights from")
    for each in done:
        entry = each.entry
        source = entry.source or {}
        table.add_row(
            entry.path,
            each.status,
            f"{entry.bytes / 1e6:.1f}",
            console.figure(entry.top1, ".1f"),
            console.plain(source.get("url") or source.get("file") or "not recorded"),
        )
    console.print_table(table)
    total = sum(each.entry.bytes for each in done) / 1e6
    count = f"{len(done)} module{'s' if len(done) != 1 else ''}"
    console.say("{}, {} MB, in {}", count, f"{total:.0f}", site)
