"""Pages whose table a tool writes."""

from __future__ import annotations

from pathlib import Path

from tools import markdown_page


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert markdown_page.after_the_table(page) == ""
    page.write_text("# Old\n| table |\n<!-- end -->\n\n## By hand\n")
    assert markdown_page.after_the_table(page) == "\n## By hand\n"
