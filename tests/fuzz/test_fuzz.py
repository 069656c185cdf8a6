"""The fuzzing sees what it looks for, and goes on after it."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzz import campaign, kills, strangers, tables, worker
from fuzz.campaign import Case
from fuzz.cases import ERROR, Format
from fuzz.found import DEFECTS
from fuzz.kills import Kill
from fuzz.page import page
from mobilenets import MobileNetError

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt"
FORMAT = Format("format", lambda folder: None, "file", {})
NETWORK = ("mobilenet_v1", 0.25, False, None)
VALUES = {"a": np.float32([1, 2]), "b": np.float32([3])}
OTHER = {**VALUES, "a": np.float32([1, 7])}


@pytest.mark.parametrize(
    ("found", "expected", "outcome"),
    [
        (MobileNetError("file is damaged"), None, "error"),
        (OSError(2, "No such file"), ERROR, "error"),
        (MobileNetError(""), None, "no clear line"),
        (ValueError("TensorFlow's"), None, "other exception"),
        (MemoryError(), ERROR, "other exception"),
        ((NETWORK, VALUES), None, "equal"),
        ((NETWORK, VALUES), ERROR, "not refused"),
        ((NETWORK, OTHER), None, "wrong values"),
        ((NETWORK, OTHER), {"a": OTHER["a"]}, "as the file says"),
        ((NETWORK, OTHER), {"b": OTHER["a"]}, "wrong values"),
        ((NETWORK, OTHER), 1, "as the file says"),
        ((NETWORK, OTHER), 0, "wrong values"),
        ((NETWORK, {**VALUES, "b": np.float32([[3]])}), 0, "wrong values"),
        ((("mobilenet_v2", *NETWORK[1:]), VALUES), None, "wrong network"),
    ],
)
def test_outcomes(
    found: object, expected: object, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(format: Format, source: Path) -> object:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(worker, "_load", load)
    assert worker._judged(FORMAT, Path("file"), (NETWORK, VALUES), expected).what == outcome


@pytest.mark.parametrize("of", ["file", "folder", "prefix"])
def test_files_of_others_are_copied_and_changed(of: str, tmp_path: Path) -> None:
    source = {"file": SAMPLE.with_suffix(".ckpt.index"), "folder": SAMPLE.parent, "prefix": SAMPLE}
    [format] = strangers.formats([source[of]])
    folder = tmp_path / "seed"
    folder.mkdir()
    format.make(folder)
    copies = {path.name for path in folder.rglob("mobilenet*.*")}
    assert copies == {
        path.name
        for path in SAMPLE.parent.glob("mobilenet*.*")
        if of != "file" or path.suffix == ".index"
    }
    before = kills._files(folder)
    for kind, change in format.changes.items():
        expected = change(random.Random(1), folder)
        after = kills._files(folder)
        changed = [name for name, content in before.items() if after[name] != content]
        assert len(changed) == 1, kind
        assert expected is None or 0 < expected <= 4096
        (folder / changed[0]).write_bytes(before[changed[0]])


FAKE = """
import json, os, sys, time
def say(**entry):
    print(json.dumps(entry), flush=True)
first = int(sys.argv[4])
say(ready=4)
for number in range(first, 4):
    say(begin=number, format="format", kind="kind", round=0)
    if number == 1:
        os.abort()
    if number == 2:
        time.sleep(100)
    say(end=number, what="error", detail="")
"""


def test_a_case_that_ends_or_holds_up_the_worker_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(campaign, "_WORKER", (sys.executable, tmp_path / "fake.py"))
    monkeypatch.setattr(campaign, "WALL_SECONDS", 2)
    found = campaign.run(0, 1)
    assert [case.outcome for case in found] == ["error", "abort", "hang", "error"]


def test_a_worker_that_fails_by_itself_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake.py").write_text("raise KeyError('seed')")
    monkeypatch.setattr(campaign, "_WORKER", (sys.executable, tmp_path / "fake.py"))
    with pytest.raises(RuntimeError, match=r"failed between cases, exit 1: (?s:.*)KeyError"):
        campaign.run(0, 1)


def test_the_checksum() -> None:
    assert tables.crc32c(b"123456789") == 0xE3069283


def test_every_defect_has_its_test() -> None:
    for _, test in DEFECTS:
        path, *_, name = test.split("::")
        assert re.search(rf"^ *def {name}\(", (ROOT / path).read_text(), re.MULTILINE), test


def test_the_page_counts() -> None:
    outcomes = ("error", "error", "equal", "abort")
    cases = [Case(n, "format", "kind", n, outcome, "") for n, outcome in enumerate(outcomes)]
    kills = [Kill("publish", 1.0, True, 2, ""), Kill("publish", 1.0, False, 0, "it is half")]
    text = page("python -m fuzz", cases, kills, ["4 loads"], "tensorflow 2")
    assert "| format | 4 | 2 | 1 | 0 | 1 |" in text
    assert "| all | 4 | 2 | 1 | 0 | 1 |" in text
    assert "| publish | 1 | 1 | 2 | 1 |" in text
    assert "- 4 loads" in text
