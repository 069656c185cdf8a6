"""Names and URLs where the tool takes a SOURCE or a MODULE, against hosts on loopback."""
# Fixtures are imported, and are arguments of the same names.
# ruff: noqa: F811

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from local_hosts import Hosts, hosts, tgz  # noqa: F401
from mirrors import index_of
from published_world import QUANT, V1, V2, archive, models, world  # noqa: F401

import mobilenets
from convert import conversion
from convert.conversion import convert
from convert.export import keras_weights, slim
from mobilenets import MobileNet, MobileNetError, fetching, published, weights

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights_file(models: dict[str, MobileNet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """V1 as a weights file of keras.applications; not to be changed."""
    file = tmp_path_factory.mktemp("weights") / "w.h5"
    keras_weights.export(models[V1], file)
    return file


def inspected(command: Command, *arguments: object) -> dict:
    code, out, err = command("inspect", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("name", [V1, V2, QUANT, f"{V1}/feature_vector", "mobilenet_v2_0.35_96"])
def test_inspect(command: Command, world: Hosts, name: str) -> None:
    found = inspected(command, name)
    variant = mobilenets.Variant.parse(name).name
    assert (found["variant"], found["num_classes"]) == (variant, 1001)
    row = published.archives()[variant]
    assert found["from"] == {"what": "TF-Slim archive", "url": row.url}
    assert (found["sha256"], found["hash"]) == (row.sha256, "published")
    code, out, _ = command("inspect", name)
    assert code == 0
    assert f"from: TF-Slim archive, {row.url}\n" in out
    assert f"sha256: {row.sha256} (the published one)\n" in out


def test_the_next_source_is_tried(command: Command, world: Hosts, weights_file: Path) -> None:
    """The first is forbidden, the second holds no module, the third is absent."""
    first, second, third, last = published.sources(V1, "classification")
    world.answers[first.url] = 403
    world.answers[second.url] = tgz({"readme": b"no module"})
    world.answers[last.url] = body = weights_file.read_bytes()
    found = inspected(command, V1)
    assert found["from"] == {"what": "keras.applications file", "url": last.url}
    assert (found["sha256"], found["hash"]) == (hashlib.sha256(body).hexdigest(), "first use")
    assert found["sha256"] == fetching.first_use(last)
    assert found["num_classes"] == 1000
    code, out, _ = command("inspect", V1)
    assert code == 0
    assert f"sha256: {found['sha256']} (that of the first use; none was published)\n" in out
    assert world.asked[:4] == [source.url for source in (first, second, third, last)]


def test_each_failure_is_told(command: Command, world: Hosts, tmp_path: Path) -> None:
    world.answers[published.archives()[V2].url] = 403
    output = tmp_path / "models"
    for arguments in (("inspect", V2), ("checkpoint", V2, "--output", output)):
        code, out, err = command(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        for reason in ("TF-Slim archive: ", "tfhub.dev: ", "Kaggle: ", "keras.applications file: "):
            assert reason in err
        assert "403 Forbidden" in err
        assert "by hand: " in err
    assert not output.exists()


def test_values_that_cannot_be_read_are_a_failure(
    world: Hosts, weights_file: Path, tmp_path: Path
) -> None:
    """Not only names and shapes count: one value is not finite."""
    first, *_, last = published.sources(V1, "classification")
    world.answers[first.url] = 403
    shutil.copy(weights_file, tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        file["conv1/conv1/kernel:0"][0, 0, 0, 0] = np.nan
    world.answers[last.url] = (tmp_path / "w.h5").read_bytes()
    with pytest.raises(MobileNetError, match=r"keras.applications file: .*1 variable \(.*NaN"):
        weights.open(V1).__enter__()


@pytest.mark.slow
@pytest.mark.parametrize("spelling", [f"{V1}/feature_vector", V1, QUANT])
def test_checkpoint(
    quick_conversion: None, command: Command, world: Hosts, tmp_path: Path, spelling: str
) -> None:
    code, out, err = command("checkpoint", spelling, "--output", tmp_path, "--json")
    assert (code, err) == (0, "")
    name = spelling.removesuffix("/feature_vector")
    kinds = ["feature_vector"] if spelling != name else ["feature_vector", "classification"]
    done = json.loads(out)
    assert [(each["variant"], each["kind"]) for each in done] == [(name, kind) for kind in kinds]
    assert {each["parity"]["source"] for each in done} == {published.archives()[name].url}
    row = published.archives()[name]
    origin = {"what": "TF-Slim archive", "url": row.url, "sha256": row.sha256}
    assert [each["parity"]["origin"] for each in done] == [origin] * len(kinds)
    # What verifies it again comes from the cache.
    world.asked.clear()
    code, _, err = command("verify", tmp_path / name / "feature_vector")
    assert (code, err) == (0, "")
    code, _, err = command("verify", tmp_path / name / "feature_vector", "--checkpoint", name)
    assert (code, err) == (0, "")
    assert world.asked == []


@pytest.mark.parametrize("way", ["url", "file", "copy", "other", "checkpoint", "cached"])
def test_the_origin_is_recorded_without_paths(
    way: str,
    world: Hosts,
    models: dict[str, MobileNet],
    archive: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    """A published archive is known by its hash, whatever it is called."""
    row = published.archives()[V1]
    body = archive(V1, logits=False) if way == "other" else archive(V1)
    (tmp_path / "mine.tgz").write_bytes(body)
    sha256 = hashlib.sha256(body).hexdigest()
    fetched_from = None
    source: object = tmp_path / "mine.tgz"
    expected = {"what": "TF-Slim archive", "url": row.url, "sha256": row.sha256}
    if way == "url":
        source = row.url
    elif way == "copy":
        source = f"{world.url}/mine.tgz"
        world.answers[source] = body
    elif way == "other":
        expected = {"what": "file", "file": "mine.tgz", "sha256": sha256}
    elif way == "checkpoint":
        source = tmp_path / "mine.ckpt"
        slim.export(models[V1], source)
        files = (tmp_path / f"mine.ckpt.{end}" for end in ("index", "data-00000-of-00001"))
        sha256 = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        expected = {"what": "checkpoint", "file": "mine.ckpt", "sha256": sha256}
    elif way == "cached":
        # As `all` hands it on.
        source = tmp_path / "w.h5"
        keras_weights.export(models[V1], source)
        fetched_from = published.sources(V1, "classification")[-1]
        sha256 = fetching.sha256(source)
        expected = {"what": fetched_from.what, "url": fetched_from.url, "sha256": sha256}
    with weights.open(source) as found:
        assert conversion._origin(found, fetched_from) == expected


def test_a_name_takes_no_variant(world: Hosts, tmp_path: Path) -> None:
    with pytest.raises(MobileNetError, match="is a name already: leave the variant out"):
        convert(V1, tmp_path, variant=V2)


def test_from_a_mirror(
    quick_save: None,
    command: Command,
    world: Hosts,
    models: dict[str, MobileNet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mobilenets.save(models[V1], tmp_path / "made")
    body = tgz(tmp_path / "made")
    place = f"{V1}/classification/1.tar.gz"
    monkeypatch.setenv("MOBILENETS_MIRROR", f"{world.url}/mirror")
    world.answers[f"{world.url}/mirror/{place}"] = body
    sha256 = hashlib.sha256(body).hexdigest()
    world.answers[f"{world.url}/mirror/index.json"] = index_of({place: body}).encode()
    found = inspected(command, V1)
    assert found["from"] == {"what": "mirror", "url": f"{world.url}/mirror/{place}"}
    assert (found["sha256"], found["hash"]) == (sha256, "index.json")


def test_a_url(command: Command, world: Hosts) -> None:
    """Of a published archive its hash is known, of another the first use counts."""
    row = published.archives()[V1]
    found = inspected(command, row.url)
    assert found["from"] == {"what": "URL", "url": row.url}
    assert (found["sha256"], found["hash"]) == (row.sha256, "published")
    url = f"{world.url}/{row.slim_name}.tgz"
    world.answers[url] = world.answers[row.url]
    found = inspected(command, url)
    assert (found["from"]["url"], found["sha256"], found["hash"]) == (url, row.sha256, "first use")


def test_a_file_of_ones_own(command: Command, weights_file: Path) -> None:
    found = inspected(command, weights_file)
    assert (found["from"], found["hash"]) == (None, None)
    assert found["sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()


def test_exports(command: Command, world: Hosts, tmp_path: Path) -> None:
    """Whatever takes a MODULE takes a name."""
    code, _, err = command("slim", V2, "--output", tmp_path / "model.ckpt")
    assert (code, err) == (0, "")
    code, _, err = command("keras-weights", V2, "--output", tmp_path / "w.h5")
    assert (code, err) == (0, "")
