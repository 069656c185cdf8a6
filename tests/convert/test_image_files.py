"""Which files in a folder are images."""

from __future__ import annotations

from pathlib import Path

from convert.image_files import each_image, images_in


def test_one_by_one_in_the_same_order(tmp_path: Path) -> None:
    """Not the order of the whole paths: `-` is before `/`, but `a` before `a-`."""
    for name in ("a/z.png", "a-b/y.JPG", "a.gif", "B/c/1.bmp", "B/c.png", "B/10.jpeg", "é.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("a/notes.txt", "a/.hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.png").mkdir()
    found = [Path(entry.path) for entry in each_image(tmp_path)]
    assert found == images_in(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        *("B/10.jpeg", "B/c/1.bmp", "B/c.png", "a/z.png", "a-b/y.JPG", "a.gif", "é.png")
    ]


def test_hidden_folders_and_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").touch()
    (tmp_path / "images" / ".hidden").mkdir(parents=True)
    (tmp_path / "images" / ".hidden" / "2.png").touch()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "images")
    (entry,) = each_image(tmp_path / "images")
    assert Path(entry.path) == tmp_path / "images" / "linked" / "1.png"
