"""Turns, medians and ratios, and the tables that are made of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import timing


def test_contenders_take_turns_and_the_first_rounds_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []
    # A clock that goes on by one more second at each look: every turn takes another time.
    clock = itertools.accumulate(itertools.count())
    cpu = itertools.count(step=0.5)
    monkeypatch.setattr(
        timing,
        "time",
        SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(cpu)),
    )
    contenders = {name: (lambda name=name: called.append(name)) for name in ("a", "b")}
    times = timing.interleave(contenders, rounds=2, warmup=1)
    assert called == ["a", "b"] * 3
    assert times == {"a": [3, 7], "b": [5, 9]}
    _, used = timing.interleave_with_cpu(contenders, rounds=1, warmup=0)
    assert used == {"a": [0.5], "b": [0.5]}


def test_the_median_is_in_milliseconds() -> None:
    assert timing.median([0.003, 0.001, 0.9]) == pytest.approx(3)


def test_a_ratio_is_taken_round_by_round() -> None:
    """A round that is slow for both says nothing, and quartiles are between rounds."""
    found = timing.ratio([2.0, 30.0, 4.0, 5.0, 6.0], [1.0, 10.0, 1.0, 1.0, 1.0])
    assert (found.low, found.middle, found.high) == (3.0, 4.0, 5.0)
    assert str(found) == "4.00 (3.00 to 5.00)"
    with pytest.raises(ValueError, match="shorter"):
        timing.ratio([1.0, 2.0], [1.0])


ROWS = {"small": {"module": [0.001, 0.003, 0.002], "keras": [0.004, 0.006, 0.008]}}


def test_a_table_has_a_column_for_each_contender() -> None:
    assert list(benchmarks._table(ROWS, per=2)) == [
        "| | module | keras |",
        "| --- | ---: | ---: |",
        "| small | 1.0 | 3.0 · 4.00 (3.00 to 4.00) |",
    ]
    *_, row = benchmarks._quickest(ROWS, per=2)
    assert row == "| small | 0.5 | 2.0 · 4.00 |"


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    ratios = {"small": {"keras": timing.Ratio(2.0, 1.5, 2.5), "LiteRT": timing.Ratio(0.5, 0.4, 1)}}
    benchmarks._chart(ratios, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_sections_that_are_not_measured_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = iter(["one", "two", "three"])
    sections = {
        name: (f"Title {name}", lambda: iter([f"figure {next(figures)}"])) for name in ("a", "b")
    }
    monkeypatch.setattr(benchmarks, "_HERE", tmp_path)
    monkeypatch.setattr(benchmarks, "_SECTIONS", sections)
    monkeypatch.setattr(benchmarks, "_environment", lambda: iter(["- a machine"]))

    def written(*chosen: str) -> list[str]:
        benchmarks._main(chosen)
        lines = (tmp_path / "RESULTS.md").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.startswith(("## ", "figure", "# "))]

    assert written("b") == ["# Measured", "## Title b", "figure one"]
    assert written("a") == ["# Measured", "## Title a", "figure two", "## Title b", "figure one"]
    assert written("a") == ["# Measured", "## Title a", "figure three", "## Title b", "figure one"]
    assert "RESULTS.md" in capsys.readouterr().out
