"""The script that writes the class names. The names themselves: test_images.py."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from convert.errors import ConvertError
from tools import class_names


def test_takes_the_second_lemma_of_homonyms() -> None:
    lemmas = [["tench", "Tinca tinca"], ["Crane", "bird"], ["crane"], ["maillot"], ["maillot"]]
    assert class_names.choose(lemmas) == ["tench", "bird", "crane", "maillot", "maillot"]


def timm_wheel(path: Path, synsets: list[str], lemmas: list[str]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("timm/data/_info/imagenet_synsets.txt", "\n".join(synsets) + "\n")
        table = "".join(f"{a}\t{b}\n" for a, b in zip(synsets, lemmas, strict=True))
        archive.writestr("timm/data/_info/imagenet_synset_to_lemma.txt", table)
    return str(path)


def test_prints_the_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synsets = [f"n{index:08d}" for index in range(1000)]
    wheel = timm_wheel(tmp_path / "timm.whl", synsets, [f"thing {s}, other" for s in synsets])
    assert class_names.main([wheel]) == 0
    expected = ["background", *(f"thing {synset}" for synset in synsets)]
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("case", ["too few", "unsorted", "no zip", "absent", "other wheel"])
def test_refuses(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "timm.whl"
    synsets = [f"n{index:08d}" for index in range(1000)]
    if case == "too few":
        timm_wheel(path, synsets[:-1], synsets[:-1])
    elif case == "unsorted":
        timm_wheel(path, synsets[::-1], synsets)
    elif case == "no zip":
        path.write_text("timm")
    elif case == "other wheel":
        zipfile.ZipFile(path, "w").close()
    with pytest.raises(ConvertError) as error:
        class_names.read_lemmas(str(path))
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert class_names.main([str(path)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"error: {error.value}\n"


@pytest.mark.parametrize("arguments", [[], ["a.whl", "b.whl"]], ids=["none", "two"])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert class_names.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: ")
