"""What `convert publish` makes, used over HTTP: by URL and by name, once and again, offline.

The server is any static one: it knows nothing of TensorFlow Hub's query.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from closeness import assert_equal_values
from local_hosts import closed_port
from programs import in_turn
from static_site import StaticSite, serving

import mobilenets
from convert.conversion import convert
from convert.publish import cards
from convert.publish.index import Index
from convert.publish.modules import find
from convert.publish.publication import publish
from mobilenets import MobileNet, MobileNetError, fetching
from mobilenets.fetching import FetchError

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt"
NAME = "mobilenet_v1_025_128"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Empty ones, and nothing of the user's own settings."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("MOBILENETS_CACHE"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("mobilenets.fetching.network._DELAYS", ())
    found = {name: tmp_path / name for name in ("MOBILENETS_CACHE", "TFHUB_CACHE_DIR")}
    for name, folder in found.items():
        monkeypatch.setenv(name, str(folder))
    return found


def left(caches: dict[str, Path]) -> list[str]:
    """Files in the caches, but for locks."""
    files = (path for cache in caches.values() for path in cache.rglob("*") if path.is_file())
    return [path.name for path in files if not path.name.endswith(".lock")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, randomise: Callable) -> Path:
    """A small V1 of ImageNet's classes, of both kinds, without traces: `load` needs none."""
    folder = tmp_path_factory.mktemp("published")
    model = randomise(MobileNet(NAME, 1001))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mobilenets.saved_model.Writer._signatures", lambda *_: {})
        for kind, each in (("classification", model), ("feature_vector", model.with_classes())):
            mobilenets.save(each, folder / "models" / kind)
    publish(find(folder / "models"), folder / "site")
    return folder / "site"


@pytest.fixture
def server(site: Path) -> Iterator[StaticSite]:
    with serving(site) as server:
        yield server


def test_load_by_url(site: Path, caches: dict[str, Path]) -> None:
    with serving(site) as server:
        url = f"{server.url}/{NAME}/classification/1.tar.gz"
        first = mobilenets.load(url)
        assert server.asked == [f"/{NAME}/classification/1.tar.gz"]
        assert (first.variant.name, first.num_classes) == (NAME, 1001)
        assert_equal_values(mobilenets.load(url), first)
        assert len(server.asked) == 1
    # The server is down.
    assert_equal_values(mobilenets.load(url), first)
    assert left(caches) == ["1.tar.gz", "1.tar.gz.sha256"]


def test_load_by_name(site: Path, caches: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(site) as server:
        monkeypatch.setenv("MOBILENETS_MIRROR", server.url)
        first = mobilenets.load(NAME)
        folder = mobilenets.module(NAME)
        assert server.asked == [
            *("/index.json", f"/{NAME}/classification/1.tar.gz"),
            *("/index.json", f"/{NAME}/feature_vector/1.tar.gz"),
        ]
        assert first.num_classes == 1001
        assert mobilenets.load(folder).num_classes is None
    # The server is down.
    assert_equal_values(mobilenets.load(NAME), first)
    monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    assert_equal_values(mobilenets.load(NAME), first)
    assert mobilenets.module(NAME) == folder
    # A module holds its card.
    assert (Path(folder) / cards.CARD).read_text().startswith("---\nlibrary_name: tf-keras\n")


@pytest.mark.parametrize(
    ("by", "wrong"),
    # A URL's hash is that of the first use.
    [
        ("name", "truncated"),
        ("name", "404"),
        ("name", "hash"),
        ("url", "truncated"),
        ("url", "404"),
    ],
)
def test_failures_of_load(
    by: str,
    wrong: str,
    site: Path,
    caches: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(site, tmp_path / "site")
    archive = tmp_path / "site" / NAME / "classification" / "1.tar.gz"
    with serving(tmp_path / "site") as server:
        monkeypatch.setenv("MOBILENETS_MIRROR", server.url)
        # No other place answers.
        elsewhere = f"{closed_port()}/"
        hosts = [f"{server.url}={server.url}"]
        hosts += [f"{scheme}://={elsewhere}" for scheme in ("http", "https")]
        monkeypatch.setenv("MOBILENETS_HOSTS", " ".join(hosts))
        if wrong == "truncated":
            server.cut = 50_000
        elif wrong == "404":
            archive.unlink()
        else:
            archive.write_bytes(archive.read_bytes() + b"\0")
        source = NAME if by == "name" else f"{server.url}/{NAME}/classification/1.tar.gz"
        with pytest.raises((FetchError, MobileNetError)) as caught:
            mobilenets.load(source)
    message = str(caught.value)
    assert "\n" not in message
    said = {"truncated": "IncompleteRead", "404": "HTTP status 404", "hash": "expected the SHA-256"}
    assert said[wrong] in message
    assert "1.tar.gz" in message
    assert left(caches) == []


@pytest.mark.parametrize("wrong", ["truncated", "404"])
def test_failures_of_hub(wrong: str, server: StaticSite, caches: dict[str, Path]) -> None:
    import tensorflow_hub as hub

    version = 1
    if wrong == "truncated":
        server.cut = 50_000
    else:
        version = 2
    with pytest.raises(Exception, match=r"HTTP Error 404|does not appear to be") as caught:
        hub.load(f"{server.url}/{NAME}/classification/{version}.tar.gz")
    assert "\n" not in str(caught.value)
    assert left(caches) == []


# Of the reference data: checkpoints, and what the original graphs compute with them.
CHECKPOINTS = {
    "v1": ("checkpoints/mobilenet_v1_0.25_128", "mobilenet_v1_0.25_128"),
    "v2": (
        "hub_tf1/mobilenet_v2_035_128_feature_vector_2",
        "hub_mobilenet_v2_035_128_feature_vector_2",
    ),
    "quantops": ("checkpoints/mobilenet_v1_0.25_128_quant", "mobilenet_v1_0.25_128_quant"),
}


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory, reference_data: Path
) -> Callable[[str], tuple[Path, Index]]:
    """`published(checkpoint)`: the site of its modules, and the index."""
    made: dict[str, tuple[Path, Index]] = {}

    def published(checkpoint: str) -> tuple[Path, Index]:
        if checkpoint not in made:
            folder = tmp_path_factory.mktemp("published")
            convert(reference_data / CHECKPOINTS[checkpoint][0], folder / "models")
            index, _ = publish(find(folder / "models"), folder / "site")
            made[checkpoint] = folder / "site", index
        return made[checkpoint]

    return published


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("kind", ["feature_vector", "classification"])
def test_hub(
    checkpoint: str,
    kind: str,
    published: Callable[[str], tuple[Path, Index]],
    caches: dict[str, Path],
    reference_data: Path,
) -> None:
    """hub.load and hub.KerasLayer; trained; from the cache with the server down."""
    import tensorflow_hub as hub
    import tf_keras

    site, index = published(checkpoint)
    entry = next((each for each in index.modules if each.kind == kind), None)
    if entry is None:
        assert checkpoint == "v2"
        pytest.skip("the checkpoint has no logits")
    golden = np.load(reference_data / "golden" / f"{CHECKPOINTS[checkpoint][1]}.npz")
    images = golden["images"].astype(np.float32) / 255
    expected = golden["logits" if kind == "classification" else "feature_vector"]
    expected = expected.reshape(len(images), -1)

    with serving(site) as server:
        url = f"{server.url}/{entry.path}"
        module: Any = hub.load(url)
        assert server.asked == [f"/{entry.path}?tf-hub-format=compressed"]
        if not entry.quantized:
            np.testing.assert_allclose(module(images), expected, rtol=0, atol=1e-4)
        layer = hub.KerasLayer(url, trainable=True)
        assert len(server.asked) == 1
    np.testing.assert_array_equal(layer(images), module(images))

    model = tf_keras.Sequential([layer, tf_keras.layers.Dense(2)])
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [variable.numpy() for variable in layer.trainable_variables]
    assert before
    model.fit(np.tile(images[:2], [2, 1, 1, 1]), np.array([0, 1, 0, 1]), batch_size=2, verbose=0)
    assert model.optimizer.iterations == 2
    assert all(
        (was != now.numpy()).any()
        for was, now in zip(before, layer.trainable_variables, strict=True)
    )
    # The server is down.
    np.testing.assert_array_equal(hub.load(url)(images), module(images))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_mobilenets(
    checkpoint: str,
    published: Callable[[str], tuple[Path, Index]],
    caches: dict[str, Path],
    reference_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By URL and by name; the same weights as in the checkpoint."""
    site, index = published(checkpoint)
    name = index.modules[0].name
    model = mobilenets.load(reference_data / CHECKPOINTS[checkpoint][0])
    if model.num_classes is None:
        name = f"{name}/feature_vector"
    with serving(site) as server:
        monkeypatch.setenv("MOBILENETS_MIRROR", server.url)
        for entry in index.modules:
            found = mobilenets.load(f"{server.url}/{entry.path}")
            assert_equal_values(found, model.with_classes() if entry.classes is None else model)
        assert_equal_values(mobilenets.load(name), model)
    assert_equal_values(mobilenets.load(name), model)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_the_snippets_of_the_card_run_as_they_are(
    checkpoint: str,
    published: Callable[[str], tuple[Path, Index]],
    caches: dict[str, Path],
    reference_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the server's URL in place of the example's, from the cards in the archives."""
    site, index = published(checkpoint)
    monkeypatch.chdir(tmp_path)
    shutil.copy(reference_data / "photos" / "owl.jpg", "photo.jpg")
    with serving(site) as server:
        for entry in index.modules:
            fetching.unpack(site / entry.path, "unpacked")
            card = Path("unpacked", cards.CARD).read_text(encoding="utf-8")
            snippets = re.findall(r"(?s)```python\n(.*?)```", card)
            assert len(snippets) == 3
            for snippet in snippets:
                assert cards.SITE in snippet
                exec(snippet.replace(cards.SITE, server.url), {})
            output = entry.classes or entry.features
            printed = capsys.readouterr().out
            assert f"(1, {output})" in printed
            assert f"(1, {entry.features})" in printed
            if entry.classes == 1001:
                assert len(re.findall(r": \d+\.\d%$", printed, re.MULTILINE)) == 5


@pytest.mark.slow
def test_two_builds_of_everything_are_equal(
    reference_data: Path, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """In another process and folder, in another order, from checkpoints elsewhere.

    Of each kind of reference one network; of saved modules alone test_canonical.py has more.
    """
    sources = {
        "sample": SAMPLE.parent,
        "quantops": reference_data / "slim_random" / "mobilenet_v1_0.25_128_quant",
    }
    one: list[tuple] = []
    other: list[tuple] = []
    for name, folder in sources.items():
        copied = shutil.copytree(folder, tmp_path / "copied" / name / folder.name)
        (file,) = folder.glob("*.index")
        prefix = file.with_suffix("").name
        one.append(("checkpoint", folder / prefix, "--output", tmp_path / "one"))
        for kind in ("classification", "feature_vector"):
            arguments = ("checkpoint", copied / prefix, "--output", tmp_path / "two")
            other.append((*arguments, "--kind", kind))
    other.reverse()
    for commands, number in ((one, "one"), (other, "two")):
        commands.append(("publish", tmp_path / number, "--output", tmp_path / number / "site"))
    for arguments in one:
        code, _, errors = command(*arguments)
        assert code == 0, errors
    done = in_turn(other)
    assert done.stdout.count("<end 0>") == len(other), done.stderr
    found = [
        {
            path.relative_to(tmp_path / number / "site").as_posix(): fetching.sha256(path)
            for path in (tmp_path / number / "site").rglob("*")
            if path.is_file()
        }
        for number in ("one", "two")
    ]
    assert found[0] == found[1]
    assert sum(name.endswith(".tar.gz") for name in found[0]) == 4
