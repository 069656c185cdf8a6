"""The environments of `make test-versions`, and the page that they fill."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from tools import versions

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]


def outcome(**changes) -> versions.Outcome:
    libraries = dict.fromkeys(("tensorflow", "keras", "tf_keras"), "1.0")
    counts = {"passed": 7, "skipped": 1, "failed": 0}
    return versions.Outcome(
        **{"python": "3.12.1", "versions": libraries, "changed": []} | changes, counts=counts
    )


def test_the_oldest_environment_has_every_lower_bound(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["a>=2.18", "b-c[d]>=1.8"]\n'
        '[project.optional-dependencies]\nx = ["p[y]", "e_f>=0.16.1"]\ny = ["g<82"]\n'
    )
    found = versions.lowest(tmp_path / "pyproject.toml")
    assert found == ("a==2.18.*", "b-c[d]==1.8.*", "e_f==0.16.1.*")


@pytest.mark.parametrize("requirement", REQUIRED)
def test_an_upper_bound_is_explained(requirement: str) -> None:
    if requirement.startswith("mobilenets-tf2["):
        return
    name, bounds = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?(.*)", requirement).groups()
    if "<" in bounds or "~" in bounds or "==" in bounds:
        assert f"`{name}{bounds}`" in PAGE
    else:
        assert bounds.startswith(">=")


def test_the_table_says_what_ran() -> None:
    old, new = outcome(), outcome(changed=["numpy 2.1.3 -> 2.2.0"], notebooks="3 of 3")
    lines = versions.table({"old": old, "new": new}).splitlines()
    assert lines[2] == "| `old` | 3.12.1 | 1.0 | 1.0 | 1.0 | 7 | 1 | 0 |  | nothing |"
    assert lines[3].endswith("| 7 | 1 | 0 | 3 of 3 | numpy 2.1.3 -> 2.2.0 |")


def test_the_page_keeps_its_text_and_other_rows() -> None:
    written = versions.page(PAGE, {"oldest": outcome(python="3.11.0")})
    assert written != PAGE
    assert versions.page(written, {"oldest": outcome(python="3.11.0")}) == written
    both = versions.page(written, {"colab": outcome(changed=["numpy 2.1.3 -> 2.2.0"])})
    rows = [line for line in both.splitlines() if line.startswith("| `")]
    assert [row for row in rows if "3.11.0" in row] == [rows[0]]
    assert sum("-> 2.2.0" in row for row in rows) == 1
    outside = re.compile(r"(?<=make test-versions -->\n).*(?=<!-- end -->)", re.DOTALL)
    assert outside.sub("", written) == outside.sub("", PAGE)


def test_the_page_has_every_environment_and_no_failure() -> None:
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == [each.name for each in versions.ENVIRONMENTS]
    for row in rows:
        assert row[-3] == "0"
        assert re.fullmatch(r"|(\d+) of \1", row[-2])
        assert re.fullmatch(r"nothing \||setuptools [\d.]+ -> 81[\d.]+ \|", row[-1])
    assert [row[-1] for row in rows if "`colab`" in row[0]] == ["nothing |"]


def test_colabs_libraries_are_exact() -> None:
    (colab,) = (each for each in versions.ENVIRONMENTS if each.name == "colab")
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in colab.pins)


def test_the_pinned_libraries_can_be_installed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, which needs an environment to be built in, and without a test."""
    installed = []
    monkeypatch.setattr(versions, "_pinned", lambda each, pins: installed.append((each.name, pins)))
    monkeypatch.setattr(versions.subprocess, "run", None)
    assert versions.main(["--install", "oldest", "newest"]) == 0
    assert installed == [("oldest", versions.lowest())]


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        versions.main(["2.12"])
    assert stopped.value.code == 2
    assert "unknown: 2.12; there are oldest, 2.19, colab" in capsys.readouterr().err
