"""Modules in, files out: nothing half-written, one line of error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from convert.errors import ConvertError
from convert.files import load_module, written_beside


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_arrive(tmp_path):
    with written_beside(tmp_path / "new" / "model.bin") as folder:
        (folder / "model.bin").write_text("model")
        (folder / "model.bin.labels.txt").write_text("labels")
        assert not (tmp_path / "new" / "model.bin").exists()
    assert names(tmp_path / "new") == ["model.bin", "model.bin.labels.txt"]


def test_a_failure_leaves_the_old_file(tmp_path):
    file = tmp_path / "model.bin"
    file.write_text("old")
    with pytest.raises(KeyError), written_beside(file) as folder:  # noqa: PT012
        (folder / "model.bin").write_text("half")
        raise KeyError
    assert names(tmp_path) == ["model.bin"]
    assert file.read_text() == "old"


@pytest.mark.parametrize("target", ["/dev/null/model.bin", "/proc/model.bin", "."])
def test_where_nothing_can_be_written(target):
    with pytest.raises(ConvertError) as error, written_beside(target) as folder:
        (folder / "model.bin").write_text("")
    assert str(target) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_is_its_own_module(module):
    model = load_module(module("mobilenet_v1"))
    assert load_module(model) is model


def replaced_by_another(folder):
    shutil.rmtree(folder)
    tf.saved_model.save(tf.Module(), str(folder))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: shutil.rmtree(folder / "variables"), "variables.index is missing"),
        (
            lambda folder: (folder / "variables/variables.index").write_bytes(b"x" * 99),
            "variables.index is damaged",
        ),
        (replaced_by_another, "was not written by mobilenets"),
        (
            lambda folder: (folder / "assets.extra/mobilenet.json").write_text("{"),
            "mobilenet.json is damaged",
        ),
        (
            lambda folder: (folder / "assets.extra/mobilenet.json").write_text("{}"),
            "mobilenet.json is damaged",
        ),
    ],
    ids=["absent", "no variables", "index", "another SavedModel", "no JSON", "no variant"],
)
def test_what_is_no_module(damage, message, module, tmp_path):
    folder = tmp_path / "module"
    shutil.copytree(module("mobilenet_v1"), folder)
    damage(folder)
    with pytest.raises(ConvertError, match=message) as error:
        load_module(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
