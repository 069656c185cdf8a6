"""Many checkpoints: found or fetched, converted side by side, one failure stopping nothing."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_hosts import hosts, tgz  # noqa: F401
from mirrors import index_of

from convert import batch
from convert.batch import convert_all, matching
from convert.errors import ConvertError
from convert.processes import ProcessDiedError
from mobilenets.fetching import FetchError, fetch, unpacked
from mobilenets.published import KINDS, archives, sources

ROOT = Path(__file__).parents[2]
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

    def convert(file, output, variant, source):
        asked[variant] = Path(file).name
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
            ProcessDiedError("its process died, perhaps for lack of memory"),
            ("failed", "its process died, perhaps for lack of memory"),
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

    def pick(file, output, variant, source):
        if not file.endswith(".h5"):
            raise batch._UnreadableError(f"{file} is not a checkpoint")
        return convert(file, output, variant, source)

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


@pytest.mark.parametrize(
    ("glob", "count"),
    [(None, 54), ("mobilenet_v2_*", 22), ("*/quantops", 16), ("mobilenet_v?_100_224", 2)],
)
def test_globs(glob, count):
    assert len(matching(glob)) == count


def test_a_glob_that_matches_nothing():
    with pytest.raises(ConvertError, match="matches no published variant"):
        matching("resnet*")


class TestMirror:
    """A folder of archives of modules, by `<hub name>/<kind>/1.tar.gz`."""

    NAME = "mobilenet_v1_025_128"

    @pytest.fixture(scope="class")
    @classmethod
    def packed(cls, randomise, untraced, tmp_path_factory):
        """The archive of a small module of each kind."""
        import mobilenets

        model = randomise(mobilenets.MobileNet(cls.NAME, 1001))
        archives = {}
        for kind, each in (("classification", model), ("feature_vector", model.with_classes())):
            folder = tmp_path_factory.mktemp("made") / "module"
            with untraced():
                mobilenets.save(each, folder)
            archives[kind] = tgz(folder)
        return archives

    @pytest.fixture
    def mirror(self, packed, tmp_path, monkeypatch):
        """`mirror(**archives)`: lays archives out, by default those of both kinds."""
        root = tmp_path / "mirror"
        monkeypatch.setenv("MOBILENETS_MIRROR", str(root))

        def mirror(**archives):
            shutil.rmtree(root, ignore_errors=True)
            bodies = {
                f"{self.NAME}/{kind}/1.tar.gz": body for kind, body in (archives or packed).items()
            }
            for path, body in bodies.items():
                (root / path).parent.mkdir(parents=True)
                (root / path).write_bytes(body)
            (root / "index.json").write_text(index_of(bodies))
            return root

        return mirror

    def outcome(self, tmp_path, **options):
        options = {"only": self.NAME, "offline": True} | options
        (outcome,) = convert_all(None, tmp_path / "models", **options)
        return outcome

    def test_its_modules_are_placed_as_they_are(self, mirror, conversions, tmp_path):
        root = mirror()
        outcome = self.outcome(tmp_path)
        assert outcome.good
        assert (outcome.status, outcome.origin, outcome.detail) == (
            "fetched",
            f"mirror, {root / self.NAME}",
            "not compared",
        )
        assert conversions[0] == {}
        models = tmp_path / "models"
        for kind in ("classification", "feature_vector"):
            assert (models / self.NAME / kind / "saved_model.pb").is_file()
        assert self.outcome(tmp_path).status == "unchanged"
        (models / self.NAME / "feature_vector" / "saved_model.pb").write_bytes(b"of another one")
        (models / self.NAME / "classification").rename(models / "elsewhere")
        outcome = self.outcome(tmp_path)
        assert (outcome.status, outcome.good) == ("failed", False)
        assert "holds something else than the mirror's module: remove it" in outcome.detail
        assert not (models / self.NAME / "classification").exists()

    @pytest.mark.parametrize("wrong", ["lacks a kind", "kind", "no module", "damaged", "hash"])
    def test_the_next_source_is_tried(
        self, mirror, packed, conversions, fetched, tmp_path, monkeypatch, wrong
    ):
        fetched[1].add("keras.applications file")
        fetched[1].remove("TF-Slim archive")
        asked = batch.fetch
        monkeypatch.setattr(
            batch,
            "fetch",
            lambda source, **options: (
                fetch(source) if source.what == "mirror" else asked(source, **options)
            ),
        )
        damaged = {"assets.extra/mobilenet.json": b'{"variant": "resnet"}', "saved_model.pb": b""}
        root = mirror(
            **{
                "lacks a kind": {"feature_vector": packed["feature_vector"]},
                "kind": packed | {"feature_vector": packed["classification"]},
                "no module": packed | {"classification": tgz({"readme": b"none"})},
                "damaged": packed | {"classification": tgz(damaged)},
                "hash": packed,
            }[wrong]
        )
        if wrong == "hash":
            (root / self.NAME / "classification" / "1.tar.gz").write_bytes(b"other bytes")
        outcome = self.outcome(tmp_path, offline=False)
        assert outcome.status == "converted"
        assert outcome.origin.startswith("keras.applications file, ")
        assert not (tmp_path / "models").exists()
        fetched[1].clear()
        outcome = self.outcome(tmp_path, offline=False)
        assert outcome.status == "missing"
        reasons = {
            "lacks a kind": f"does not list {self.NAME}/classification",
            "kind": "holds a classification, expected a feature_vector",
            "no module": "holds no module that mobilenets.save wrote",
            "damaged": "holds a damaged module: ",
            "hash": "expected SHA-256",
        }
        assert outcome.detail.startswith("mirror: ")
        assert reasons[wrong] in outcome.detail.split("; TF-Slim")[0]

    def test_one_that_was_converted_from_the_same(self, mirror, packed, conversions, tmp_path):
        """Converted here before: its `parity.json` says the same as that of the mirror's."""
        from convert.conversion import _MADE_FROM, PARITY

        bodies = {}
        for kind, body in packed.items():
            (tmp_path / f"{kind}.tgz").write_bytes(body)
            directory = tmp_path / "models" / self.NAME / kind
            unpacked(tmp_path / f"{kind}.tgz", directory)
            said = dict.fromkeys(_MADE_FROM, "x") | {"kind": kind, "largest_difference": 2e-6}
            (directory / PARITY).write_text(json.dumps(said))
            bodies[kind] = tgz(directory)
            (directory / PARITY).write_text(json.dumps(said | {"source": "elsewhere"}))
        mirror(**bodies)
        outcome = self.outcome(tmp_path)
        assert (outcome.status, outcome.detail) == ("unchanged", "2.0e-06")
        (directory / PARITY).write_text(json.dumps(said | {"fingerprint": "another"}))
        outcome = self.outcome(tmp_path)
        assert outcome.status == "failed"
        assert "was converted from another source" in outcome.detail


@pytest.mark.slow
def test_for_real_in_processes_of_its_own(reference_data, tmp_path):
    arguments = (reference_data / "checkpoints", tmp_path)
    only = "mobilenet_v1_025_1[26]?"
    outcomes = [convert_all(*arguments, only=only, jobs=2, offline=True) for _ in range(2)]
    assert [[o.status for o in run] for run in outcomes] == [["converted"] * 2, ["unchanged"] * 2]
    for name in matching(only):
        assert (tmp_path / name / "classification" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_for_real_where_keras_applications_alone_answers(
    hosts,  # noqa: F811
    command,
    monkeypatch,
    tmp_path,
):
    """As the world may become: 403 everywhere else, and no other project has quantops."""
    import tf_keras

    networks = {
        "mobilenet_v1_025_128": (tf_keras.applications.MobileNet, 0.25, 128),
        "mobilenet_v2_035_96": (tf_keras.applications.MobileNetV2, 0.35, 96),
    }
    quantops = "mobilenet_v1_025_128/quantops"
    table = {name: archives()[name] for name in (*networks, quantops)}
    monkeypatch.setattr(batch, "archives", lambda: table)
    for name, (network, alpha, size) in networks.items():
        for kind in KINDS:
            *others, last = sources(name, kind)
            top = kind == "classification"
            network((size, size, 3), alpha=alpha, include_top=top, weights=None).save_weights(
                tmp_path / "published.h5", save_format="h5"
            )
            hosts.answers |= {source.url: 403 for source in others}
            hosts.answers[last.url] = (tmp_path / "published.h5").read_bytes()
    hosts.answers[archives()[quantops].url] = 403

    arguments = ("all", "--output", tmp_path / "models", "--only", "*", "--jobs", 2, "--json")
    code, out, _ = command(*arguments)
    outcomes = {outcome.pop("variant"): outcome for outcome in json.loads(out)}
    assert code == 1
    missing = outcomes.pop(quantops)
    assert missing["status"] == "missing"
    url = archives()[quantops].url
    assert f"cannot download {url}: HTTP status 403 Forbidden; by hand: " in missing["detail"]
    assert not (tmp_path / "models" / quantops).exists()
    assert {name: (each["status"], each["origin"]) for name, each in outcomes.items()} == {
        name: ("converted", f"keras.applications file, {sources(name, KINDS[1])[-1].url}")
        for name in networks
    }
    for name in networks:
        for kind in KINDS:
            assert (tmp_path / "models" / name / kind / "saved_model.pb").is_file()
