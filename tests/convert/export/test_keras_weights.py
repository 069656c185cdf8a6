"""Weights files: `keras.applications` loads them, in both Kerases, and predicts the same."""

from __future__ import annotations

import functools
import json

import keras
import numpy as np
import pytest
import tf_keras
from applications import of_any_size
from tiers import first_fast

import mobilenets
from convert.errors import ConvertError
from convert.export import keras_weights, slim
from convert.export.keras_weights import export
from mobilenets import VARIANTS, MobileNet, Variant, images

KERASES = {"keras": keras, "tf_keras": tf_keras}
FORMATS = (".weights.h5", ".h5")
FLOAT = [variant for variant in VARIANTS if not variant.quantized]
SIZES = {
    network: [v.image_size for v in FLOAT if (v.family, v.depth_multiplier) == network]
    for network in dict.fromkeys((v.family, v.depth_multiplier) for v in FLOAT)
}
REAL = {
    **{
        f"mobilenet_v1_0.25_{size}": f"checkpoints/mobilenet_v1_0.25_{size}"
        for size in (128, 160, 192, 224)
    },
    "mobilenet_v1_0.25_224 of 2018": "checkpoints_2018/mobilenet_v1_0.25_224",
    "mobilenet_v2_0.35_128": "hub_tf1/mobilenet_v2_035_128_feature_vector_2",
}


def application(library, variant, file, **arguments):
    name = {"mobilenet_v1": "MobileNet", "mobilenet_v2": "MobileNetV2"}[variant.family]
    size = variant.image_size
    return getattr(library.applications, name)(
        input_shape=(size, size, 3), alpha=variant.depth_multiplier, weights=str(file), **arguments
    )


def probabilities(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def predicted(model, batch):
    return np.asarray(model(2 * batch - 1, training=False))


@pytest.fixture(scope="module")
def exported(randomise, tmp_path_factory):
    """Model and file by family and depth multiplier: the image size changes no weight."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def exported(family, multiplier):
        variant = Variant(family, multiplier, 224)
        model = randomise(MobileNet(variant, 1001), seed=int(100 * multiplier))
        file = folder / f"{variant}.weights.h5"
        assert export(model, file).classes == 1000
        return model, file

    return exported


@pytest.mark.parametrize(("family", "multiplier"), first_fast(sorted(SIZES)))
def test_every_variant_predicts_the_same_in_keras_3(family, multiplier, exported, random_images):
    """Loaded for the smallest size, then called with images of every size."""
    model, file = exported(family, multiplier)
    smallest, *_ = sizes = sorted(SIZES[family, multiplier])
    loaded = of_any_size(application(keras, Variant(family, multiplier, smallest), file))
    for size in sizes:
        batch = random_images(1, size)
        expected = model(batch).numpy()[:, 1:]
        found = predicted(loaded, batch)
        assert found.shape == (1, 1000)
        np.testing.assert_allclose(found, probabilities(expected), rtol=0, atol=1e-4)
        assert found.max() > 0.05


@pytest.mark.parametrize("suffix", first_fast(FORMATS))
@pytest.mark.parametrize("library", first_fast(KERASES))
@pytest.mark.parametrize("top", first_fast([True, False]), ids=["top", "no top"])
@pytest.mark.parametrize("family", first_fast(["mobilenet_v1", "mobilenet_v2"]))
def test_both_formats_load_in_both_kerases(
    family, top, library, suffix, randomise, random_images, tmp_path
):
    variant = Variant(family, 0.5, 96)
    model = randomise(MobileNet(variant, 7))
    batch = random_images(2, 96)
    done = export(model, tmp_path / f"weights{suffix}", top=top)
    assert done.classes == (7 if top else None)
    if top:
        loaded = application(
            KERASES[library], variant, done.path, classes=7, classifier_activation=None
        )
        expected = model(batch).numpy()
    else:
        loaded = application(KERASES[library], variant, done.path, include_top=False, pooling="avg")
        endpoints = model(batch, return_endpoints=True)
        expected = endpoints[f"{model.name}/global_pool"].numpy()[:, 0, 0]
    found = predicted(loaded, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints(name, reference_data, tmp_path):
    """Each format in one of the Kerases; each in each is tested above."""
    model = mobilenets.load(reference_data / REAL[name])
    variant = model.variant
    files = sorted((reference_data / "photos").iterdir())
    photos = [file for file in files if file.suffix in (".bmp", ".jpg")]
    assert len(photos) == 8
    batch = images.load_batch(photos, variant.image_size).numpy()
    for library, suffix in zip(KERASES.values(), FORMATS, strict=True):
        file = export(model, tmp_path / f"weights{suffix}").path
        if model.num_classes:
            found = predicted(application(library, variant, file), batch)
            expected = probabilities(model(batch).numpy()[:, 1:])
        else:
            loaded = application(library, variant, file, include_top=False, pooling="avg")
            found, expected = predicted(loaded, batch), model(batch).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("names", "classes"),
    [(None, 1000), (images.class_names(), 1000), (tuple(map(str, range(1001))), 1001)],
    ids=["unnamed", "ImageNet's", "others"],
)
def test_only_the_background_is_left_out(names, classes, tmp_path):
    model = MobileNet(Variant("mobilenet_v1", 0.25, 32), 1001, class_names=names)
    assert export(model, tmp_path / "w.h5").classes == classes


def test_the_call_loads_the_file(module, tmp_path):
    done = export(module("mobilenet_v1", 7), tmp_path / "w.weights.h5")
    model = eval(done.call, {"keras": keras})
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 7))
    assert "classes=7" in done.call
    assert "include_top=False" in export(module("mobilenet_v1"), tmp_path / "w.h5").call


@pytest.mark.parametrize(
    ("family", "size", "compared"),
    first_fast([("mobilenet_v1", 75, 64), ("mobilenet_v2", 75, 75), ("mobilenet_v1", 96, 96)]),
)
def test_the_call_gives_the_outputs_that_were_compared(
    family, size, compared, randomise, random_images, tmp_path, command
):
    model = randomise(MobileNet(Variant(family, 0.35, size), 5))
    done = export(model, tmp_path / "w.weights.h5", top=True)
    assert (done.image_size, done.compared_size) == (size, compared)
    theirs = eval(done.call.replace("weights=", "classifier_activation=None, weights="))
    batch = random_images(2, theirs.input_shape[1])
    expected = model(batch).numpy()
    assert np.abs(predicted(theirs, batch) - expected).max() < 1e-4 * np.abs(expected).max()
    mobilenets.save(model, tmp_path / "m")
    _, printed, _ = command("keras-weights", tmp_path / "m", "--output", tmp_path / "n.h5")
    other = f"Compared at {compared} pixels: at {size}, keras.applications.MobileNet pads otherwise"
    assert (other in printed) == (size != compared)


def test_an_existing_file_is_replaced(module, tmp_path):
    file = tmp_path / "w.h5"
    file.write_bytes(b"old")
    export(module("mobilenet_v1"), file)
    assert file.read_bytes().startswith(b"\x89HDF")
    assert [path.name for path in tmp_path.iterdir()] == ["w.h5"]


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (Variant("mobilenet_v1", 0.1, 64), "w.h5", "cannot be built with alpha=0.1"),
        (Variant("mobilenet_v1", 0.25, 64, quantized=True), "w.h5", "no simulated quantization"),
        (Variant("mobilenet_v1", 0.25, 64), "w.keras", "must end in .weights.h5 or .h5"),
        (Variant("mobilenet_v1", 0.25, 64), "a.h5/", "is a folder"),
        ("absent", "w.h5", "no file, folder or published variant"),
        ("{tmp}", "w.h5", "was not written by mobilenets.save"),
    ],
    ids=["alpha", "quantops", "name", "folder", "no module", "another folder"],
)
def test_mistakes(source, name, message, tmp_path):
    source = MobileNet(source) if isinstance(source, Variant) else source.format(tmp=tmp_path)
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConvertError, match=message) as error:
        export(source, tmp_path / name)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_predicts_otherwise_is_not_written(module, tmp_path, monkeypatch):
    def swapped(variant, values, classes):
        name = "MobilenetV1/Conv2d_0/BatchNorm/beta"
        return reference(variant, {**values, name: values[name] + 0.1}, classes)

    reference = keras_weights.applications.reference
    monkeypatch.setattr(keras_weights.applications, "reference", swapped)
    with pytest.raises(ConvertError, match="does not give the outputs of mobilenet_v1_025_64"):
        export(module("mobilenet_v1"), tmp_path / "w.h5")
    assert not any(tmp_path.iterdir())


class TestCommandLine:
    @pytest.fixture
    def run(self, command):
        return functools.partial(command, "keras-weights")

    def test_it_prints_the_call(self, run, module, tmp_path):
        code, out, _ = run(module("mobilenet_v1", 7), "--output", tmp_path / "w.weights.h5")
        assert code == 0
        assert "keras.applications.MobileNet(" in out
        assert (tmp_path / "w.weights.h5").is_file()

    def test_json(self, run, module, tmp_path):
        file = tmp_path / "w.h5"
        code, out, _ = run(module("mobilenet_v1", 7), "--output", file, "--no-top", "--json")
        found = json.loads(out)
        assert code == 0
        assert (found["file"], found["classes"]) == (str(file), None)
        assert "include_top=False" in found["call"]

    def test_an_alpha_that_keras_does_not_build(self, run, tmp_path):
        checkpoint = tmp_path / "mobilenet_v1_0.1_64.ckpt"
        slim.export(MobileNet(Variant("mobilenet_v1", 0.1, 64)), checkpoint)
        code, _, err = run(checkpoint, "--output", tmp_path / "out" / "w.h5")
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("error: ")
        assert "cannot be built with alpha=0.1" in err
        assert not (tmp_path / "out").exists()
