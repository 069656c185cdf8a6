"""The card of a module: a README.md with the head that Hugging Face reads, from `templates/`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2

from mobilenets import Variant, architecture

from .index import Entry

__all__ = ["CARD", "SITE", "environment", "render"]

CARD = "README.md"

SITE = "https://example.org/models"
"""Stands for the site's URL, which nobody knows when a card is written."""

_QUANTIZATION = (
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    "1712.05877",
)


@functools.cache
def environment() -> jinja2.Environment:
    """The templates in `templates/`; a name that a template does not get is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        # Markup is escaped in pages, not in cards.
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(entry: Entry, site: str = SITE) -> str:
    """The card of a module.

    It says nothing of the archive's own size and hash, since it lies in the archive.

    Args:
      entry: The module.
      site: URL of the site in the snippets.

    Returns:
      Markdown with a YAML head.
    """
    return environment().get_template("card.md").render(**_facts(entry), site=site)


def _facts(entry: Entry) -> dict[str, Any]:
    variant = Variant.parse(entry.name)
    papers = [architecture.paper(variant.family), *([_QUANTIZATION] if entry.quantized else [])]
    return {
        "entry": entry,
        "variant": variant,
        "family": architecture.title(variant.family),
        "scope": architecture.scope(variant.family),
        "papers": papers,
        # Set from the hash or the URL of the source: only then the weights are known as Google's.
        "published": entry.top1 is not None,
        "momentum": "activation_range_momentum" if entry.quantized else "batch_norm_momentum",
    }
