"""Pages whose table a tool writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import markdown_page


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert markdown_page.after_the_table(page) == ""
    page.write_text("# Old\n| table |\n<!-- end -->\n\n## By hand\n")
    assert markdown_page.after_the_table(page) == "\n## By hand\n"


@pytest.mark.parametrize(
    ("page", "name"), [("speed.md", "bfloat16"), ("quantization.md", "figures")]
)
def test_the_rest_of_a_page_stays(
    page: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    text = (request.config.rootpath / "docs" / page).read_text(encoding="utf-8")
    before, mark, rest = text.partition(f"<!-- {name}: ")
    place, _, table = rest.partition("\n")
    _, end, after = table.partition(markdown_page.END)
    file = tmp_path / page
    file.write_text(text, encoding="utf-8")
    markdown_page.write_table(file, name, ["| new |", "| newer |"])
    fresh = f"{before}{mark}{place}\n| new |\n| newer |\n{end}{after}"
    assert file.read_text(encoding="utf-8") == fresh


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("# Nothing\n", "found 0"),
        (2 * "<!-- figures: made -->\n<!-- end -->\n", "found 2"),
    ],
    ids=["absent", "no place", "two"],
)
def test_a_page_without_its_place_is_a_line_and_stays(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    code = markdown_page.reported(lambda: markdown_page.write_table(page, "figures", ["| new |"]))
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert (page.read_text() if page.exists() else None) == text


def test_lines_are_shown_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert markdown_page.shown(iter(["a", "b"])) == ["a", "b"]
    assert capsys.readouterr().out == "a\nb\n"
