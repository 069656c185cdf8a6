"""The table, the chart and the snippets, as someone with a browser meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from site_index import module
from tiers import first_fast, slow

from convert.publish import site
from convert.publish.index import Index
from mobilenets.published import KINDS, archives
from mobilenets.variants import VARIANTS, Variant

Visit = Callable[..., Any]
VIEWS = [("desktop", "light"), ("phone", "dark")]
LAYOUTS = [*VIEWS, slow("tablet", "dark"), slow("small phone", "light")]
MODULE = "mobilenet_v1_025_128/quantops/classification"


@pytest.fixture
def home(catalogue: Path, served: Callable[[Path], str]) -> str:
    return f"{served(catalogue)}index.html"


@pytest.fixture
def module_page(catalogue: Path, served: Callable[[Path], str]) -> str:
    return f"{served(catalogue)}{MODULE}/index.html"


def shown(page: Any) -> list[str]:
    """The visible rows of the table, as `name/kind`."""
    return page.eval_on_selector_all(
        "#table tbody tr", "rows => rows.filter(row => row.checkVisibility())"
        ".map(row => `${row.dataset.name}/${row.dataset.kind}`)"
    )  # fmt: skip


def names(wanted: Callable[[Variant], bool], kinds: tuple[str, ...] = KINDS) -> set[str]:
    return {f"{each.name}/{kind}" for each in VARIANTS for kind in kinds if wanted(each)}


def figures(column: str, rows: list[str]) -> list[float]:
    return [getattr(archives()[row.rpartition("/")[0]], column) for row in rows]


@pytest.mark.parametrize(("width", "scheme"), first_fast(VIEWS))
def test_headers_sort_the_table(visit: Visit, home: str, width: str, scheme: str) -> None:
    page = visit(home, width, scheme)
    assert figures("top1", shown(page)) == sorted(figures("top1", shown(page)), reverse=True)
    for column, header in (("million_macs", "Multiply-adds, M"), ("top1", "Top\u20111, %")):
        button = page.get_by_role("button", name=header)
        cell = page.get_by_role("columnheader", name=header)
        button.click()
        assert cell.get_attribute("aria-sort") == "descending"
        found = figures(column, shown(page))
        assert found == sorted(found, reverse=True)
        # And by the keyboard.
        button.press("Enter")
        assert cell.get_attribute("aria-sort") == "ascending"
        found = figures(column, shown(page))
        assert found == sorted(found)
    assert page.locator("[aria-sort]").count() == 1
    page.get_by_role("button", name="Module").click()
    assert shown(page) == sorted(shown(page))


def test_unknown_figures_come_last(
    visit: Visit, served: Callable[[Path], str], tmp_path: Path
) -> None:
    accuracies = {"100": None, "075": 62.1, "050": None, "025": 41.5, "035": None, "140": 75.0}
    entries = (
        module(tmp_path, f"mobilenet_v1_{multiplier}_128", "classification", top1=top1)
        for multiplier, top1 in accuracies.items()
    )
    site.write(tmp_path, Index(tuple(entries)))
    page = visit(f"{served(tmp_path)}index.html")
    button = page.get_by_role("button", name="Top\u20111, %")
    known, unknown = ["140", "075", "025"], {"100", "050", "035"}
    # From among the others; descending first.
    page.get_by_role("button", name="Module").click()
    for expected in (known, known[::-1]):
        button.click()
        found = [row.split("_")[2] for row in shown(page)]
        assert found[:3] == expected
        assert set(found[3:]) == unknown


@pytest.mark.parametrize(
    ("label", "choice", "expected"),
    [
        ("Family", "MobileNet V2", names(lambda each: each.family == "mobilenet_v2")),
        ("Kind", "feature vector", names(lambda each: True, ("feature_vector",))),
        ("Arithmetic", "float", names(lambda each: not each.quantized)),
        ("Arithmetic", "quantops (8-bit)", names(lambda each: each.quantized)),
        ("Image size", "96 px", names(lambda each: each.image_size == 96)),
        ("Name", "V1_050 quant", names(lambda each: each.name.startswith("mobilenet_v1_050")
                                       and each.quantized)),
        ("Name", "nothing", set()),
    ],
    ids=["family", "kind", "float", "quantops", "size", "words", "none"],
)  # fmt: skip
def test_fields_filter_table_and_chart(
    visit: Visit, home: str, label: str, choice: str, expected: set[str]
) -> None:
    page = visit(home)
    every = set(shown(page))
    field = page.get_by_label(label, exact=True)
    field.fill(choice) if label == "Name" else field.select_option(label=choice)
    assert set(shown(page)) == expected
    assert page.get_by_role("status").inner_text() == f"{len(expected)} of {len(every)} modules"
    marked = page.eval_on_selector_all(
        ".chart a:not(.faint)", "marks => marks.map(mark => mark.dataset.name)"
    )
    assert set(marked) == {row.rpartition("/")[0] for row in expected}
    page.get_by_role("button", name="Show all").click()
    page.get_by_text(f"{len(every)} modules", exact=True).wait_for()
    assert set(shown(page)) == every


def test_a_filter_stays_while_sorting(visit: Visit, home: str) -> None:
    page = visit(home, "phone")
    page.get_by_label("Family", exact=True).select_option("mobilenet_v2")
    page.get_by_role("button", name="Archive, MB").click()
    assert set(shown(page)) == names(lambda each: each.family == "mobilenet_v2")


def test_without_javascript_all_is_there(visit: Visit, home: str, module_page: str) -> None:
    page = visit(home, java_script_enabled=False)
    rows = page.locator("#table tbody tr")
    assert rows.count() == 2 * len(VARIANTS)
    assert rows.first.inner_text().startswith("mobilenet_v2_140_224 feature vector")
    assert not page.locator("#filters").is_visible()
    page = visit(module_page, java_script_enabled=False)
    assert f"https://example.org/models/{MODULE}/1.tar.gz" in page.locator("pre").inner_text()
    assert page.locator(".copy").count() == 0


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_a_mark_leads_to_its_module(visit: Visit, home: str, width: str, scheme: str) -> None:
    page = visit(home, width, scheme)
    # Away from the others.
    page.locator(".chart a[data-name=mobilenet_v1_025_224]").click()
    page.wait_for_url("**/mobilenet_v1_025_224/classification/index.html")
    assert page.locator("h1").inner_text().startswith("mobilenet_v1_025_224")
    page.get_by_role("link", name="All modules").click()
    page.wait_for_url(home)


def test_a_row_leads_to_its_module(visit: Visit, home: str) -> None:
    page = visit(home)
    page.get_by_role("link", name="mobilenet_v2_035_96", exact=True).last.click()
    page.wait_for_url("**/mobilenet_v2_035_96/classification/index.html")
    page.get_by_role("link", name="feature vector").click()
    page.wait_for_url("**/mobilenet_v2_035_96/feature_vector/index.html")


@pytest.mark.parametrize(("width", "scheme"), first_fast(VIEWS))
def test_snippets_are_copied_with_the_pages_address(
    visit: Visit, module_page: str, width: str, scheme: str
) -> None:
    page = visit(module_page, width, scheme, permissions=["clipboard-read", "clipboard-write"])
    address = module_page.replace("index.html", "1.tar.gz")
    for place, text in (
        (page.locator(".snippet").first, f'hub.KerasLayer("{address}", trainable=True)'),
        (page.locator(".download p", has_text="Address"), address),
    ):
        button = place.get_by_role("button", name="Copy")
        button.click()
        place.get_by_role("button", name="Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert text in copied
        assert "example.org" not in copied
        assert "Copy" not in copied


def test_copying_works_without_https(visit: Visit, home: str) -> None:
    """Where the browser has no clipboard for scripts."""
    page = visit(home)
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.reload()
    page.get_by_text("Use this site as a mirror").click()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    field = page.get_by_label("Name", exact=True)
    field.press("Control+v")
    assert field.input_value() == f"export MOBILENETS_MIRROR={home.removesuffix('/index.html')}"


def test_it_works_from_a_disk(visit: Visit, catalogue: Path) -> None:
    page = visit((catalogue / "index.html").as_uri())
    page.get_by_label("Image size").select_option("96")
    assert set(shown(page)) == names(lambda each: each.image_size == 96)
    page.goto((catalogue / MODULE / "index.html").as_uri())
    # Nothing could be loaded from an address on this disk.
    assert f"https://example.org/models/{MODULE}/1.tar.gz" in page.locator("pre").inner_text()


# How many texts can be seen, and which have a contrast below 4.5, by WCAG 2.2's formulas.
CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (value) =>
    value <= 10.31475 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = channels(getComputedStyle(each).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  let count = 0;
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.tagName === "title") continue;
    const style = getComputedStyle(element);
    const ink = channels(element instanceof SVGElement ? style.fill : style.color);
    const [dark, bright] = [luminance(ink), luminance(ground(element))].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dark + 0.05);
    count += 1;
    if (contrast < 4.5) low.push(`${contrast}: ${element.outerHTML.slice(0, 80)}`);
  }
  return [count, low];
}"""


@pytest.mark.parametrize(("width", "scheme"), LAYOUTS)
def test_pages_fit_and_can_be_read(
    visit: Visit, home: str, module_page: str, width: str, scheme: str
) -> None:
    grounds = set()
    for url in (home, module_page):
        page = visit(url, width, scheme)
        # innerWidth would grow with what does not fit.
        assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
        count, low = page.evaluate(CONTRASTS)
        assert count > 20
        assert not low
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(16, 20, 26)"}
