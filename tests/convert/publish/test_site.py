"""The pages of a site as files: links, order, escaping, what is left alone."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from site_index import CARD, all_published, module

from convert.errors import ConvertError
from convert.publish import site
from convert.publish.index import File, Index
from mobilenets.published import archives

NAME = "mobilenet_v1_025_128"


class Tags(HTMLParser):
    """Every start tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def pages(folder: Path) -> dict[str, Tags]:
    return {
        path.relative_to(folder).as_posix(): Tags(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
    }


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """A classification with an older version, its feature vector, and a quantops module."""
    return Index(
        (
            module(tmp_path, NAME, "classification", 1),
            module(tmp_path, NAME, "classification", 2, top1=41.5, million_macs=14),
            module(tmp_path, NAME, "feature_vector"),
            module(tmp_path, f"{NAME}/quantops", "classification", top1=39.5, million_macs=14),
        )
    )


@pytest.fixture
def written(tmp_path: Path, index: Index) -> Path:
    site.write(tmp_path, index)
    # Written by the command itself.
    (tmp_path / "index.json").touch()
    (tmp_path / "SHA256SUMS").touch()
    return tmp_path


def test_every_link_is_relative_and_leads_to_a_file(written: Path) -> None:
    for name, page in pages(written).items():
        links = [
            value
            for _, attributes in page.tags
            for key, value in attributes.items()
            if key in ("href", "src", "data-address", "data-model") and value
        ]
        assert links
        for link in links:
            parts = urlsplit(link)
            assert not parts.scheme
            assert not link.startswith("/")
            assert (written / posixpath.dirname(name) / unquote(parts.path)).exists()


def test_each_module_has_a_page_and_a_row(written: Path) -> None:
    assert set(pages(written)) == {
        "index.html",
        f"{NAME}/classification/index.html",
        f"{NAME}/feature_vector/index.html",
        f"{NAME}/quantops/classification/index.html",
    }
    rows = [row for row in pages(written)["index.html"].named("tr") if "data-name" in row]
    # The most accurate first, unknown accuracy last.
    assert [(row["data-name"], row["data-kind"]) for row in rows] == [
        (NAME, "classification"),
        (f"{NAME}/quantops", "classification"),
        (NAME, "feature_vector"),
    ]


def test_rows_are_sorted_by_accuracy(tmp_path: Path) -> None:
    site.write(tmp_path, all_published(tmp_path))
    rows = [row for row in pages(tmp_path)["index.html"].named("tr") if "data-name" in row]
    accuracies = [archives()[row["data-name"] or ""].top1 for row in rows]
    assert len(rows) == 2 * len(archives())
    assert accuracies == sorted(accuracies, reverse=True)


def test_a_page_has_the_newest_version_and_leads_to_older_ones(written: Path, index: Index) -> None:
    page = pages(written)[f"{NAME}/classification/index.html"]
    downloads = [each["href"] for each in page.named("a") if "download" in each]
    assert downloads == ["2.tar.gz", "1.tar.gz"]
    for entry in index.modules[:2]:
        assert entry.sha256 in page.text
    assert "Older versions" in page.text
    assert "Older versions" not in pages(written)[f"{NAME}/feature_vector/index.html"].text


def test_a_page_lists_the_files(written: Path, index: Index) -> None:
    page = pages(written)[f"{NAME}/classification/index.html"]
    for file in index.modules[1].files:
        assert file.path in page.text
        assert f"{file.bytes:,}" in page.text
        assert file.sha256 in page.text


def test_kinds_of_one_network_lead_to_each_other(written: Path) -> None:
    for kind, other in (("classification", "feature_vector"), ("feature_vector", "classification")):
        links = [each["href"] for each in pages(written)[f"{NAME}/{kind}/index.html"].named("a")]
        assert f"../{other}/index.html" in links


def test_without_the_demo_nothing_of_it_is_there(written: Path) -> None:
    names = contents(written)
    assert not [name for name in names if "litert" in name or "demo" in name or "tflite" in name]
    for page in pages(written).values():
        assert not [each for each in page.named("script") if each.get("type")]
        assert "Try it" not in page.text


def test_browsers_are_told_to_load_nothing_from_elsewhere(written: Path) -> None:
    for page in pages(written).values():
        (policy,) = (each["content"] for each in page.named("meta") if "http-equiv" in each)
        rules = dict(rule.split(" ", 1) for rule in (policy or "").split("; "))
        assert rules.pop("default-src") == "'none'"
        assert rules.pop("script-src") == "'self'"
        assert set(rules.values()) <= {"'self'", "'none'"}


def test_the_same_index_gives_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        site.write(tmp_path / name, all_published(tmp_path / name))
        found.append({key: value for key, (value, _) in contents(tmp_path / name).items()})
    assert found[0] == found[1]


def test_what_would_not_change_is_left_alone(written: Path, index: Index) -> None:
    before = contents(written)
    changed = f"{NAME}/feature_vector/index.html"
    (written / changed).write_text("damaged")
    site.write(written, index)
    after = contents(written)
    assert after[changed][0] == before[changed][0]
    del before[changed], after[changed]
    assert after == before


def test_an_archive_without_a_card_is_refused(tmp_path: Path, index: Index) -> None:
    damaged = tmp_path / index.modules[2].path
    damaged.write_bytes(b"no archive")
    with pytest.raises(ConvertError, match=f"{damaged} cannot be read"):
        site.write(tmp_path, index)
    assert not list(tmp_path.rglob("*.html"))
    assert not (tmp_path / "assets").exists()


HOSTILE = """# title <script>alert(1)</script>

<script>alert(2)</script> <img src=x onerror=alert(3)>

| `<script>alert(4)</script>` | <b onclick="alert(5)">bold</b> |
| --- | --- |

[a link](javascript:alert(6)) ![an image](https://example.com/counter.png)

```python
"</code></pre><script>alert(7)</script>"
```

## <script>alert(8)</script> `<script>alert(9)</script>`
"""


def test_nothing_that_a_module_says_is_markup(tmp_path: Path) -> None:
    name = f'"><script>alert(0)</script>/{NAME}'
    files = (File('<img src=x onerror="alert(1)">', 1, "<script>"),)
    entries = (
        module(tmp_path, name, "classification", card=HOSTILE, files=files, top1=1, million_macs=9),
        module(tmp_path, name, "feature_vector", card=CARD, top1=1, million_macs=9),
    )
    index = dataclasses.replace(Index(entries), generator="<script>alert(2)</script>")
    site.write(tmp_path, index)
    for page in pages(tmp_path).values():
        assert not list(page.named("img"))
        assert not list(page.named("b"))
        for attributes in page.named("script"):
            assert (attributes["src"] or "").rpartition("/")[2] in ("copy.js", "table.js")
        for _, attributes in page.tags:
            assert not [key for key in attributes if key.startswith("on")]
            for key in ("href", "src"):
                # Links lead elsewhere; nothing is loaded from there.
                assert urlsplit(attributes.get(key) or "").scheme in ("", "https")


def test_a_site_without_accuracies_has_no_chart(tmp_path: Path) -> None:
    site.write(tmp_path, Index((module(tmp_path, NAME, "classification"),)))
    assert not list(pages(tmp_path)["index.html"].named("polyline"))
