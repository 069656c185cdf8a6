"""`mobilenets.load` from everything that it takes: folders, archives, URLs, Slim checkpoints."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from closeness import assert_equal_values, values_of
from refusals import one_line
from tiers import first_fast, slow

import mobilenets
from convert.export import bundle
from mobilenets import MobileNet, Variant
from mobilenets.weights import WeightsError

V1, V2 = "mobilenet_v1", "mobilenet_v2"
NAMES = {V1: "mobilenet_v1_0.25_64", V2: "mobilenet_v2_0.35_64"}
AVERAGE = "ExponentialMovingAverage"
both_families = pytest.mark.parametrize("family", NAMES)


def packed(archive: Path, folder: Path, within: str = ".") -> Path:
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, arcname=within)
    return archive


@pytest.fixture(scope="session")
def slim(
    tmp_path_factory: pytest.TempPathFactory, randomise: Callable
) -> Callable[..., tuple[Path, dict[str, np.ndarray]]]:
    """`slim(family, num_classes=None)`: a checkpoint's prefix and what is in it. Not changed."""
    written: dict[tuple[str, int | None], tuple[Path, dict[str, np.ndarray]]] = {}

    def slim(family: str, num_classes: int | None = None) -> tuple[Path, dict[str, np.ndarray]]:
        key = family, num_classes
        if key not in written:
            variables = values_of(randomise(MobileNet(NAMES[family], num_classes)))
            prefix = tmp_path_factory.mktemp("slim") / f"{NAMES[family]}.ckpt"
            leftovers = {"global_step": np.int64(3)}
            bundle.write(prefix, variables | leftovers)
            written[key] = prefix, variables
        return written[key]

    return slim


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str, list]]:
    """A folder, the URL it is served at, and what was asked for; an empty cache."""
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            requests.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("within", "suffix"),
    first_fast(
        [
            (".", "tar.gz"),
            ("feature_vector", "tgz"),
            ("a/b", "tar.gz"),
            (".", "tgz"),
            ("feature_vector", "tar.gz"),
            ("a/b", "tgz"),
        ],
        3,
    ),
)
def test_an_archive_of_a_module(
    within: str, suffix: str, module: Callable[..., Path], tmp_path: Path
) -> None:
    archive = packed(tmp_path / f"module.{suffix}", module(V1), within)
    model = mobilenets.load(archive, batch_norm_momentum=0.9)
    assert model.batch_norm_momentum == 0.9
    assert_equal_values(model, values_of(mobilenets.load(module(V1))))


def test_a_url_is_fetched_once(
    served: tuple[Path, str, list], module: Callable[..., Path], random_images: Callable
) -> None:
    folder, url, requests = served
    packed(folder / "module.tar.gz", module(V1))
    model = mobilenets.load(f"{url}/module.tar.gz")
    assert_equal_values(model, values_of(mobilenets.load(module(V1))))
    assert len(requests) == 1
    shutil.rmtree(folder)
    again = mobilenets.load(f"{url}/module.tar.gz", trainable=False)
    assert again.trainable_variables == []
    assert_equal_values(again, values_of(model))
    assert len(requests) == 1


def test_a_url_of_a_checkpoint(
    served: tuple[Path, str, list], slim: Callable[..., tuple[Path, dict]]
) -> None:
    """The published archives: the cache's folder says nothing of the variant, the URL does."""
    folder, url, _ = served
    prefix, variables = slim(V2, 5)
    for path in prefix.parent.iterdir():
        anonymous = path.name.replace(prefix.name, "model.ckpt")
        shutil.copy(path, folder / anonymous)
    packed(folder.parent / "packed.tgz", folder)
    shutil.move(folder.parent / "packed.tgz", folder / "mobilenet_v2_0.35_64.tgz")
    model = mobilenets.load(f"{url}/mobilenet_v2_0.35_64.tgz")
    assert model.variant == Variant(V2, 0.35, 64)
    assert_equal_values(model, variables)


def test_a_url_that_fails_is_said_in_one_line(served: tuple[Path, str, list]) -> None:
    folder, url, _ = served
    with pytest.raises(OSError, match=one_line(f"cannot download {url}/absent.tar.gz: .*404")):
        mobilenets.load(f"{url}/absent.tar.gz")
    (folder / "page.tar.gz").write_text("<html>")
    with pytest.raises(OSError, match=one_line(f"{url}/page.tar.gz: the answer is no such file")):
        mobilenets.load(f"{url}/page.tar.gz")


@pytest.mark.parametrize(
    ("family", "form"),
    first_fast(
        [
            (V2, "prefix"),
            *((V1, form) for form in ("prefix", "index", "folder", "tgz")),
            *((V2, form) for form in ("index", "folder", "tgz")),
        ],
        5,
    ),
)
def test_a_checkpoint(
    family: str, form: str, slim: Callable[..., tuple[Path, dict]], tmp_path: Path
) -> None:
    prefix, variables = slim(family, 5)
    source = {
        "prefix": prefix,
        "index": Path(f"{prefix}.index"),
        "folder": prefix.parent,
        "tgz": packed(tmp_path / "model.tgz", prefix.parent),
    }[form]
    model = mobilenets.load(source, batch_norm_momentum=0.9)
    assert model.variant == Variant.parse(NAMES[family])
    assert (model.num_classes, model.class_names) == (5, None)
    assert model.batch_norm_momentum == 0.9
    assert model.trainable_variables
    assert_equal_values(model, variables)


def test_a_checkpoint_can_be_frozen(slim: Callable[..., tuple[Path, dict]]) -> None:
    model = mobilenets.load(str(slim(V1)[0]), trainable=False)
    assert model.num_classes is None
    assert model.trainable_variables == []


def test_imagenets_classes_have_names(tmp_path: Path, randomise: Callable) -> None:
    variables = values_of(randomise(MobileNet(NAMES[V1], 1001)))
    bundle.write(tmp_path / f"{NAMES[V1]}.ckpt", variables)
    model = mobilenets.load(tmp_path)
    assert model.class_names == mobilenets.images.class_names()


def test_the_variant_can_be_said(slim: Callable[..., tuple[Path, dict]], tmp_path: Path) -> None:
    prefix, variables = slim(V1)
    for path in prefix.parent.iterdir():
        shutil.copy(path, tmp_path / path.name.replace(prefix.name, "model.ckpt-7"))
    # Nothing tells the image size, and any works.
    assert mobilenets.load(tmp_path).variant == Variant(V1, 0.25, 224)
    model = mobilenets.load(tmp_path, variant="mobilenet_v1_025_96")
    assert model.variant == Variant(V1, 0.25, 96)
    assert_equal_values(model, variables)
    with pytest.raises(WeightsError, match=one_line("is not mobilenet_v1_050_96: ")):
        mobilenets.load(tmp_path, variant="mobilenet_v1_050_96")


def test_a_modules_variant_cannot_be_changed(module: Callable[..., Path]) -> None:
    assert mobilenets.load(module(V1), variant="mobilenet_v1_025_64").variant.image_size == 64
    with pytest.raises(ValueError, match=one_line("is mobilenet_v1_025_64, not mobilenet_v2")):
        mobilenets.load(module(V1), variant="mobilenet_v2_035_96")


@pytest.mark.parametrize(("family", "averaged"), [(V1, False), (V2, True)])
def test_averages_count_for_v2(
    family: str, averaged: bool, slim: Callable[..., tuple[Path, dict]], tmp_path: Path
) -> None:
    _, variables = slim(family)
    shadows = {f"{name}/{AVERAGE}": value + 1 for name, value in variables.items()}
    bundle.write(tmp_path / f"{NAMES[family]}.ckpt", variables | shadows)
    expected = {name: value + 1 for name, value in variables.items()} if averaged else variables
    assert_equal_values(mobilenets.load(tmp_path), expected)


@both_families
def test_every_offender_is_listed(
    family: str, slim: Callable[..., tuple[Path, dict]], tmp_path: Path
) -> None:
    _, variables = slim(family, 5)
    names = list(variables)
    gone, changed, scope = names[7], names[11], names[0].partition("/")[0]
    odd = {
        **{name: value for name, value in variables.items() if name != gone},
        changed: variables[changed][..., :-1],
        f"{scope}/Conv2d_99/weights": np.zeros((1, 2), np.float32),
        "stranger": np.zeros(3, np.float32),
    }
    bundle.write(tmp_path / f"{NAMES[family]}.ckpt", odd)
    with pytest.raises(WeightsError) as caught:
        mobilenets.load(tmp_path)
    _, *offenders = str(caught.value).splitlines()
    shape = [*variables[changed].shape]
    assert sorted(offenders) == sorted(
        [
            f"  {gone}: missing, expected {list(variables[gone].shape)}",
            f"  {changed}: expected {shape}, found {[*shape[:-1], shape[-1] - 1]}",
            f"  {scope}/Conv2d_99/weights: left over, found [1, 2]",
            "  stranger: left over, found [3]",
        ]
    )


def test_a_folder_of_modules_names_them(module: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("feature_vector", "classification"):
        shutil.copytree(module(V1), tmp_path / name)
    with pytest.raises(ValueError, match=one_line("name classification or feature_vector in it")):
        mobilenets.load(tmp_path)


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    for absent in ("absent", "absent.tar.gz", "absent.ckpt"):
        with pytest.raises(FileNotFoundError, match=one_line(re.escape(f"/{absent}: "))):
            mobilenets.load(tmp_path / absent)
    broken = tmp_path / "broken.tgz"
    broken.write_bytes(os.urandom(100))
    with pytest.raises(ValueError, match=one_line(r"broken\.tgz cannot be unpacked")):
        mobilenets.load(broken)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=one_line(r"holds no checkpoint.*hub\.KerasLayer")):
        mobilenets.load(tmp_path / "empty")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(WeightsError, match=one_line(r"note\.txt is not a checkpoint")):
        mobilenets.load(tmp_path / "note.txt")


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_no_folder(
    source: str, module: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the working directory's weights either."""
    monkeypatch.chdir(module("mobilenet_v1"))
    with pytest.raises(FileNotFoundError, match="the source is empty"):
        mobilenets.load(source)
    with pytest.raises(FileNotFoundError, match=f"^'{source}' is neither"):
        mobilenets.module(source)


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "evil.txt").write_text("evil")
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as tar:
        tar.add(tmp_path / "evil.txt", arcname="../../escaped.txt")
    with pytest.raises(ValueError, match=one_line(r"evil\.tgz: refused, since .* leads outside")):
        mobilenets.load(tmp_path / "evil.tgz")


def test_a_truncated_archive(module: Callable[..., Path], tmp_path: Path) -> None:
    archive = packed(tmp_path / "module.tgz", module(V1))
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=one_line(r"module\.tgz cannot be unpacked")):
        mobilenets.load(archive)


def test_the_archives_folder_does_not_stay(
    module: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path / "module.tgz", module(V1))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mobilenets.load(archive)
    assert os.listdir(tmp_path) == ["module.tgz"]


class TestWithClasses:
    @pytest.mark.parametrize("family", first_fast([V1, V2]))
    def test_features_stay_and_logits_are_new(
        self, family: str, slim: Callable[..., tuple[Path, dict]], random_images: Callable
    ) -> None:
        model = mobilenets.load(slim(family, 5)[0], batch_norm_momentum=0.9)
        images = random_images(2, 64)
        scope = model.name
        features = model(images, return_endpoints=True)[f"{scope}/global_pool"][:, 0, 0]
        bare = model.with_classes()
        assert bare.num_classes is None
        np.testing.assert_array_equal(bare(images), features)
        again = bare.with_classes(class_names=["a", "b", "c"])
        assert (again.num_classes, again.class_names) == (3, ("a", "b", "c"))
        assert (again.variant, again.batch_norm_momentum) == (model.variant, 0.9)
        np.testing.assert_array_equal(again(images), np.zeros((2, 3)))
        np.testing.assert_array_equal(
            again(images, return_endpoints=True)[f"{scope}/global_pool"][:, 0, 0], features
        )
        assert not np.any(model.with_classes(5).logits.kernel)

    def test_it_is_a_copy(self, slim: Callable[..., tuple[Path, dict]]) -> None:
        model = mobilenets.load(slim(V1)[0])
        for block in model.blocks[:4]:
            block.trainable = False
        copy = model.with_classes(2)
        assert len(copy.trainable_variables) == len(model.trainable_variables) + 2
        for variable in copy.variables:
            variable.assign(tf.zeros_like(variable))
        assert_equal_values(model, slim(V1)[1])

    def test_logits_of_a_frozen_models_copy_are_trained(
        self, slim: Callable[..., tuple[Path, dict]], random_images: Callable
    ) -> None:
        frozen = mobilenets.load(slim(V1)[0], trainable=False)
        model = frozen.with_classes(3)
        assert [variable.name for variable in model.trainable_variables] == ["weights", "biases"]
        before = values_of(model)
        # Tracing a graph would take longer than the step.
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(random_images(4, 32), np.ones((4, 3)), verbose=0)
        changed = [k for k, v in values_of(model).items() if not np.array_equal(v, before[k])]
        assert changed == [k for k in before if "/Logits/" in k]

    def test_a_frozen_models_copy_can_be_trained_wholly(
        self, slim: Callable[..., tuple[Path, dict]]
    ) -> None:
        """Though the copy itself was trainable all along."""
        model = mobilenets.load(slim(V1)[0], trainable=False).with_classes(3)
        model.trainable = True
        assert len(model.trainable_variables) == 83
        for convolution in model.convolutions:
            convolution.batch_norm.trainable = False
        assert len(model.trainable_variables) == 83 - 2 * 27
        model.trainable = True
        assert len(model.trainable_variables) == 83
        assert all(convolution.batch_norm.trainable for convolution in model.convolutions)


class TestReferenceData:
    @pytest.mark.parametrize(
        "source",
        [
            "checkpoints/mobilenet_v1_0.25_128",
            "checkpoints_2018/mobilenet_v1_0.25_224",
            "hub_tf1/mobilenet_v2_035_128_feature_vector_2",
            "slim_random/mobilenet_v2_0.35_96",
            slow("slim_random/mobilenet_v1_0.5_160"),
        ],
    )
    def test_golden_outputs(self, source: str, reference_data: Path) -> None:
        name = {
            "hub_tf1/mobilenet_v2_035_128_feature_vector_2": (
                "hub_mobilenet_v2_035_128_feature_vector_2"
            ),
            "checkpoints_2018/mobilenet_v1_0.25_224": "mobilenet_v1_0.25_224_2018",
        }.get(source, source.removeprefix("checkpoints/").replace("/", "_"))
        golden = np.load(reference_data / "golden" / f"{name}.npz")
        model = mobilenets.load(reference_data / source)
        images = golden["images"].astype(np.float32) / 255
        key, tolerance = ("feature_vector", 5e-5)
        if model.num_classes:
            key, tolerance = ("logits", 1e-4)
        expected = golden[key].reshape(len(images), -1)
        np.testing.assert_allclose(model(images), expected, rtol=0, atol=tolerance)
