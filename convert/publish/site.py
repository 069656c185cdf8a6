"""The site: a table and a chart of all modules, and a page for each.

Plain files, deterministic, with relative links only: they work from any folder of any web server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from mobilenets import architecture
from mobilenets.published import KINDS
from mobilenets.variants import FAMILIES, Variant

from ..files import written_beside
from . import cards
from .card_html import breakable, card_of, rendered
from .chart import SHAPES, Mark, chart
from .demo import model
from .index import Entry, Index

__all__ = ["write"]

_HERE = Path(__file__).parent
_MISSING = "-"


@dataclass(frozen=True)
class _Page:
    """The page of a module.

    Attributes:
      entry: The module's newest version.
      older: Its older versions, the newest first.
    """

    entry: Entry
    older: Sequence[Entry]

    @property
    def variant(self) -> Variant:
        return Variant.parse(self.entry.name)

    @property
    def folder(self) -> str:
        """Of the page and the archives, below the site's top."""
        return posixpath.dirname(self.entry.path)

    @property
    def path(self) -> str:
        return f"{self.folder}/index.html"

    @property
    def root(self) -> str:
        """The site's top, relative to the page."""
        return "../" * self.path.count("/")


def write(
    site: Path,
    index: Index,
    *,
    runtime: Mapping[str, Path] | None = None,
    on_model: Callable[[str], object] = lambda path: None,
) -> None:
    """Writes the pages of a published folder.

    Files that would not change are left alone; each other file is replaced as a whole.

    Args:
      site: The folder, with the archives of the index.
      index: The published modules.
      runtime: LiteRT for the web, see `demo.runtime`. With it the pages of classifications offer
        a LiteRT model and have a section that tries it on a photograph; None leaves both out.
      on_model: Called with the path of each LiteRT model before it is made, which takes seconds.

    Raises:
      ConvertError: An archive cannot be read, or a file cannot be written.
    """
    environment = _environment()
    pages = _pages(index)
    assets = {f"assets/{path.name}": path for path in sorted((_HERE / "assets").iterdir())}
    demos: dict[str, dict[str, Any]] = {}
    if runtime is None:
        for name in ("crop.js", "demo.js"):
            del assets[f"assets/{name}"]
    else:
        assets |= {f"assets/litert/{name}": path for name, path in runtime.items()}
        for page in pages:
            if page.entry.kind == "classification":
                demos[page.path] = _demo(site, page, runtime, on_model)
    template = environment.get_template("module.html")
    texts = {
        page.path: template.render(
            _of_module(page, pages, index),
            card=rendered(card_of(site / page.entry.path), page.root),
            demo=demos.get(page.path),
        )
        for page in pages
    }
    texts["index.html"] = environment.get_template("index.html").render(_of_all(pages, index))
    for name, path in assets.items():
        _put(site / name, path.read_bytes())
    for name, text in texts.items():
        _put(site / name, text.encode())


def _demo(
    site: Path, page: _Page, runtime: Mapping[str, Path], on_model: Callable[[str], object]
) -> dict[str, Any]:
    """What the template of a page needs for the section that tries the model."""
    on_model(f"{page.folder}/{page.entry.version}.tflite")
    made = model(site / page.entry.path, page.entry.sha256)
    loaded = runtime["wasm/litert_wasm_internal.wasm"].stat().st_size + made.bytes
    imports = {"@litertjs/wasm-utils": f"{page.root}assets/litert/wasm-utils/index.js"}
    return {**vars(made), "loaded": loaded, "import_map": json.dumps({"imports": imports})}


def _put(target: Path, content: bytes) -> None:
    if target.is_file() and target.read_bytes() == content:
        return
    with written_beside(target) as folder:
        (folder / target.name).write_bytes(content)


def _pages(index: Index) -> list[_Page]:
    """A page for each module, the most accurate first."""
    versions = defaultdict(list)
    for entry in index.modules:
        versions[entry.name, entry.kind].append(entry)
    pages = []
    for found in versions.values():
        newest, *older = sorted(found, key=lambda entry: -entry.version)
        pages.append(_Page(newest, older))

    def rank(page: _Page) -> tuple[Any, ...]:
        entry = page.entry
        return -(entry.top1 or 0), entry.million_macs or 0, entry.name, KINDS.index(entry.kind)

    return sorted(pages, key=rank)


def _of_module(page: _Page, pages: Iterable[_Page], index: Index) -> dict[str, Any]:
    """What the template of a module's page needs, except for the card and the demo."""
    siblings = [
        {"kind": other.entry.kind, "href": posixpath.relpath(other.path, page.folder)}
        for other in pages
        if other.entry.name == page.entry.name and other is not page
    ]
    return {
        "generator": index.generator,
        "root": page.root,
        "module": page.entry,
        "older": page.older,
        "siblings": siblings,
        "here": lambda path: posixpath.relpath(path, page.folder),
    }


def _of_all(pages: Sequence[_Page], index: Index) -> dict[str, Any]:
    """What the template of the first page needs."""
    groups = sorted(
        {_group(page) for page in pages if _in_chart(page)},
        key=lambda group: (FAMILIES.index(group[0]), group[1]),
    )
    found = {page.variant.family for page in pages}
    kinds = {page.entry.kind for page in pages}
    return {
        "generator": index.generator,
        "root": "",
        "pages": pages,
        "families": [family for family in FAMILIES if family in found],
        "kinds": [kind for kind in KINDS if kind in kinds],
        "sizes": sorted({page.entry.image_size for page in pages}, reverse=True),
        "series": [f"{architecture.title(family)} {form}".rstrip() for family, form in groups],
        "chart": chart(_marks(pages, groups)),
    }


def _group(page: _Page) -> tuple[str, str]:
    return page.variant.family, page.variant.form


def _in_chart(page: _Page) -> bool:
    return bool(page.entry.top1 and page.entry.million_macs)


def _marks(pages: Iterable[_Page], groups: Sequence[tuple[str, str]]) -> Iterable[Mark]:
    """One mark for each name; it leads to the classification where there is one."""
    chosen: dict[str, _Page] = {}
    for page in filter(_in_chart, pages):
        if page.entry.name not in chosen or page.entry.kind == "classification":
            chosen[page.entry.name] = page
    for name, page in chosen.items():
        top1, macs = page.entry.top1, page.entry.million_macs
        assert top1 is not None
        assert macs is not None
        yield Mark(
            million_macs=macs,
            top1=top1,
            series=groups.index(_group(page)),
            line=str(page.variant.depth_multiplier),
            name=name,
            href=page.path,
            title=f"{name}: {_figure(top1, 1)} %, {_figure(macs, 0)} M",
        )


def _environment() -> jinja2.Environment:
    environment = cards.environment().overlay()
    environment.filters = environment.filters | {
        "breakable": breakable,
        "family": architecture.title,
        "figure": _figure,
        "megabytes": lambda count: f"{count / 1e6:.1f} MB",
        "pixels": lambda size: f"{size} px",
        "source_hash": _source_hash,
        "spoken": lambda kind: kind.replace("_", " "),
    }
    names = {"shapes": SHAPES, "site": cards.SITE, "zip": zip}
    environment.globals = environment.globals | names
    return environment


def _figure(value: float | None, digits: int) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"


def _source_hash(script: str) -> str:
    """What a Content-Security-Policy allows an inline script by."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
