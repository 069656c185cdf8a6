"""Which part may use which: one direction only, and one part alone on the network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mobilenets

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "mobilenets").rglob("*.py"))
CONVERTER = sorted((ROOT / "convert").rglob("*.py"))

# A module uses those before it; those apart use none.
ORDER = [
    "variants",
    "architecture",
    "checkpoint",
    "layers",
    "quantization",
    "blocks",
    "model",
    "mapping",
    "images",
    "sources",
    "saved_model",
]
APART = ["images", "sources", "_version"]

NETWORK = {
    "aiohttp",
    "ftplib",
    "http",
    "httpx",
    "huggingface_hub",
    "kagglehub",
    "requests",
    "socket",
    "ssl",
    "urllib",
    "urllib3",
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; names of a package may be modules too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parts(path: Path, package: str) -> set[str]:
    """The modules of a package that a file imports."""
    names = {file.stem for file in (ROOT / package).glob("*.py")}
    return {
        name.split(".")[1]
        for name in imports(path)
        if name.startswith(f"{package}.") and name.split(".")[1] in names
    }


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_imports_are_seen() -> None:
    """What the other tests build on."""
    assert parts(ROOT / "mobilenets" / "model.py", "mobilenets") >= {"architecture", "blocks"}
    assert parts(ROOT / "convert" / "conversion.py", "convert") >= {"checkpoint", "errors"}
    assert "urllib.request" in set(imports(ROOT / "convert" / "download.py"))
    assert "urllib.request" not in set(imports(ROOT / "convert" / "checkpoint.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_the_library_does_not_know_the_converter(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("convert", "tests")]


def test_every_module_of_the_library_has_its_place() -> None:
    assert {path.stem for path in LIBRARY} == {*ORDER, *APART, "__init__"}


@pytest.mark.parametrize("name", ORDER)
def test_the_library_has_one_direction(name: str) -> None:
    used = parts(ROOT / "mobilenets" / f"{name}.py", "mobilenets")
    assert used <= set(ORDER[: ORDER.index(name)])
    # Not through the package either, which imports them all.
    assert "mobilenets" not in set(imports(ROOT / "mobilenets" / f"{name}.py")) or used


@pytest.mark.parametrize("name", APART)
def test_parts_of_their_own(name: str) -> None:
    assert parts(ROOT / "mobilenets" / f"{name}.py", "mobilenets") == set()


@pytest.mark.parametrize("path", [*LIBRARY, *CONVERTER], ids=label)
def test_only_the_download_touches_the_network(path: Path) -> None:
    if label(path) == "convert/download.py":
        assert {"http", "urllib"} <= {name.split(".")[0] for name in imports(path)}
        return
    assert not {name.split(".")[0] for name in imports(path)} & NETWORK
    calls = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert not calls & {"get_file", "urlopen", "urlretrieve"}


def test_public_names() -> None:
    assert mobilenets.__all__ == [
        "VARIANTS",
        "DepthwiseSeparable",
        "InvertedResidual",
        "MobileNet",
        "Variant",
        "images",
        "load",
        "save",
    ]
    for name in mobilenets.__all__:
        assert getattr(mobilenets, name).__doc__
    modules = {path.stem for path in LIBRARY}
    public = {name for name in vars(mobilenets) if not name.startswith("_")}
    assert public - modules == set(mobilenets.__all__) - {"images"}
