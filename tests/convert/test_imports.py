"""The converter works under any package name, and builds foreign networks in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CONVERT = Path(__file__).resolve().parents[2] / "convert"
FILES = sorted(CONVERT.rglob("*.py"))


def test_the_files_are_found() -> None:
    assert {path.name for path in FILES} >= {"__main__.py", "lite.py", "slim.py", "contract.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONVERT).as_posix())
def test_its_own_imports_are_relative(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
        assert not [name for name in names if name.split(".")[0] in ("convert", "tools", "sample")]


def test_one_file_builds_keras_applications() -> None:
    users = {
        path.relative_to(CONVERT).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "applications"
    }
    assert users == {"references/applications.py"}
