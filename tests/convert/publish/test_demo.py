"""What the demo needs: LiteRT for the web, and a model beside each archive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import mobilenets
from convert.errors import ConvertError
from convert.publish import demo
from convert.publish.archives import pack, sha256

NAMES = tuple(f"{kind} ä" for kind in ("cat", "owl", "ant"))


def installed(folder: Path) -> list[Path]:
    """What npm would write, empty."""
    core, other = (folder / "node_modules" / "@litertjs" / name for name in ("core", "wasm-utils"))
    builds = [f"wasm/litert_wasm_{build}internal.{end}" for build in ("", "compat_")
              for end in ("js", "wasm")]  # fmt: skip
    paths = [core / name for name in ("dist/index.js", "package.json", *builds)]
    paths += [other / name for name in ("dist/index.js", "package.json")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_packages_are_found(tmp_path: Path) -> None:
    paths = installed(tmp_path)
    assert sorted(demo.runtime(tmp_path).values()) == sorted(paths)


@pytest.mark.parametrize("missing", range(8))
def test_missing_packages_are_named(tmp_path: Path, missing: int) -> None:
    path = installed(tmp_path)[missing]
    path.unlink()
    with pytest.raises(ConvertError) as caught:
        demo.runtime(tmp_path)
    assert str(caught.value) == (
        f"{path} is missing: install LiteRT for the web with "
        f"`npm install --prefix {tmp_path} @litertjs/core`"
    )


def test_the_command_checks_packages_first(
    tmp_path: Path, module: Callable[..., Path], command: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = module("mobilenet_v1_025_128"), "--output", tmp_path / "site", "--demo", tmp_path
    code, out, error = command("publish", *arguments)
    assert code == 2
    assert not out
    assert "npm install" in error
    assert "(--demo PACKAGES)" in error
    assert not (tmp_path / "site").exists()


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory, randomise: Callable, untraced: Callable
) -> tuple[Any, Path]:
    """A classification, and its archive."""
    folder = tmp_path_factory.mktemp("published")
    variant = mobilenets.Variant("mobilenet_v1", 0.25, 64)
    model = randomise(mobilenets.MobileNet(variant, class_names=NAMES))
    with untraced():
        mobilenets.save(model, folder / "module")
    files = {
        path.relative_to(folder / "module").as_posix(): path
        for path in (folder / "module").rglob("*")
        if path.is_file()
    }
    pack(files, folder / "2.tar.gz")
    return model, folder / "2.tar.gz"


def test_a_model_of_one_image_is_beside_its_archive(
    archive: tuple[Any, Path], random_images: Callable[..., Any]
) -> None:
    model, path = archive
    made = demo.model(path, sha256(path))
    file = path.with_name("2.tflite")
    assert made == demo.Model(
        file="2.tflite",
        bytes=file.stat().st_size,
        dtype="float32",
        description="2.tflite.json",
        labels="2.tflite.labels.txt",
    )
    labels = path.with_name("2.tflite.labels.txt").read_text(encoding="utf-8")
    assert labels.splitlines() == list(NAMES)
    assert json.loads(path.with_name("2.tflite.json").read_text(encoding="utf-8")) == {
        "file": "2.tflite",
        "bytes": made.bytes,
        "image_size": 64,
        "input": {"dtype": "float32"},
        "output": {"scale": 1.0, "zero_point": 0},
        "classes": list(NAMES),
        "archive_sha256": sha256(path),
        "sha256": sha256(file),
    }
    interpreter = Interpreter(model_path=str(file))
    interpreter.allocate_tensors()
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert list(given["shape_signature"]) == [1, 64, 64, 3]
    image = random_images(1, 64)
    interpreter.set_tensor(given["index"], image)
    interpreter.invoke()
    logits = interpreter.get_tensor(returned["index"])
    np.testing.assert_allclose(logits, model(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", ["nothing", "model", "description", "archive"])
def test_a_model_is_made_again_only_if_it_has_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    calls = []

    def export(source: Path, file: Path) -> dict[str, Any]:
        calls.append(source)
        file.write_bytes(b"model")
        return {"bytes": 5, "input": {"dtype": "uint8"}, "classes": None}

    monkeypatch.setattr(demo, "_exported", export)
    archive = tmp_path / "1.tar.gz"
    made = demo.model(archive, "digest")
    assert made.labels is None
    description = tmp_path / made.description
    before = description.read_bytes()
    if change == "model":
        (tmp_path / made.file).write_bytes(b"cut off")
    elif change == "description":
        description.write_text("[")
    assert demo.model(archive, "other" if change == "archive" else "digest") == made
    assert len(calls) == (1 if change == "nothing" else 2)
    assert (tmp_path / made.file).read_bytes() == b"model"
    assert (description.read_bytes() == before) == (change != "archive")


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "1.tar.gz"
    archive.write_bytes(b"no archive")
    with pytest.raises(ConvertError, match=str(archive)):
        demo.model(archive, "")
    assert list(tmp_path.iterdir()) == [archive]
