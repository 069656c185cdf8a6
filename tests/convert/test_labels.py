"""Class names from a file: a name a line, or Slim's `index:name`; nothing else passes for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.errors import ConvertError
from convert.labels import read_labels
from mobilenets.images import class_names

NAMES = ("daisy", "rose, red", "tulip")


def labels(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "daisy\nrose, red\ntulip\n",
        "daisy\nrose, red\ntulip",
        "daisy\r\nrose, red\r\ntulip\r\n",
        "\ufeffdaisy\nrose, red\ntulip\n",
        "0:daisy\n1:rose, red\n2:tulip\n",
        "2:tulip\n0:daisy\n1:rose, red\n",
        "0: daisy\n 1 : rose, red\n2:tulip ",
        "\ufeff0:daisy\n1:rose, red\n2:tulip",
    ],
    ids=[
        "plain",
        "no newline at the end",
        "Windows",
        "byte-order mark",
        "Slim's",
        "Slim's, in another order",
        "Slim's, with spaces",
        "Slim's, byte-order mark",
    ],
)
def test_names(tmp_path: Path, text: str) -> None:
    assert read_labels(labels(tmp_path, text), 3) == NAMES


def test_a_colon_alone_is_no_index(tmp_path: Path) -> None:
    assert read_labels(labels(tmp_path, "note: a\nratio 3:1\n"), 2) == ("note: a", "ratio 3:1")


@pytest.mark.parametrize("indexed", [False, True])
def test_imagenets_own_list_has_crane_twice(tmp_path: Path, indexed: bool) -> None:
    lines = [f"{i}:{name}" if indexed else name for i, name in enumerate(class_names())]
    assert read_labels(labels(tmp_path, "\n".join(lines) + "\n"), 1001) == class_names()


def test_crane_twice_elsewhere_is_refused(tmp_path: Path) -> None:
    changed = list(class_names())
    changed[7] = "crane"
    with pytest.raises(ConvertError, match="'crane' on lines 8, 136, 519; give every class"):
        read_labels(labels(tmp_path, "\n".join(changed)), 1001)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "has 2 lines, but the checkpoint has 3 classes"),
        ("", "has 0 lines, but the checkpoint has 3 classes"),
        ("a\nb\nc\nd\n", "has 4 lines, but the checkpoint has 3 classes"),
        ("a\n\nb\n", ": line 2 without a name; give every class one, or remove the line"),
        ("a\nb\nc\n\n", ": line 4 without a name; give every class one, or remove the line"),
        ("\n \nc\n", ": lines 1, 2 without a name; give every class one, or remove the line"),
        ("0:a\n1:\n2:c\n", ": line 2 without a name; give every class one, or remove the line"),
        ("a\nb\na\n", ": 'a' on lines 1, 3; give every class a name of its own"),
        ("2:a\n1:b\n0:a\n", ": 'a' on lines 3, 1; give every class a name of its own"),
        (
            "0:a\nb\n2:c\n",
            ": line 2 without an index, but others have one (such as '0:a'); "
            "number every line or none",
        ),
        (
            "0:a\n1:b\n1:c\n",
            ": index 1 on lines 2, 3; number the classes from 0 to 2, each once",
        ),
        (
            "1:a\n2:b\n3:c\n",
            ": index 3 on line 3, but 0 is missing; number the classes from 0 to 2, each once",
        ),
        (b"caf\xe9\nb\nc\n", " cannot be read: 'utf-8' codec can't decode byte 0xe9 in position 3"),
    ],
    ids=[
        "too few",
        "empty file",
        "too many",
        "empty line",
        "empty line at the end",
        "blank lines",
        "no name behind an index",
        "a name twice",
        "a name twice, indexed",
        "some without index",
        "an index twice",
        "from 1",
        "Latin-1",
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = labels(tmp_path, text)
    with pytest.raises(ConvertError) as caught:
        read_labels(path, 3)
    assert str(caught.value).startswith(f"{path}{'' if message[0] in ': ' else ' '}{message}")
    assert "\n" not in str(caught.value)


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"cannot be read: .*No such file"):
        read_labels(tmp_path / "labels.txt", 3)
