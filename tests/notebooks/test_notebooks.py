"""The notebooks as they are stored, and the script that runs them: `make notebooks` does."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from mobilenets import _version
from notebooks import run

NOTEBOOKS = sorted(run.HERE.glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def notebook(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_the_four_are_found() -> None:
    names = ["hub_and_tf_keras", "int8_litert", "keras3", "photographs"]
    assert [path.stem for path in NOTEBOOKS] == names


@notebooks
def test_the_stored_outputs_are_of_the_stored_cells(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    assert stored.metadata.outputs_of == run.code_hash(stored)
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]


@notebooks
def test_the_stored_outputs_are_fit_to_read(path: Path) -> None:
    """Results, no logs; small; nothing of the machine where they were made."""
    stored = nbformat.read(path, as_version=4)
    outputs = [output for cell in stored.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    for text in run.texts(stored):
        assert not re.search(r"/(?:home|root|tmp|work|usr|Users)/|0x[0-9a-f]{6}|\r", text)
    assert path.stat().st_size < 500_000


@notebooks
def test_a_notebook_needs_nothing_of_the_clone(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert f"mobilenets_tf2-{_version.__version__}-py3" in cells[0].source
    assert "except ModuleNotFoundError" in cells[0].source
    for cell in cells:
        assert not re.search(
            r"(?m)^\s*(?:from|import) (?:convert|sample|notebooks|tools)\b", cell.source
        )
        assert "chdir" not in cell.source


@notebooks
def test_no_notebook_needs_a_network(path: Path) -> None:
    """One tells where photographs are; offline it does without."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "MOBILENETS_OFFLINE" not in cell.source:
            code = "\n".join(line.split("#")[0] for line in cell.source.splitlines())
            assert "http" not in code


def test_notebooks_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their outputs are the same with and without a network."""
    monkeypatch.delenv("MOBILENETS_OFFLINE", raising=False)
    path = notebook(tmp_path / "a.ipynb", "import os\nprint(os.environ['MOBILENETS_OFFLINE'])")
    assert run.main([str(path)]) == 0
    assert run.texts(nbformat.read(path, as_version=4)) == ["1\n"]


def test_a_notebook_is_run_in_place(tmp_path: Path) -> None:
    path = notebook(tmp_path / "a.ipynb", "x = 40", "print(x + 2)")
    assert run.main([str(path)]) == 0
    stored = nbformat.read(path, as_version=4)
    assert run.texts(stored) == ["", "42\n"]
    assert run.main(["--check", str(path)]) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["a.ipynb"]


def test_kernels_share_no_port(tmp_path: Path) -> None:
    """Two at a time, each over sockets in a folder of its own, which is gone afterwards."""
    code = (
        "import json, os\nfrom ipykernel.connect import get_connection_info\n"
        "found = json.loads(get_connection_info())\n"
        "assert os.path.isdir(os.path.dirname(found['ip']))\n"
        "print(found['transport'], found['ip'])"
    )
    paths = [notebook(tmp_path / f"{name}.ipynb", code) for name in "abc"]
    assert run.main([str(path) for path in paths]) == 0
    texts = [run.texts(nbformat.read(path, as_version=4))[0].split() for path in paths]
    assert [transport for transport, _ in texts] == ["ipc"] * 3
    folders = {Path(place).parent for _, place in texts}
    assert len(folders) == 3
    assert not any(folder.exists() for folder in folders)


def test_a_failing_notebook_fails_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = notebook(tmp_path / "a.ipynb", "1 / 0")
    before = path.read_bytes()
    for options in ([], ["--check"]):
        assert run.main([*options, str(path)]) == 1
        assert "ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.ipynb"]


def test_edited_cells_are_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = notebook(tmp_path / "a.ipynb", "print('97 %')")
    assert run.main([str(path)]) == 0
    edited = nbformat.read(path, as_version=4)
    edited.cells[0].source = "print('97  %'.replace('  ', ' '))"
    nbformat.write(edited, path)
    assert run.main(["--check", str(path)]) == 1
    assert "belong to other cells" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("97.3 % right", "98.9 % right", False),
        ("97.3 % right", "86.9 % right", True),
        ("97.3 % right", "97.3 % wrong", True),
        ("97.3 % right", "", True),
        ("1,203 bytes, 1.2e-07", "877 bytes, 3e-06", False),
        ("[97.3 %, 50 %]", "[97.3 %, 97 %]", True),
    ],
)
def test_what_counts_as_stale(old: str, new: str, stale: bool) -> None:
    assert bool(run.differences(["", old], ["", new])) is stale
