"""Runs the notebooks top to bottom: `python notebooks/run.py [--check] [NOTEBOOK …]`.

A notebook that runs is saved with its new outputs; a notebook that fails is reported and stays
unchanged. `--check`, for CI, writes nothing and also fails if the stored outputs are stale: if they
belong to other cells than the file's, or if a new run gives other text. Training gives other
figures on other machines, so percentages may differ by ten points; other numbers and pictures are
not compared. `MOBILENETS_OFFLINE=1` is set for all: the outputs do not depend on the network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import zmq
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

__all__ = ["code_hash", "differences", "main", "texts"]

HERE = Path(__file__).resolve().parent
_TIMEOUT = 600
_POINTS = 10.0
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?( ?%)?")


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash of the code cells, in order, to tell whether the outputs belong to them."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """The printed and returned text of each code cell; a picture becomes `<picture>`."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts = []
            for output in cell.outputs:
                data = output.get("data", {})
                parts.append("<picture>" if "image/png" in data else data.get("text/plain", ""))
                parts.append(output.get("text", ""))
            found.append("".join(parts))
    return found


def differences(stored: Sequence[str], fresh: Sequence[str]) -> list[str]:
    """One line for each text that changed, apart from numbers that training changes."""
    problems = []
    for number, (old, new) in enumerate(zip(stored, fresh, strict=True), 1):
        if _NUMBER.sub("#", old) != _NUMBER.sub("#", new):
            problems.append(f"code cell {number} now gives {new!r}, stored is {old!r}")
            continue
        for was, now in zip(_percentages(old), _percentages(new), strict=True):
            if abs(was - now) > _POINTS:
                problems.append(f"code cell {number} now gives {now} %, stored is {was} %")
    return problems


def _percentages(text: str) -> list[float]:
    return [
        float(match[0].rstrip(" %").replace(",", ""))
        for match in _NUMBER.finditer(text)
        if match[1]
    ]


def _client(notebook: nbformat.NotebookNode, path: Path, folder: Path) -> NotebookClient:
    """Runs a notebook beside its file, with the kernel's sockets in a folder of its own.

    A network port would be chosen before the kernel opens it, and another kernel could take it.
    """
    config = Config()
    if zmq.has("ipc"):
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = str(folder / "kernel")
    return NotebookClient(
        notebook,
        config=config,
        timeout=_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        # The kernel warns of connections on this machine.
        extra_arguments=["--log-level=ERROR"],
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )


def _execute(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        offline = {**os.environ, "MOBILENETS_OFFLINE": "1"}
        _client(notebook, path, Path(folder)).execute(env=offline)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "outputs_of": code_hash(notebook),
        }
    )
    return notebook


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs notebooks; returns 1 if one fails or, with `--check`, is stale."""
    parser = argparse.ArgumentParser(prog="python notebooks/run.py", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    problems = 0
    paths = options.notebooks or sorted(HERE.glob("*.ipynb"))
    # Each runs in a process of its own, and most of the time on one core.
    executor = ThreadPoolExecutor(max_workers=2)
    running = [executor.submit(_execute, path) for path in paths]
    for path, each in zip(paths, running, strict=True):
        stored = nbformat.read(path, as_version=4)
        try:
            fresh = each.result()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{path.name}: failed\n{error}", file=sys.stderr)
            problems += 1
            continue
        found = []
        if options.check:
            if stored.metadata.get("outputs_of") != code_hash(stored):
                found.append("the outputs belong to other cells")
            else:
                found += differences(texts(stored), texts(fresh))
            for problem in found:
                print(f"{path.name}: {problem}; run make notebooks", file=sys.stderr)
        else:
            # Brings TensorFlow, which the kernels have and `--check` here can do without.
            from mobilenets.writing import written_beside

            with written_beside(path) as folder:
                nbformat.write(fresh, folder / path.name)
        problems += bool(found)
        print(f"{path.name}: {'stale' if found else 'ran'}", flush=True)
    executor.shutdown()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
