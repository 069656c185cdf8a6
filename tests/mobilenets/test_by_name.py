"""`mobilenets.load(name)` and `mobilenets.module(name)`, against hosts on loopback."""
# Fixtures are imported, and are arguments of the same names.
# ruff: noqa: F811

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import weight_formats
from local_hosts import Hosts, closed_port, hosts, tgz  # noqa: F401
from mirrors import index_of
from published_world import QUANT, V1, V2, archive, models, world  # noqa: F401
from refusals import one_line
from tiers import first_fast

import mobilenets
from convert.export import keras_weights
from mobilenets import MobileNet, MobileNetError, fetching, published, saved_model
from mobilenets.fetching import FetchError

HUB = "https://tfhub.dev/google/imagenet/{}/5?tf-hub-format=compressed"
KAGGLE = (
    "https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/035-96-{}/2"
    "?tf-hub-format=compressed"
)
V1_AT_160 = "mobilenet_v1_025_160"
KERAS = (
    "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96{}.h5"
)


@pytest.fixture(scope="module")
def archived(
    models: dict[str, MobileNet], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., bytes]:
    """`archived(name, kind)`: the bytes of a `.tar.gz` of a module."""

    @functools.cache
    def archived(name: str, kind: str) -> bytes:
        model = models.get(name) or MobileNet(name, 1001)
        folder = tmp_path_factory.mktemp("module") / kind
        mobilenets.save(model if kind == "classification" else model.with_classes(), folder)
        return tgz(folder)

    return archived


def assert_same(model: MobileNet, other: MobileNet) -> None:
    """Of two models, of which the second may have logits that the first has not."""
    theirs = other.slim_variables
    for name, variable in model.slim_variables.items():
        np.testing.assert_array_equal(variable.numpy(), theirs[name].numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("spelling", "name", "classes"),
    first_fast(
        [
            (V2, V2, 1001),
            (f"google/imagenet/{V1}/feature_vector/4", V1, None),
            (QUANT, QUANT, 1001),
            ("mobilenet_v2_0.35_96", V2, 1001),
            (f"{V2}/classification", V2, 1001),
            (f"{V2}/feature_vector", V2, None),
            ("google/mobilenet-v1/tensorFlow2/025-128-classification/2", V1, 1001),
            ("google/mobilenet-v1/tensorFlow2/025-128-feature-vector", V1, None),
            (f"{QUANT}/feature_vector", QUANT, None),
        ],
        3,
    ),
)
def test_every_spelling(
    world: Hosts, models: dict[str, MobileNet], spelling: str, name: str, classes: int | None
) -> None:
    model = mobilenets.load(spelling, trainable=False)
    assert (model.variant.name, model.num_classes) == (name, classes)
    assert model.trainable_variables == []
    assert_same(model, models[name])
    if classes:
        assert model.class_names == mobilenets.images.class_names()
    assert world.asked == [published.archives()[name].url]


def test_once_and_then_offline(world: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    mobilenets.load(V2)
    monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    assert mobilenets.load(f"{V2}/feature_vector", batch_norm_momentum=0.9).num_classes is None
    assert len(world.asked) == 1
    with pytest.raises(FetchError, match=one_line("is not in the cache .* this is offline")):
        mobilenets.load(V1)
    assert len(world.asked) == 1


@pytest.mark.parametrize(
    ("answering", "kind"),
    first_fast(
        [
            ("kaggle", "classification"),
            ("tfhub.dev", "feature_vector"),
            ("kaggle", "feature_vector"),
            ("tfhub.dev", "classification"),
        ]
    ),
)
def test_the_next_is_tried_when_one_fails(
    world: Hosts,
    archive: Callable[..., bytes],
    models: dict[str, MobileNet],
    kind: str,
    answering: str,
) -> None:
    """As the world is: the archives are forbidden, tfhub.dev leads to Kaggle's files."""
    world.answers[published.archives()[V2].url] = 403
    url = HUB.format(f"{V2}/{kind}")
    if answering == "kaggle":
        url = KAGGLE.format(kind.replace("_", "-"))
    world.answers[url] = f"{world.url}/files/{kind}.tar.gz"
    world.answers[f"{world.url}/files/{kind}.tar.gz"] = archive(V2, kind == "classification")
    model = mobilenets.load(f"{V2}/{kind}")
    assert model.num_classes == (1001 if kind == "classification" else None)
    assert_same(model, models[V2])
    # What is in the cache is used from then on, without asking anybody.
    world.asked.clear()
    mobilenets.load(f"{V2}/{kind}")
    assert world.asked == []


def test_the_paths_of_keras_applications(world: Hosts) -> None:
    """Every failure of a source, and a file that no reader knows, is one reason."""
    world.answers[published.archives()[V2].url] = 403
    world.answers[HUB.format(f"{V2}/classification")] = tgz({"readme": b"no module"})
    world.answers[KAGGLE.format("classification")] = b"<html>Sign in"
    world.answers[KERAS.format("")] = b"\x89HDF\r\n\x1a\n and no more"
    with pytest.raises(FetchError) as caught:
        mobilenets.load(V2)
    message = str(caught.value)
    assert "\n" not in message
    for reason in (
        rf"^cannot get {V2}/classification: ",
        r"TF-Slim archive: cannot download .*: HTTP status 403 Forbidden; ",
        r"TF2 Hub module at tfhub\.dev: \S+ (was|holds) ",
        r"TF2 Hub module at Kaggle: .*: the answer is no such file but begins with b'<html>",
        r"keras\.applications file: .*_0\.35_96\.h5",
        r"; by hand: download it from https://www\.kaggle\.com/models/google/mobilenet-v2/",
        r'kagglehub\.model_download\("google/mobilenet-v2/tensorFlow2/035-96-classification"\)',
    ):
        assert re.search(reason, message), reason
    assert KERAS.format("") in world.asked
    world.asked.clear()
    with pytest.raises(FetchError):
        mobilenets.load(f"{V2}/feature_vector")
    assert KERAS.format("_no_top") in world.asked


def test_a_tf2_module_is_read(world: Hosts, models: dict[str, MobileNet], tmp_path: Path) -> None:
    world.answers[published.archives()[V2].url] = 403
    values = {
        name: variable.numpy()
        for name, variable in models[V2].slim_variables.items()
        if "/Logits/" not in name
    }
    module = weight_formats.hub_module(tmp_path / "module", values, 96)
    world.answers[HUB.format(f"{V2}/feature_vector")] = f"{world.url}/module.tar.gz"
    world.answers[f"{world.url}/module.tar.gz"] = tgz(module)
    model = mobilenets.load(f"{V2}/feature_vector")
    assert model.variant.name == V2
    assert_same(model, models[V2])


@pytest.mark.slow
def test_a_file_of_keras_applications_is_read(
    world: Hosts, models: dict[str, MobileNet], tmp_path: Path
) -> None:
    world.answers[published.archives()[V1].url] = 403
    (*_, last) = published.sources(V1, "classification")
    keras_weights.export(models[V1], tmp_path / "weights.h5")
    world.answers[last.url] = (tmp_path / "weights.h5").read_bytes()
    model = mobilenets.load(V1)
    assert (model.variant.name, model.num_classes) == (V1, 1000)
    assert model.class_names == mobilenets.images.class_names()[1:]
    assert_same(model.with_classes(), models[V1])
    assert fetching.first_use(last)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenet_v1_100_224", "mobilenet/mobilenet_1_0_224_tf.h5"),
        ("mobilenet_v1_075_192", "mobilenet/mobilenet_7_5_192_tf.h5"),
        ("mobilenet_v1_050_160", "mobilenet/mobilenet_5_0_160_tf.h5"),
        ("mobilenet_v1_025_128", "mobilenet/mobilenet_2_5_128_tf.h5"),
        (
            "mobilenet_v2_140_224",
            "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.4_224.h5",
        ),
        (
            "mobilenet_v2_050_96",
            "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.5_96.h5",
        ),
    ],
)
def test_the_files_of_keras_applications(name: str, file: str) -> None:
    (*_, last) = published.sources(name, "classification")
    assert last.url == f"https://storage.googleapis.com/tensorflow/keras-applications/{file}"
    (*_, last) = published.sources(name, "feature_vector")
    assert last.url.endswith(file.rpartition("/")[2].replace(".h5", "_no_top.h5"))


@pytest.mark.parametrize("kind", published.KINDS)
@pytest.mark.parametrize("name", list(published.archives()))
def test_every_variant_has_its_sources(name: str, kind: str) -> None:
    found = published.sources(name, kind)
    assert len(found) == (1 if name.endswith("/quantops") else 4)
    assert found[0].sha256
    for source in found:
        assert not re.search(r"[{}]|None", source.url)
        assert mobilenets.Variant.parse(name).name == name
    assert name.removesuffix("/quantops").rsplit("_", 1)[1] in published.by_hand(name, kind)


def test_all_hosts_down(world: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETS_HOSTS", f"http={closed_port()}/")
    with pytest.raises(OSError, match=one_line("cannot reach .*Connection refused")):
        mobilenets.load(QUANT)


def test_a_wrong_hash(world: Hosts, archive: Callable[..., bytes]) -> None:
    world.answers[published.archives()[QUANT].url] = archive(V1)
    with pytest.raises(FetchError, match=one_line("expected the SHA-256 published")):
        mobilenets.load(QUANT)


def test_another_variant_than_asked_for(world: Hosts, archive: Callable[..., bytes]) -> None:
    """A source without a published hash may hold anything."""
    world.answers[published.archives()[V2].url] = 403
    world.answers[HUB.format(f"{V2}/classification")] = archive(V1)
    with pytest.raises(FetchError, match=one_line("TF2 Hub module at tfhub.dev: .*MobileNet V1")):
        mobilenets.load(V2)


@pytest.mark.slow
def test_a_local_path_wins(
    world: Hosts, module: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(module("mobilenet_v1"), tmp_path / V2 / "feature_vector")
    assert mobilenets.load(f"{V2}/feature_vector").variant.name == "mobilenet_v1_025_64"
    assert mobilenets.module(f"{V2}/feature_vector") == f"{V2}/feature_vector"
    assert world.asked == []


@pytest.mark.parametrize(
    "path", [f"models/{V2}", f"./{V2}", f"/absent/{V2}/feature_vector", Path(V2), f"{V2}.ckpt"]
)
def test_a_path_is_no_name(
    world: Hosts, path: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        mobilenets.load(path)
    assert world.asked == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet_v2_035_69", f"this variant was never published; nearest: {V2}"),
        ("mobilnet_v2_035_96", f"no file, folder or published variant .*; nearest: {V2}"),
        ("mobilenet_v3_large_100_224", "nearest: mobilenet_v[12]_100_224"),
        (f"{V2}/quantops", f"has no quantized form; nearest: {V2}"),
        ("mobilenet_v2_0.35_96_quant", f"has no quantized form; nearest: {V2}"),
        ("google/imagenet/mobilenet_v2_035_69/classification/4", f"nearest: {V2}"),
        ("resnet", "mobilenets.VARIANTS holds the names"),
        ("mobilenet_v1_100_16", "nearest: mobilenet_v1_100_1"),
    ],
)
@pytest.mark.parametrize("function", [mobilenets.load, mobilenets.module])
def test_unknown_names(world: Hosts, function: Callable, name: str, message: str) -> None:
    with pytest.raises(MobileNetError, match=one_line(message)) as caught:
        function(name)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(caught.value).startswith(name)
    assert world.asked == []


def test_a_name_takes_no_variant(world: Hosts) -> None:
    with pytest.raises(MobileNetError, match="leave the variant out"):
        mobilenets.load(V2, variant=V2)


def test_a_module_is_made_once(
    quick_save: None, world: Hosts, models: dict[str, MobileNet]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        folder = mobilenets.module(V1)
        assert type(folder) is str
        made = mobilenets.load(folder)
        assert made.num_classes is None
        assert_same(made, models[V1])
        patch.setenv("MOBILENETS_OFFLINE", "1")
        stamp = (Path(folder) / "saved_model.pb").stat().st_mtime_ns
        assert mobilenets.module(f"google/imagenet/{V1}/feature_vector/5") == folder
        assert (Path(folder) / "saved_model.pb").stat().st_mtime_ns == stamp
        classifier = mobilenets.module(f"{V1}/classification")
    assert mobilenets.load(classifier).num_classes == 1001
    assert len(world.asked) == 1
    assert sorted(path.name for path in Path(folder).parent.iterdir()) == [
        "classification",
        "classification.lock",
        "feature_vector",
        "feature_vector.lock",
    ]


def test_for_hub_keraslayer(
    world: Hosts, models: dict[str, MobileNet], random_images, inference_alone: Callable
) -> None:
    import tensorflow_hub as hub

    with inference_alone():
        folder = mobilenets.module(V1)
    layer = hub.KerasLayer(folder, trainable=True)
    images = random_images(2, 64)
    features = models[V1].with_classes(None)(images)
    np.testing.assert_allclose(layer(images), features, rtol=0, atol=1e-5)
    assert len(layer.trainable_variables) == 81


@pytest.mark.usefixtures("quick_save")
class TestMirror:
    @pytest.fixture(params=first_fast(["folder", "url"]))
    def mirror(
        self,
        request: pytest.FixtureRequest,
        world: Hosts,
        archived: Callable[..., bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[..., None]:
        """`mirror(kind, body)`: puts an archive into a mirror, V1's module if none is given."""
        root = tmp_path / "mirror"
        root.mkdir()
        url = f"{world.url}/mirror"
        monkeypatch.setenv("MOBILENETS_MIRROR", url if request.param == "url" else str(root))

        def mirror(kind: str, body: bytes | None = None) -> None:
            body = body or archived(V1, kind)
            file = root / V1 / kind / "1.tar.gz"
            file.parent.mkdir(parents=True)
            file.write_bytes(body)
            index = index_of({f"{V1}/{kind}/1.tar.gz": body})
            (root / "index.json").write_text(index)
            world.answers[f"{url}/{V1}/{kind}/1.tar.gz"] = body
            world.answers[f"{url}/index.json"] = index.encode()

        return mirror

    @pytest.mark.parametrize("kind", published.KINDS)
    def test_it_comes_first(
        self, mirror: Callable[..., None], world: Hosts, models: dict[str, MobileNet], kind: str
    ) -> None:
        mirror(kind)
        assert_same(mobilenets.load(f"{V1}/{kind}"), models[V1])
        folder = mobilenets.module(f"{V1}/{kind}")
        assert_same(mobilenets.load(folder), models[V1])
        assert Path(folder).is_relative_to(fetching.cache())
        assert all("/mirror/" in url for url in world.asked)

    def test_what_it_lacks_comes_from_elsewhere(
        self, mirror: Callable[..., None], world: Hosts, models: dict[str, MobileNet]
    ) -> None:
        mirror("feature_vector")
        assert mobilenets.load(V1).num_classes == 1001
        assert_same(mobilenets.load(mobilenets.module(f"{V1}/classification")), models[V1])

    @pytest.mark.parametrize("wrong", ["variant", "kind", "no module"])
    def test_a_module_is_what_it_is_called(
        self,
        mirror: Callable[..., None],
        models: dict[str, MobileNet],
        archive: Callable[..., bytes],
        archived: Callable[..., bytes],
        monkeypatch: pytest.MonkeyPatch,
        wrong: str,
    ) -> None:
        made: list[MobileNet] = []
        monkeypatch.setattr(saved_model, "save", lambda model, folder: made.append(model))
        body = {
            "variant": lambda: archived(V1_AT_160, "feature_vector"),
            "kind": lambda: archived(V1, "classification"),
            "no module": lambda: archive(V1),
        }[wrong]()
        mirror("feature_vector", body)
        folder = mobilenets.module(V1)
        # Not the mirror's.
        assert not Path(folder).exists()
        (own,) = made
        assert own.num_classes is None
        assert_same(own, models[V1])
