"""LiteRT models of float modules: in XNNPACK, and close to what they are made of."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import mobilenets
from convert import lite, lite_float
from convert.__main__ import main
from convert.errors import ConvertError
from convert.lite_float import PRECISIONS, export, float_model
from convert.lite_run import LiteModel, probabilities
from mobilenets import MobileNet, Variant

SIZE = 64
NETWORKS = {
    "V1": (Variant("mobilenet_v1", 0.25, SIZE), None),
    "V1 classes": (Variant("mobilenet_v1", 0.25, SIZE), 5),
    "V2": (Variant("mobilenet_v2", 0.35, SIZE), None),
    "V2 classes": (Variant("mobilenet_v2", 0.35, SIZE), 5),
}

V1 = [f"checkpoints/mobilenet_v1_0.25_{size}" for size in (128, 160, 192, 224)]
OF_2018 = "checkpoints_2018/mobilenet_v1_0.25_224"
V2 = "hub_tf1/mobilenet_v2_035_128_feature_vector_2"
GOLDEN = {
    **{name: f"{name.split('/')[1]}.npz" for name in V1},
    OF_2018: "mobilenet_v1_0.25_224_2018.npz",
    V2: "hub_mobilenet_v2_035_128_feature_vector_2.npz",
}


@pytest.fixture(scope="module")
def patterns():
    """Smooth images, as photographs are: `patterns(number)`."""

    def patterns(number, size=SIZE):
        random = np.random.default_rng(number)
        rows, columns = np.meshgrid(*2 * [np.linspace(0, 1, size)], indexing="ij")
        waves = 0
        for _ in range(6):
            low, high, phase = random.uniform(-9, 9, (3, number, 1, 1, 3))
            waves = waves + np.sin(low * rows[..., None] + high * columns[..., None] + phase)
        return ((waves + 6) / 12).astype(np.float32)

    return patterns


@pytest.fixture(scope="module")
def network(randomise, patterns):
    """A network by its name in NETWORKS, its moving statistics those of the patterns."""
    made = {}

    def network(name):
        if name not in made:
            variant, classes = NETWORKS[name]
            model = randomise(MobileNet(variant, classes, dropout_rate=0), seed=3)
            model(patterns(32), training=True, batch_norm_momentum=0.0)
            made[name] = model
        return made[name]

    return network


@pytest.fixture(scope="module")
def made(network, patterns):
    """The LiteRT model of a network at a precision."""
    models = {}

    def made(name, precision):
        if (name, precision) not in models:
            images = patterns(8) if precision == "int8" else None
            models[name, precision] = float_model(network(name), precision, images=images)
        return models[name, precision]

    return made


def outputs(content, images):
    model = LiteModel(content)
    return np.stack([model.run(image)[0] for image in images])


def cosines(ours, theirs):
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(1) / lengths


def ends(content):
    interpreter = Interpreter(model_content=content)
    return *interpreter.get_input_details(), *interpreter.get_output_details()


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_the_module(name, network, made, patterns):
    images = patterns(4)
    wanted = network(name)(images).numpy()
    found = outputs(made(name, "float32"), images)
    if "classes" in name:
        found, wanted = probabilities(found), probabilities(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_xnnpack_computes_all_of_it(name, precision, made):
    assert LiteModel(made(name, precision)).in_xnnpack


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["V1 classes", "V2 classes"])
def test_what_goes_in_and_comes_out(name, precision, made):
    first, last = ends(made(name, precision))
    assert (first["dtype"], list(first["shape"])) == (np.float32, [1, SIZE, SIZE, 3])
    assert (last["dtype"], list(last["shape"])) == (np.float32, [1, 5])
    assert "images" in first["name"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convolutions_stay_convolutions(precision, made):
    """Accelerators take convolutions; batch norms are in them."""
    interpreter = Interpreter(
        model_content=made("V2 classes", precision),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    kinds = Counter(operator["op_name"] for operator in interpreter._get_ops_details())
    assert (kinds["CONV_2D"], kinds["DEPTHWISE_CONV_2D"], kinds["FULLY_CONNECTED"]) == (35, 17, 1)
    assert kinds["ADD"] == 10
    assert not {"BATCH_MATMUL", "PAD", "TRANSPOSE"} & set(kinds)


@pytest.mark.parametrize(
    ("precision", "least"), [("float16", 0.9999), ("dynamic", 0.998), ("int8", 0.99)]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_lower_precisions_are_close(name, precision, least, network, made, patterns):
    images = patterns(12)
    found = outputs(made(name, precision), images)
    assert cosines(found, network(name)(images).numpy()).min() > least


@pytest.mark.parametrize("precision", ["dynamic", "int8"])
@pytest.mark.parametrize("name", ["V1", "V2"])
def test_corrected_biases_make_it_closer(name, precision, network, made, patterns, monkeypatch):
    images = patterns(12)
    wanted = network(name)(images).numpy()
    corrected = cosines(outputs(made(name, precision), images), wanted)
    monkeypatch.setattr(lite_float._Convolution, "shift_bias", lambda *_: None)
    plain = float_model(network(name), precision, images=patterns(8))
    assert 1 - corrected.mean() < 0.7 * (1 - cosines(outputs(plain, images), wanted).mean())


def test_sizes(made):
    sizes = {precision: len(made("V1", precision)) for precision in PRECISIONS}
    exact = sizes["float32"]
    assert 4 * 213_600 < exact < 4 * 230_000
    assert sizes["float16"] < 0.57 * exact
    assert sizes["dynamic"] < 0.40 * exact
    assert sizes["int8"] < 0.40 * exact


def test_the_mean_of_a_clipped_normal():
    random = np.random.default_rng(0)
    mean, deviation = (
        np.array([-3, -0.4, 0, 2.5, 5.8, 9, 4, 7]),
        np.array([1, 1, 2, 0.3, 2, 1, 0, 0]),
    )
    samples = np.clip(random.normal(mean, deviation, (200_000, 8)), 0, 6).mean(0)
    np.testing.assert_allclose(lite_float._relu6_mean(mean, deviation), samples, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["V1", "V2"])
def test_the_expected_inputs_are_those_of_the_training_images(name, network, patterns):
    """Of a network whose batch norms know its images."""
    model = network(name)
    endpoints = model(patterns(32), return_endpoints=True)
    features = np.mean(endpoints["default"], axis=0)
    blocks = [key for key in endpoints if key.endswith(("Conv2d_3_pointwise", "layer_5"))]
    expected = lite_float._expected_inputs(model)
    assert [len(mean) for mean in expected] == [
        convolution.kernel.shape[2] for convolution in model.convolutions
    ]
    after = {"V1": 7, "V2": 11}[name]
    found = np.mean(endpoints[blocks[0]], axis=(0, 1, 2))
    assert np.corrcoef(expected[after], found)[0, 1] > 0.95
    assert features.shape == (model.num_features,)


@pytest.mark.parametrize("interface", ["uint8", "int8"])
def test_pixels_in_and_integers_out(interface, network, made, patterns):
    model = network("V1 classes")
    content = float_model(model, "int8", images=patterns(8), interface=interface)
    first, last = ends(content)
    assert first["dtype"] == last["dtype"] == np.dtype(interface).type
    scale, zero_point = first["quantization"]
    assert scale == pytest.approx(1 / 255, rel=1e-6)
    assert zero_point == np.iinfo(interface).min
    assert LiteModel(content).in_xnnpack
    images = np.round(patterns(6) * 255) / np.float32(255)
    np.testing.assert_allclose(
        outputs(content, images),
        outputs(made("V1 classes", "int8"), images),
        rtol=0,
        atol=2 * last["quantization"][0],
    )


@pytest.mark.parametrize("size", [33, 96])
def test_other_image_sizes(size, network, patterns):
    model = network("V2")
    images = patterns(2, size)
    content = float_model(model, image_size=size)
    assert list(ends(content)[0]["shape"]) == [1, size, size, 3]
    np.testing.assert_allclose(outputs(content, images), model(images), rtol=0, atol=1e-5)


def test_equal_biases_are_not_mixed_up(patterns):
    """A new network's biases are all zero, and the converter keeps equal constants once."""
    model = MobileNet(Variant("mobilenet_v1", 0.25, 32))
    for precision in ("float16", "int8"):
        images = patterns(4, 32)
        content = float_model(model, precision, images=images)
        graph, exact = (lite_float._Graph(each) for each in (content, float_model(model)))
        biases = [convolution.operator.inputs[2] for convolution in graph.convolutions]
        assert len({graph.graph.tensors[bias].buffer for bias in biases}) == 27
        assert len(exact.convolutions) == 27
        assert cosines(outputs(content, images), model(images).numpy()).min() > 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "refuses to guess"),
        ({"precision": "int8", "images": np.zeros((0, SIZE, SIZE, 3))}, "refuses to guess"),
        ({"precision": "int8", "images": np.zeros((1, 32, 32, 3))}, r"must be \[number, 64, 64, 3"),
        ({"precision": "uint8"}, "precision must be one of float32, float16"),
        ({"precision": "int8", "interface": "int16"}, "interface must be one of float32, uint8"),
        ({"interface": "uint8"}, "uint8 in and out is for --precision int8, not for float32"),
        ({"image_size": 16}, "32 pixels or more; got 16"),
    ],
    ids=["no images", "none in it", "other size", "precision", "interface", "float", "small"],
)
def test_mistakes(arguments, message, network):
    with pytest.raises(ConvertError, match=message) as error:
        float_model(network("V1"), **arguments)
    assert "\n" not in str(error.value)


def test_a_quantops_model_is_not_one():
    with pytest.raises(ConvertError, match="mobilenet_v1_025_64/quantops is not a float module"):
        float_model(MobileNet(Variant("mobilenet_v1", 0.25, 64, quantized=True)))


@pytest.fixture
def photos(patterns, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(patterns(3)):
        pixels = tf.constant(np.round(image * 255).astype(np.uint8))
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return sorted(folder.iterdir())


class TestExport:
    def test_labels_lie_beside(self, tmp_path):
        names = ("background", "Käfer", "ant")
        model = MobileNet(Variant("mobilenet_v1", 0.25, 32), class_names=names)
        done = export(model, tmp_path / "new" / "m.tflite")
        assert done.labels == str(tmp_path / "new" / "m.tflite.labels.txt")
        with open(done.labels, encoding="utf-8") as file:
            assert file.read() == "background\nKäfer\nant\n"
        assert done.bytes == (tmp_path / "new" / "m.tflite").stat().st_size
        assert (done.calibrated, done.comparison, done.interface) == (0, None, "float32")

    def test_of_quantops_too(self, tmp_path):
        model = MobileNet(
            Variant("mobilenet_v1", 0.25, 32, quantized=True), class_names=("ant", "bee")
        )
        done = lite.export(model, tmp_path / "m.tflite")
        with open(done.labels, encoding="utf-8") as file:
            assert file.read() == "ant\nbee\n"

    def test_a_module_from_its_folder(self, module, photos, tmp_path):
        done = export(module("mobilenet_v1", 5), tmp_path / "m.tflite", compared=photos)
        assert done.labels is None
        assert done.comparison is not None
        assert (done.comparison.images, done.comparison.top1) == (3, 1.0)
        assert done.comparison.difference < 1e-5
        assert done.comparison.in_xnnpack

    def test_it_says_how_many_images_it_calibrated_on(self, module, photos, tmp_path, monkeypatch):
        monkeypatch.setattr(lite_float, "_MOST_IMAGES", 2)
        done = export(module("mobilenet_v1"), tmp_path / "m.tflite", "int8", images=photos)
        assert done.calibrated == 2

    def test_images_that_cannot_be_read_are_named(self, module, photos, tmp_path):
        photos[1].write_bytes(b"no image")
        with pytest.raises(ConvertError, match=r"cannot load 1 of 3 images: '.*1\.png'") as error:
            export(module("mobilenet_v1"), tmp_path / "m.tflite", "int8", images=photos)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "m.tflite").exists()

    def test_another_function_is_not_written(self, module, tmp_path, monkeypatch):
        other = MobileNet(Variant("mobilenet_v1", 0.25, SIZE))
        content = float_model(other)
        monkeypatch.setattr(lite_float, "float_model", lambda *_, **__: content)
        with pytest.raises(ConvertError, match="does not compute what mobilenet_v1_025_64 does"):
            export(module("mobilenet_v1"), tmp_path / "m.tflite")
        assert not any(tmp_path.iterdir())


class TestCommandLine:
    @pytest.fixture
    def run(self, capsys):
        """Runs `convert lite`; returns its exit code, standard output and standard error."""

        def run(*arguments):
            code = main(["lite", *map(str, arguments)])
            return code, *capsys.readouterr()

        return run

    def test_a_table(self, run, module, tmp_path):
        code, out, _ = run(module("mobilenet_v1", 5), "--output", tmp_path / "m.tflite")
        assert code == 0
        assert "float32 64 px" in out
        assert "cosine" not in out

    def test_a_report(self, run, module, photos, tmp_path):
        code, out, _ = run(
            *(module("mobilenet_v1", 5), "--output", tmp_path / "m.tflite"),
            *("--precision", "int8", "--input-output", "uint8", "--image-size", 96),
            *("--images", photos[0].parent, "--report"),
        )
        assert code == 0
        assert "uint8 96 px" in out
        assert "Compared with" in out
        assert "on 3 images" in out
        assert f"are from 3 images in {photos[0].parent}, the same ones." in out

    def test_json(self, run, module, photos, tmp_path):
        code, out, _ = run(
            *(module("mobilenet_v1", 5), "--output", tmp_path / "m.tflite", "--json"),
            *("--precision", "float16", "--report", photos[0].parent),
        )
        found = json.loads(out)
        assert code == 0
        assert (found["precision"], found["image_size"], found["labels"]) == ("float16", 64, None)
        assert found["comparison"]["images"] == 3
        assert found["comparison"]["in_xnnpack"] is True

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--precision", "uint8"), "is a float module: uint8 models are made of quantops"),
            (("--precision", "int8"), "refuses to guess"),
            (("--precision", "int8", "--images", "{tmp}/no"), "/no: no such folder"),
            (("--precision", "int8", "--images", "{tmp}/none"), "/none: no .bmp, .gif, .jpeg"),
            (("--precision", "int8", "--images", "{tmp}/bad"), "cannot load 1 of 1 images: "),
            (("--report",), "--report needs images to compare on"),
            (("--report", "{tmp}/bad"), "cannot load 1 of 1 images: "),
            (
                ("--input-output", "int8"),
                "int8 in and out is for --precision int8, not for float32",
            ),
            (("--image-size", "16"), "32 pixels or more"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_mistakes(self, run, module, tmp_path, arguments, message):
        (tmp_path / "none").mkdir()
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "photo.jpg").write_text("no photograph")
        file = tmp_path / "out" / "m.tflite"
        given = [argument.format(tmp=tmp_path) for argument in arguments]
        code, _, err = run(module("mobilenet_v1", 5), "--output", file, *given)
        assert code == 2
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
        assert not file.parent.exists()

    def test_no_module(self, run, tmp_path):
        code, _, err = run(tmp_path / "absent", "--output", tmp_path / "m.tflite")
        assert (code, err.count("\n")) == (2, 1)
        assert "no folder" in err

    @pytest.mark.parametrize(
        "arguments", [("--precision", "int8"), ("--input-output", "float")], ids=" ".join
    )
    def test_quantops_are_uint8(self, run, tmp_path, arguments):
        model = MobileNet(Variant("mobilenet_v1", 0.25, 32, quantized=True))
        mobilenets.save(model, tmp_path / "module")
        code, _, err = run(tmp_path / "module", "--output", tmp_path / "m.tflite", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert "its LiteRT model is uint8 throughout" in err
        assert not (tmp_path / "m.tflite").exists()


class TestReal:
    """The published weights, on photographs."""

    @pytest.fixture(scope="class")
    def loaded(self, reference_data):
        """Model and photographs by the checkpoint's path."""
        models = {}

        def loaded(name):
            if name not in models:
                photos = np.load(reference_data / "golden" / GOLDEN[name])["images"]
                models[name] = (
                    mobilenets.load(reference_data / name),
                    photos / np.float32(255),
                )
            return models[name]

        return loaded

    @pytest.mark.parametrize("name", [*V1, OF_2018])
    def test_float32(self, name, loaded):
        model, photos = loaded(name)
        found = probabilities(outputs(float_model(model), photos))
        assert len(photos) == 8
        np.testing.assert_allclose(found, probabilities(model(photos).numpy()), rtol=0, atol=1e-5)

    def test_googles_own(self, loaded, reference_data):
        model, photos = loaded(OF_2018)
        (googles,) = (reference_data / OF_2018).glob("*.tflite")
        ours = probabilities(outputs(float_model(model), photos))
        # Google's starts at the normalized image and ends in a softmax.
        theirs = outputs(googles.read_bytes(), 2 * photos - 1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("precision", ["float16", "dynamic"])
    @pytest.mark.parametrize("name", [*V1, OF_2018])
    def test_the_same_classes(self, name, precision, loaded):
        model, photos = loaded(name)
        found = outputs(float_model(model, precision), photos)
        np.testing.assert_array_equal(found.argmax(1), model(photos).numpy().argmax(1))

    @pytest.mark.parametrize("held_out", [0, 1], ids=["even", "odd"])
    @pytest.mark.parametrize("name", GOLDEN)
    def test_int8_on_photographs_held_out(self, name, held_out, loaded):
        full, photos = loaded(name)
        model = full.with_classes()
        content = float_model(model, "int8", images=photos[1 - held_out :: 2])
        held = photos[held_out::2]
        assert cosines(outputs(content, held), model(held).numpy()).min() >= 0.98
