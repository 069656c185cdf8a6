"""Many checkpoints: found or fetched, converted side by side, one failure stopping nothing."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from convert import batch
from convert.batch import convert_all, matching
from convert.download import archives
from convert.errors import ConvertError

SMALL = "mobilenet_v1_025_*"


@pytest.fixture
def checkpoints(tmp_path):
    """Three of the four small V1, each lying there in another way; the fourth is absent."""
    folder = tmp_path / "checkpoints"
    (folder / "mobilenet_v1_0.25_224").mkdir(parents=True)
    (folder / "mobilenet_v1_0.25_224" / "mobilenet_v1_0.25_224.ckpt.index").touch()
    (folder / "mobilenet_v1_0.25_192.tgz").touch()
    (folder / "mobilenet_v1_0.25_160.ckpt.index").touch()
    (folder / "mobilenet_v1_0.25_128").mkdir()
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """Conversions in threads that note what they are asked for; `answers` decides how they end."""
    asked, answers = {}, {}

    def convert(source, output, variant):
        asked[variant] = Path(source).name
        answer = answers.get(variant, [(True, 1e-5), (True, 3e-5)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(batch, "_convert", convert)
    monkeypatch.setattr(batch, "_pool", ThreadPoolExecutor)
    return asked, answers


def run(checkpoints, **options):
    options = {"only": "mobilenet_v1_025_???", "offline": True} | options
    outcomes = convert_all(checkpoints, checkpoints.parent / "models", **options)
    return {outcome.variant: (outcome.status, outcome.detail) for outcome in outcomes}


def test_each_is_found_however_it_lies_there(checkpoints, conversions):
    outcomes = run(checkpoints)
    assert conversions[0] == {
        "mobilenet_v1_025_224": "mobilenet_v1_0.25_224",
        "mobilenet_v1_025_192": "mobilenet_v1_0.25_192.tgz",
        "mobilenet_v1_025_160": "mobilenet_v1_0.25_160.ckpt",
    }
    assert outcomes["mobilenet_v1_025_224"] == ("converted", "3.0e-05")
    status, detail = outcomes["mobilenet_v1_025_128"]
    assert status == "missing"
    assert "--offline" in detail


def test_outcomes_are_in_the_tables_order(checkpoints, conversions):
    order = [name for name in archives() if name.startswith("mobilenet_v1_025")]
    assert list(run(checkpoints, only=SMALL, jobs=3)) == order


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (ConvertError("does not fit"), ("failed", "does not fit")),
        (OSError("disk"), ("failed", "disk")),
        (RuntimeError("odd"), ("failed", "RuntimeError: odd")),
        (
            BrokenProcessPool(),
            ("failed", "the converting process died, perhaps for lack of memory"),
        ),
        ([(False, 1e-5), (False, 2e-5)], ("unchanged", "2.0e-05")),
        ([(False, 1e-5), (True, 2e-5)], ("converted", "2.0e-05")),
        ([(True, None)], ("converted", "not compared")),
    ],
    ids=["refused", "disk", "unforeseen", "died", "unchanged", "one kind anew", "no reference"],
)
def test_one_outcome_does_not_touch_the_others(checkpoints, conversions, answer, outcome):
    conversions[1]["mobilenet_v1_025_192"] = answer
    outcomes = run(checkpoints)
    assert outcomes.pop("mobilenet_v1_025_192") == outcome
    assert [status for status, _ in outcomes.values()] == ["converted", "converted", "missing"]


def test_the_others_are_fetched(checkpoints, conversions, monkeypatch):
    def fetch(archive, directory, progress):
        progress(5, 10)
        return directory / archive.slim_name / f"{archive.slim_name}.ckpt"

    monkeypatch.setattr(batch, "fetch", fetch)
    seen = []
    outcomes = run(checkpoints, offline=False, on_download=lambda *told: seen.append(told))
    assert seen == [("mobilenet_v1_025_128", 5, 10)]
    assert conversions[0]["mobilenet_v1_025_128"] == "mobilenet_v1_0.25_128.ckpt"
    assert {status for status, _ in outcomes.values()} == {"converted"}


def test_a_failed_download_is_one_outcome(checkpoints, conversions, monkeypatch):
    def fetch(archive, directory, progress):
        raise ConvertError("cannot reach the host")

    monkeypatch.setattr(batch, "fetch", fetch)
    outcomes = run(checkpoints, offline=False)
    assert outcomes["mobilenet_v1_025_128"] == ("missing", "cannot reach the host")
    assert len(conversions[0]) == 3


def test_every_outcome_is_told_as_it_comes(checkpoints, conversions):
    told = []
    run(checkpoints, on_outcome=lambda outcome: told.append(outcome.variant))
    assert len(told) == 4


def test_a_dead_pool_is_replaced(checkpoints, conversions, monkeypatch):
    class Dying(ThreadPoolExecutor):
        def submit(self, *_):
            raise BrokenProcessPool

    pools = iter([Dying(1), ThreadPoolExecutor(1)])
    monkeypatch.setattr(batch, "_pool", lambda jobs: next(pools))
    assert [status for status, _ in run(checkpoints).values()].count("converted") == 3


@pytest.mark.parametrize(
    ("glob", "count"),
    [(None, 54), ("mobilenet_v2_*", 22), ("*/quantops", 16), ("mobilenet_v?_100_224", 2)],
)
def test_globs(glob, count):
    assert len(matching(glob)) == count


def test_a_glob_that_matches_nothing():
    with pytest.raises(ConvertError, match="matches no published variant"):
        matching("resnet*")


def test_for_real_in_processes_of_its_own(reference_data, tmp_path):
    arguments = (reference_data / "checkpoints", tmp_path)
    only = "mobilenet_v1_025_1[26]?"
    outcomes = [convert_all(*arguments, only=only, jobs=2, offline=True) for _ in range(2)]
    assert [[o.status for o in run] for run in outcomes] == [["converted"] * 2, ["unchanged"] * 2]
    for name in matching(only):
        assert (tmp_path / name / "classification" / "saved_model.pb").is_file()
