"""What lands in a user's site-packages, and that it works there."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source archive, as `make dist` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    skipped = shutil.ignore_patterns(
        ".*", "__pycache__", "models", "checkpoints", "build", "dist", "*.egg-info"
    )
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=skipped)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "source": source}


def test_the_wheel_holds_the_library_and_the_tool(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for folder, package in (("mobilenets", "mobilenets"), ("convert", "mobilenets_convert")):
        files = [path for path in (ROOT / folder).rglob("*.*") if "__pycache__" not in path.parts]
        expected |= {f"{package}/{path.relative_to(ROOT / folder).as_posix()}" for path in files}
    assert names == expected


def test_the_source_archive_holds_what_the_wheel_needs(built: dict[str, Path]) -> None:
    with tarfile.open(built["source"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "convert/entry.py"} <= names
    assert {"mobilenets/published.toml", "mobilenets/class_names.txt"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_it_works_where_it_is_installed(kind: str, built: dict[str, Path], tmp_path: Path) -> None:
    """In an environment of its own, which borrows the dependencies alone."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, str(built[kind])], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    tool = str(tmp_path / "venv" / "bin" / "mobilenets")
    assert "mobilenet_v2_035_96" in run(tool, "list")
    assert run(tool, "--help").startswith("usage: mobilenets ")
    sample = str(ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt")
    assert "mobilenet_v1_025_64" in run(tool, "inspect", sample)
    run(tool, "checkpoint", sample, "--output", "models", "--kind", "feature_vector")
    program = (
        "import mobilenets; "
        f"assert mobilenets.__file__.startswith({str(packages)!r}), mobilenets.__file__; "
        "print(mobilenets.load('models/mobilenet_v1_025_64/feature_vector').num_features)"
    )
    assert run(str(python), "-c", program).strip() == "256"


def test_without_the_extra_the_command_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['rich'] = None; from convert.entry import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: the command needs rich: pip install 'mobilenets-tf2[tool]'\n"
