"""Many checkpoints: found or fetched, converted side by side, one failure stopping nothing."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from local_hosts import hosts  # noqa: F401

from convert import batch
from convert.batch import convert_all, matching
from convert.errors import ConvertError
from mobilenets.fetching import FetchError
from mobilenets.published import archives, sources

SMALL = "mobilenet_v1_025_*"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOBILENETS_MIRROR", raising=False)


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
    output = options.pop("output", None) or checkpoints.parent / "models"
    outcomes = convert_all(checkpoints, output, **options)
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
    assert "TF-Slim archive: " in detail
    assert "this is offline" in detail
    assert "kagglehub.model_download" in detail


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


@pytest.fixture
def fetched(monkeypatch):
    """What is fetched, and which sources answer; each is told as half there."""
    asked, answering = [], {"TF-Slim archive"}

    def fetch(source, *, progress, offline):
        asked.append(source.what)
        if source.what not in answering:
            raise FetchError(f"{source.url}: forbidden")
        progress(5, 10)
        return Path("cache", source.url.rpartition("/")[2])

    monkeypatch.setattr(batch, "fetch", fetch)
    return asked, answering


def origins(checkpoints, **options):
    options = {"only": "mobilenet_v1_025_???"} | options
    outcomes = convert_all(checkpoints, Path("models"), **options)
    return {outcome.variant: outcome.origin for outcome in outcomes}


def test_the_others_are_fetched(checkpoints, conversions, fetched):
    seen = []
    found = origins(checkpoints, on_download=lambda *told: seen.append(told))
    assert seen == [("mobilenet_v1_025_128", 5, 10)]
    assert conversions[0]["mobilenet_v1_025_128"] == "mobilenet_v1_0.25_128.tgz"
    url = archives()["mobilenet_v1_025_128"].url
    assert found["mobilenet_v1_025_128"] == f"TF-Slim archive, {url}"
    assert found["mobilenet_v1_025_192"] == (
        f"own folder, {checkpoints / 'mobilenet_v1_0.25_192.tgz'}"
    )


def test_without_a_folder_all_are_fetched(conversions, fetched):
    assert all(origin.startswith("TF-Slim") for origin in origins(None).values())
    assert len(fetched[0]) == 4


def test_the_next_source_is_taken_where_one_fails(conversions, fetched):
    fetched[1].clear()
    fetched[1].add("keras.applications file")
    found = origins(None, only="mobilenet_v1_025_128")
    assert found["mobilenet_v1_025_128"].startswith("keras.applications file, https://storage.")
    order = [source.what for source in sources("mobilenet_v1_025_128", "classification")]
    assert fetched[0] == order
    assert conversions[0] == {"mobilenet_v1_025_128": "mobilenet_2_5_128_tf.h5"}


def test_the_next_source_is_taken_where_one_cannot_be_read(
    conversions, fetched, monkeypatch, checkpoints
):
    fetched[1].update({"TF2 Hub module at tfhub.dev", "keras.applications file"})
    convert = batch._convert

    def pick(source, output, variant):
        if not source.endswith(".h5"):
            raise batch._UnreadableError(f"{source} is not a checkpoint")
        return convert(source, output, variant)

    monkeypatch.setattr(batch, "_convert", pick)
    name = "mobilenet_v1_025_128"
    assert origins(None, only=name)[name].startswith("keras.applications file")
    fetched[1].remove("keras.applications file")
    ((status, detail),) = run(None, only=name, offline=False, output=Path("models")).values()
    assert status == "missing"
    assert "TF-Slim archive: cache/mobilenet_v1_0.25_128.tgz is not a checkpoint; TF2 Hub" in detail
    # A checkpoint of the user's own is what they mean.
    name = "mobilenet_v1_025_192"
    ((status, detail),) = run(checkpoints, only=name, offline=False).values()
    assert (status, "is not a checkpoint" in detail) == ("failed", True)


def test_nothing_to_be_had_is_one_outcome(checkpoints, conversions, fetched):
    fetched[1].clear()
    outcomes = run(checkpoints, offline=False)
    status, detail = outcomes["mobilenet_v1_025_128"]
    assert status == "missing"
    assert detail.count("forbidden") == 4
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


@pytest.mark.slow
def test_for_real_in_processes_of_its_own(reference_data, tmp_path):
    arguments = (reference_data / "checkpoints", tmp_path)
    only = "mobilenet_v1_025_1[26]?"
    outcomes = [convert_all(*arguments, only=only, jobs=2, offline=True) for _ in range(2)]
    assert [[o.status for o in run] for run in outcomes] == [["converted"] * 2, ["unchanged"] * 2]
    for name in matching(only):
        assert (tmp_path / name / "classification" / "saved_model.pb").is_file()


def test_for_real_where_keras_applications_alone_answers(hosts, randomise, tmp_path):  # noqa: F811
    from convert.export import keras_weights
    from mobilenets import MobileNet

    name = "mobilenet_v1_025_128"
    keras_weights.export(randomise(MobileNet(name, 1001)), tmp_path / "weights.h5")
    (*_, last) = sources(name, "classification")
    hosts.answers[last.url] = (tmp_path / "weights.h5").read_bytes()
    hosts.answers[archives()[name].url] = 403
    (outcome,) = convert_all(None, tmp_path / "models", only=name)
    assert (outcome.status, outcome.origin) == (
        "converted",
        f"keras.applications file, {last.url}",
    )
    for kind in ("classification", "feature_vector"):
        assert (tmp_path / "models" / name / kind / "saved_model.pb").is_file()
    hosts.answers.clear()
    (outcome,) = convert_all(None, tmp_path / "models", only=name, offline=True)
    assert outcome.status == "unchanged"
