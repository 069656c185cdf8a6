"""A card as part of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.errors import ConvertError
from convert.publish.archives import pack
from convert.publish.card_html import breakable, card_of, rendered
from convert.publish.cards import SITE

CARD = f"""---
license: apache-2.0
---
# A title

What it is.

| a | b |
| --- | --- |
| 1 | `some_name` |

## Use

```python
SITE = "{SITE}"
x = 1 < 2
```
"""


def test_head_and_title_are_left_out() -> None:
    beginning, sections = rendered(CARD, "../../")
    assert "apache" not in beginning + sections
    assert "A title" not in beginning + sections
    assert beginning.startswith("<p>What it is.</p>")


def test_sections_follow_the_beginning() -> None:
    beginning, sections = rendered(CARD, "../../")
    assert "<table>" in beginning
    assert sections.startswith("<h2>Use</h2>")
    assert "<code>some_<wbr>name</code>" in beginning


def test_the_sites_address_becomes_a_place() -> None:
    _, sections = rendered(CARD, "../../")
    assert f'SITE = &quot;<span data-address="../../">{SITE}</span>&quot;' in sections
    assert "x = 1 &lt; 2" in sections


@pytest.mark.parametrize("card", ["", "# Title\n", "text", "# One\n\n# Two\n\ntext"])
def test_other_cards_are_rendered_too(card: str) -> None:
    beginning, sections = rendered(card, "")
    assert "<h1>" not in beginning + sections
    assert ("<h2>Two</h2>" in sections) == ("Two" in card)


def test_names_break_and_are_escaped() -> None:
    assert breakable("a_b/<c>") == "a_<wbr>b/<wbr>&lt;c&gt;"


def test_the_card_is_found_in_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "1.tar.gz"
    pack({"assets/README.md": b"other", "README.md": "grün".encode()}, archive)
    assert card_of(archive) == "grün"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"text", "cannot be read"),
        ({"saved_model.pb": b""}, r"has no README\.md"),
        ({"README.md": b"\xff"}, "cannot be read"),
    ],
    ids=["absent", "no archive", "no card", "no text"],
)
def test_archives_without_a_card_are_refused(
    tmp_path: Path, content: bytes | dict[str, bytes | Path] | None, message: str
) -> None:
    archive = tmp_path / "1.tar.gz"
    if isinstance(content, bytes):
        archive.write_bytes(content)
    elif content is not None:
        pack(content, archive)
    with pytest.raises(ConvertError, match=f"{archive} {message}") as caught:
        card_of(archive)
    assert "\n" not in str(caught.value)
