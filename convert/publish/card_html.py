"""A module's card as HTML."""

from __future__ import annotations

import re
import tarfile
from collections.abc import MutableMapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from ..errors import ConvertError
from .cards import CARD, SITE

__all__ = ["breakable", "card_of", "rendered"]

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def card_of(archive: Path) -> str:
    """The text of the card in a module's archive.

    Raises:
      ConvertError: The archive cannot be read, or has no card.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name == CARD:
                    content = tar.extractfile(member)
                    assert content is not None
                    return content.read().decode("utf-8")
    except (OSError, EOFError, tarfile.TarError, UnicodeDecodeError) as error:
        raise ConvertError(f"{archive} cannot be read: {error}") from error
    raise ConvertError(f"{archive} has no {CARD}: restore the archive")


def rendered(card: str, root: str) -> tuple[Markup, Markup]:
    """HTML of a card, for a page that has a first-level heading of its own.

    HTML and images in the card are shown as text. The card's YAML head and its title are left out.
    In code, the stand-in for the site's URL becomes a place that a script fills.

    Args:
      card: Markdown.
      root: The site's top, relative to the page.

    Returns:
      What is before the first section, and the sections.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    place = f'<span data-address="{escape(root)}">{SITE}</span>'

    def block(tokens: Sequence[Token], position: int, *_: Any) -> str:
        inner = escape(tokens[position].content).replace(SITE, place)
        return f"<pre><code>{inner}</code></pre>\n"

    def inline(tokens: Sequence[Token], position: int, *_: Any) -> str:
        return f"<code>{breakable(tokens[position].content)}</code>"

    rules: MutableMapping[str, Any] = markdown.renderer.rules  # type: ignore[attr-defined]
    rules["fence"] = rules["code_block"] = block
    rules["code_inline"] = inline
    # Wide tables scroll by themselves, so that a telephone's page does not.
    rules["table_open"] = lambda *_: '<div class="scroll"><table>\n'
    rules["table_close"] = lambda *_: "</table></div>\n"
    tokens = _untitled(markdown.parse(_FRONT_MATTER.sub("", card)))
    sections = [
        position
        for position, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag == "h2"
    ]
    first = sections[0] if sections else len(tokens)
    beginning, rest = (
        Markup(markdown.renderer.render(each, markdown.options, {}))
        for each in (tokens[:first], tokens[first:])
    )
    return beginning, rest


def breakable(name: str) -> Markup:
    """A name that may break into lines after each underscore and slash."""
    return Markup(re.sub("[_/]", r"\g<0><wbr>", escape(name)))


def _untitled(tokens: list[Token]) -> list[Token]:
    """Without a title at the beginning; other headings of the first level become second-level."""
    if tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        tokens = tokens[3:]
    for token in tokens:
        if token.tag == "h1":
            token.tag = "h2"
    return tokens
