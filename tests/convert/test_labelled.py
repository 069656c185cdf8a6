"""Labelled images: every layout of folders, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import one_line

import mobilenets
from convert.errors import ConvertError
from convert.labelled import labelled, synsets

SYNSETS = synsets()


def empty(folder: Path, *names: str) -> Path:
    """Files that are called like images; finding them does not decode them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def positions(folder: Path, *arguments) -> dict[str, int]:
    result = labelled(folder, *arguments)
    assert result.paths == sorted(result.paths)
    return {
        str(path.relative_to(folder)): label
        for path, label in zip(result.paths, result.labels, strict=True)
    }


def test_folders_by_name(tmp_path: Path) -> None:
    empty(tmp_path, "Hot_Dog/a.jpg", "Hot_Dog/nested/b.JPEG", "owl/c.png", ".hidden/d.png")
    empty(tmp_path, "owl/notes.txt", "owl/.e.png", "nothing/notes.txt")
    names = ["background", "owl", "hot dog", "crane"]
    assert positions(tmp_path, 4, names) == {
        "Hot_Dog/a.jpg": 2,
        "Hot_Dog/nested/b.JPEG": 2,
        "owl/c.png": 1,
    }


@pytest.mark.parametrize("names", [None, ["zero", "one", "two", "x"]], ids=["unnamed", "named"])
def test_folders_by_position(names: list[str] | None, tmp_path: Path) -> None:
    empty(tmp_path, "3/a.png", "0/b.png")
    assert positions(tmp_path, 4, names) == {"0/b.png": 0, "3/a.png": 3}


def test_numbers_may_be_names(tmp_path: Path) -> None:
    empty(tmp_path, "3/a.png", "0/b.png")
    assert positions(tmp_path, 2, ["3", "0"]) == {"0/b.png": 1, "3/a.png": 0}


@pytest.mark.parametrize(("num_classes", "background"), [(1000, 0), (1001, 1)])
def test_folders_by_synset(num_classes: int, background: int, tmp_path: Path) -> None:
    empty(tmp_path, *(f"{synset}/a.JPEG" for synset in SYNSETS))
    names = mobilenets.images.class_names()[-num_classes:]
    found = positions(tmp_path, num_classes, names)
    assert list(found.values()) == [*range(background, num_classes)]


def test_some_synsets_are_enough(tmp_path: Path) -> None:
    names = mobilenets.images.class_names()
    folders = {"n02094258": "Norwich terrier", "n01440764": "tench", "n15075141": "toilet tissue"}
    empty(tmp_path, *(f"{synset}/a.JPEG" for synset in folders))
    found = positions(tmp_path, 1001)
    assert {Path(file).parent.name: names[label] for file, label in found.items()} == folders


def test_unnamed_classes_in_alphabetical_order(tmp_path: Path) -> None:
    empty(tmp_path, "b/2.png", "a/3.png", "C/1.png")
    assert positions(tmp_path, 3) == {"C/1.png": 0, "a/3.png": 1, "b/2.png": 2}


def validation(folder: Path, count: int = 5) -> Path:
    return empty(folder / "val", *(f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, count + 1)))


def test_ground_truth_of_synsets(tmp_path: Path) -> None:
    """As Slim's list; some of its images are not there."""
    folder = validation(tmp_path)
    (folder / "ILSVRC2012_val_00000002.JPEG").unlink()
    truth = tmp_path / "labels.txt"
    truth.write_text("\n".join([*reversed(SYNSETS), SYNSETS[0]]) + "\n")
    assert positions(folder, 1001, None, truth) == {
        "ILSVRC2012_val_00000001.JPEG": 1000,
        "ILSVRC2012_val_00000003.JPEG": 998,
        "ILSVRC2012_val_00000004.JPEG": 997,
        "ILSVRC2012_val_00000005.JPEG": 996,
    }


@pytest.mark.parametrize(
    ("files", "num_classes", "names", "message"),
    [
        ([], 3, None, "has no images"),
        (["notes.txt"], 3, None, "has no images"),
        (["a.png"], 3, None, "images, but no folder for each class: .* pass the ground truth"),
        (["a/1.png", "b/1.png"], 3, None, "2 folders for the model's 3 unnamed classes"),
        (["a/1.png", "d/1.png"], 3, ["a", "b", "c"], "no class called 'd'; its 3 classes are"),
        (["0/1.png", "3/1.png"], 3, None, "/3: the model has 3 classes, from 0 to 2"),
        (["crane/1.png"], 3, ["a", "crane", "Crane"], "/crane: several classes have that name"),
        (["n01440764/1.png", "n01440765/1.png"], 1001, None, "n01440765 is not a synset of ILSV"),
        (
            [f"{i}/1.png" for i in range(1000)],
            1001,
            None,
            "0 is the background: name .* 1",
        ),
        (
            [f"{s}/1.png" for s in SYNSETS],
            5,
            None,
            "ImageNet's synsets, but .* 5 classes",
        ),
    ],
    ids=[
        "empty",
        "no-images",
        "flat",
        "too-few",
        "unknown",
        "beyond",
        "ambiguous",
        "unknown-synset",
        "shifted",
        "not-imagenet",
    ],
)
def test_folders_that_do_not_tell(
    files: list[str],
    num_classes: int,
    names: list[str] | None,
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ConvertError, match=one_line(message)):
        labelled(empty(tmp_path, *files), num_classes, names)


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=one_line("absent: no such folder")):
        labelled(tmp_path / "absent", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("490\n361\n", "'490' is not a synset; expected one synset per line"),
        ("n01440764 1\n", "'1' is not a synset"),
        ("n01440764\nn01440765\n", "truth.txt: n01440765 is not a synset of ILSVRC-2012"),
        ("", "ILSVRC2012_val_00000001.JPEG has no line in"),
    ],
    ids=["devkit", "columns", "unknown", "empty"],
)
def test_ground_truth_that_does_not_tell(text: str, message: str, tmp_path: Path) -> None:
    folder = validation(tmp_path, 2)
    truth = tmp_path / "truth.txt"
    truth.write_text(text)
    with pytest.raises(ConvertError, match=one_line(message)):
        labelled(folder, 1001, None, truth)


def test_ground_truth_needs_numbered_files(tmp_path: Path) -> None:
    truth = tmp_path / "truth.txt"
    truth.write_text("\n".join(SYNSETS))
    for name in ("cat.png", "ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00001001.JPEG"):
        with pytest.raises(ConvertError, match=one_line(f"{name} has no line")):
            labelled(empty(tmp_path / Path(name).stem, name), 1001, None, truth)
    with pytest.raises(ConvertError, match=one_line("absent.txt cannot be read")):
        labelled(validation(tmp_path), 1001, None, tmp_path / "absent.txt")
    with pytest.raises(ConvertError, match=one_line("for images in one folder; .* has none")):
        labelled(empty(tmp_path / "folders", "a/1.png"), 1001, None, truth)
