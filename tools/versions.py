"""Tests against the oldest, older and newest libraries: `make test-versions [ONLY=colab]`.

    python -m tools.versions [--install] [NAME …]

Each environment is a folder in `.venvs`: the pinned libraries are installed first, then the wheel,
as a user adds it to what is there. Each environment writes models that all others read. A run
rewrites its environments' rows in the table of docs/versions.md. `--install` installs the pinned
libraries and ends; any Python runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ENVIRONMENTS", "Environment", "Outcome", "lowest", "main", "page", "table"]

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / ".venvs"
_PAGE = _ROOT / "docs" / "versions.md"
_MARKED = re.compile(r"(<!-- versions: .*? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_SHOWN = ("tensorflow", "keras", "tf_keras", "tensorflow-hub", "numpy", "h5py")
# What touches the interfaces of TensorFlow, the two Kerases, LiteRT, HDF5 and TensorFlow Hub.
_CONVERSION = "tests/convert/test_conversion.py"
TESTS = (
    "tests/mobilenets/test_layers.py",
    "tests/mobilenets/test_model.py",
    "tests/mobilenets/test_quantization.py",
    "tests/mobilenets/test_saved_model.py",
    "tests/mobilenets/test_images.py",
    "tests/clients/test_clients.py",
    "tests/clients/test_roundtrips.py",
    # Of the others, libraries see nothing else.
    f"{_CONVERSION}::test_both_kinds_land_under_the_hub_name",
    f"{_CONVERSION}::test_modules_hold_the_checkpoints_values",
    f"{_CONVERSION}::test_the_figures_lie_beside_the_module",
    f"{_CONVERSION}::test_modules_for_serving_lie_beside_and_are_verified",
    f"{_CONVERSION}::test_a_wrong_module_for_serving_is_noticed",
    "tests/convert/export/test_litert_float.py",
    "tests/convert/export/test_litert_quantops.py",
)
EXCHANGE = "tests/clients/test_other_versions.py"
FILES_OF = "MOBILENETS_FILES_OF"
"""Environment variable: the folders of other environments' models, for `EXCHANGE`."""


@dataclass(frozen=True)
class Environment:
    """One set of libraries.

    Attributes:
      name: What `ONLY` takes.
      pythons: Versions of Python, best first; the first that this machine has is taken.
      pins: Requirements that are installed before the wheel. None is the environment of
        `make install`, where this program runs.
      notebooks: Whether the notebooks run there too, with nothing of the clone beside them.
    """

    name: str
    pythons: tuple[str, ...]
    pins: tuple[str, ...] | None
    notebooks: bool = False


@dataclass
class Outcome:
    """What an environment showed.

    Attributes:
      python: Its version.
      versions: The installed version of each library of `_SHOWN`.
      changed: Packages that installing the wheel changed, as `name old -> new`.
      counts: Tests by `passed`, `skipped` and `failed`.
      notebooks: How many notebooks ran, such as `3 of 3`; empty if they were not asked for.
    """

    python: str
    versions: dict[str, str]
    changed: list[str]
    counts: dict[str, int] = field(default_factory=dict)
    notebooks: str = ""


def lowest(pyproject: Path = _ROOT / "pyproject.toml") -> tuple[str, ...]:
    """The lower bounds of the library and its extras, as pins: `keras>=3.8` is `keras==3.8.*`."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    found = [*project["dependencies"], *(each for extra in extras for each in extra)]
    bounds = (re.fullmatch(r"([\w.-]+)(\[\w+\])?>=([\d.]+)", each) for each in found)
    return tuple(f"{bound[1]}{bound[2] or ''}=={bound[3]}.*" for bound in bounds if bound)


ENVIRONMENTS = (
    Environment("oldest", ("3.11",), lowest()),
    Environment(
        "2.19",
        ("3.12", "3.11"),
        ("tensorflow==2.19.*", "keras==3.10.*", "tf_keras==2.19.*", "tensorflow-hub==0.16.1"),
    ),
    # Colab's image; Kaggle's is the same on Python 3.12.
    Environment(
        "colab",
        ("3.13", "3.12", "3.11"),
        (
            "tensorflow==2.20.0",
            "keras==3.13.2",
            "tf_keras==2.20.1",
            "tensorflow-hub==0.16.1",
            "numpy==2.1.3",
            "setuptools==75.2.0",
            "h5py==3.16.0",
        ),
        notebooks=True,
    ),
    Environment("newest-3.13", ("3.13",), ("tensorflow", "keras", "tf_keras", "tensorflow-hub")),
    Environment("newest", (), None),
)


def _interpreter(versions: Sequence[str], oldest: bool) -> Path | None:
    """A Python of the first version that is there, of its oldest or its newest release."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    folders += sorted(map(str, (Path.home() / ".pyenv" / "versions").glob("*/bin")))
    for version in versions:
        found = {}
        for path in dict.fromkeys(Path(folder) / f"python{version}" for folder in folders):
            if path.is_file() and "shims" not in path.parts:
                command = [
                    str(path),
                    "-c",
                    "import sys, venv; print(*sys.version_info[:3], sys.prefix)",
                ]
                said = subprocess.run(command, capture_output=True, text=True, check=False)
                if said.returncode == 0:
                    *release, prefix = said.stdout.split(maxsplit=3)
                    if not (Path(prefix.strip()) / "pyvenv.cfg").exists():
                        found[tuple(map(int, release))] = path
        if found:
            return found[min(found) if oldest else max(found)]
    return None


def _pip(python: Path, *arguments: str) -> str:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: pip failed in {python.parents[1]}: {' '.join(arguments)}")
    return done.stdout


def _installed(python: Path) -> dict[str, str]:
    listed = json.loads(_pip(python, "list", "--format=json"))
    return {each["name"].lower().replace("_", "-"): each["version"] for each in listed}


def _pinned(environment: Environment, pins: Sequence[str]) -> Path | None:
    """The Python of an environment, made if it is not there; None if this machine has none."""
    base = _interpreter(environment.pythons, oldest=environment.name == "oldest")
    if base is None:
        print(f"{environment.name}: left out, no Python {' or '.join(environment.pythons)}")
        return None
    folder = _FOLDER / environment.name
    python = folder / "bin" / "python"
    wanted = json.dumps([str(base), pins])
    stamp = folder / "pins.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"{environment.name}: installing", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([base, "-m", "venv", folder], check=True)
        _pip(python, "install", "--quiet", *pins)
        (folder / "before.json").write_text(json.dumps(_installed(python)))
        stamp.write_text(wanted)
    return python


def _prepare(environment: Environment, wheel: Path) -> tuple[Path, Outcome] | None:
    """An environment's Python and its versions; None if this machine has no such Python."""
    python: Path | None
    if environment.pins is None:
        python, changed = Path(sys.executable), []
    else:
        python = _pinned(environment, environment.pins)
        if python is None:
            return None
        groups = tomllib.loads((_ROOT / "pyproject.toml").read_text())["dependency-groups"]
        _pip(python, "install", "--quiet", f"{wheel}[notebooks]", *groups["test"])
        if environment.notebooks:
            _pip(python, "install", "--quiet", *groups["jupyter"])
        # The same version of this project may hold other files than before.
        _pip(python, "install", "--quiet", "--force-reinstall", "--no-deps", str(wheel))
        before = json.loads((_FOLDER / environment.name / "before.json").read_text())
        after = _installed(python)
        changed = [
            f"{name} {version} -> {after.get(name, 'none')}"
            for name, version in before.items()
            if after.get(name) != version
        ]
    release = subprocess.check_output([python, "--version"], text=True).split()[1]
    have = _installed(python)
    versions = {name: have.get(name.replace("_", "-"), "-") for name in _SHOWN}
    return python, Outcome(release, versions, changed)


def _write_files(python: Path, folder: Path) -> None:
    """Has an environment write the models that the others read."""
    shutil.rmtree(folder, ignore_errors=True)
    program = [str(python), "-m", "tools.version_files", str(folder)]
    subprocess.run(program, cwd=_ROOT, check=True)


def _test(python: Path, tests: Sequence[str], report: Path, others: Sequence[Path]) -> dict:
    """Runs tests; returns how many passed, were skipped, failed."""
    # Each worker loads TensorFlow, and a file has one.
    number = os.cpu_count() or 1
    workers = ["-n", str(number), "--dist", "loadfile"] if len(tests) > 1 else ["-n", "0"]
    # Commands make nothing that the functions do not.
    command = [str(python), "-m", "pytest", *workers, "-m", "not slow", "-k", "not TestCommandLine"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    report.unlink(missing_ok=True)
    variables = {**os.environ, FILES_OF: os.pathsep.join(map(str, others))}
    subprocess.run(command, cwd=_ROOT, env=variables, check=False)
    if not report.exists():
        return {"passed": 0, "skipped": 0, "failed": 1}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return {"passed": passed, "skipped": counts["skipped"], "failed": failed}


def _run_notebooks(python: Path) -> str:
    """Runs a copy of each notebook in an empty folder; returns how many ran."""
    notebooks = sorted((_ROOT / "notebooks").glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        copies = [shutil.copy(path, folder) for path in notebooks]
        command = [str(python), str(_ROOT / "notebooks" / "run.py"), "--check", *copies]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="")
    ran = done.stdout.splitlines()
    return f"{sum(line.endswith(': ran') for line in ran)} of {len(notebooks)}"


def table(outcomes: dict[str, Outcome]) -> str:
    """The Markdown table of environments and what ran in them."""
    header = ["", "Python", *_SHOWN, "passed", "skipped", "failed", "notebooks"]
    header.append("changed by installing")
    rows = [header, ["---"] * len(header)]
    for name, outcome in outcomes.items():
        rows.append(
            [
                f"`{name}`",
                outcome.python,
                *outcome.versions.values(),
                *(str(outcome.counts[key]) for key in ("passed", "skipped", "failed")),
                outcome.notebooks,
                ", ".join(outcome.changed) or "nothing",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def page(text: str, outcomes: dict[str, Outcome]) -> str:
    """docs/versions.md with new rows for the environments that ran; the others stay."""
    found = _MARKED.search(text)
    assert found is not None
    header, rule, *fresh = table(outcomes).splitlines()
    rows = {row.split("`")[1]: row for row in [*found[2].splitlines(), *fresh] if row[:3] == "| `"}
    order = [each.name for each in ENVIRONMENTS if each.name in rows]
    lines = [header, rule, *(rows[name] for name in order)]
    inside = "".join(f"{line}\n" for line in lines)
    return text[: found.start(2)] + inside + text[found.end(2) :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares environments, tests in each; returns 1 if a test failed or a pin was changed."""
    names = [environment.name for environment in ENVIRONMENTS]
    parser = argparse.ArgumentParser(prog="python -m tools.versions", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--install", action="store_true", help="install the pinned libraries only")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    wanted = [each for each in ENVIRONMENTS if each.name in (options.names or names)]
    if options.install:
        for each in wanted:
            if each.pins is not None:
                _pinned(each, each.pins)
        return 0

    dist = _FOLDER / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    command += [str(dist), str(_ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = dist.glob("*.whl")

    prepared = {each.name: found for each in wanted if (found := _prepare(each, wheel))}
    # The models of this environment are read everywhere, whatever was asked for.
    pythons = {"newest": Path(sys.executable)} | {
        name: python for name, (python, _) in prepared.items()
    }
    folders = {name: _FOLDER / "files" / name for name in pythons}
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(_write_files, pythons.values(), folders.values()))
    for name, (python, outcome) in prepared.items():
        print(f"{name}: testing", flush=True)
        others = [folder for other, folder in folders.items() if other != name]
        outcome.counts = _test(python, [*TESTS, EXCHANGE], _FOLDER / f"{name}.xml", others)
    outcomes = {name: outcome for name, (_, outcome) in prepared.items()}
    failed = 0
    # The notebooks leave a core idle at the end.
    with ThreadPoolExecutor(max_workers=1) as pool:
        notebooks = {
            each.name: pool.submit(_run_notebooks, pythons[each.name])
            for each in wanted
            if each.notebooks and each.name in outcomes
        }
        if "newest" not in prepared:
            others = [folder for other, folder in folders.items() if other != "newest"]
            failed = _test(pythons["newest"], [EXCHANGE], _FOLDER / "newest.xml", others)["failed"]
        for name, ran in notebooks.items():
            outcomes[name].notebooks = ran.result()

    print(table(outcomes))
    _PAGE.write_text(page(_PAGE.read_text(encoding="utf-8"), outcomes), encoding="utf-8")
    return 1 if failed or not all(map(_is_good, outcomes.values())) else 0


def _is_good(outcome: Outcome) -> bool:
    ran, _, all_of_them = outcome.notebooks.partition(" of ")
    # tensorflow-hub needs an older setuptools than TensorFlow brings.
    changed = [each for each in outcome.changed if not each.startswith("setuptools ")]
    return not outcome.counts["failed"] and not changed and ran == all_of_them


if __name__ == "__main__":
    sys.exit(main())
