"""LiteRT models of float modules: in XNNPACK, and close to what they are made of."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from closeness import cosines
from tiers import first_fast, slow

import mobilenets
from convert.choices import FLOAT_PRECISIONS as PRECISIONS
from convert.errors import ConvertError
from convert.export import bias_correction, litert_float, litert_graph, litert_quantops, slim
from convert.export.litert_float import export, float_model
from convert.export.litert_run import LiteModel, compare, probabilities
from convert.export.litert_source import opened
from convert.verify import TOLERANCE
from mobilenets import MobileNet, Variant
from sample.digits import TRAINED, digits

SIZE = 64
SAMPLE = Path(__file__).parents[3] / "sample" / "mobilenet_v1_0.25_64.ckpt"
NETWORKS = ("V1", "V1 classes", "V2", "V2 classes")
networks = [slow("V1"), "V1 classes", slow("V2"), slow("V2 classes")]
# `int8` with every network is slow: each is made with bias correction.
all_precisions = pytest.mark.parametrize(
    "precision", ["float32", slow("float16"), "dynamic", slow("int8")]
)

V1 = [f"checkpoints/mobilenet_v1_0.25_{size}" for size in (128, 160, 192, 224)]
OF_2018 = "checkpoints_2018/mobilenet_v1_0.25_224"
V2 = "hub_tf1/mobilenet_v2_035_128_feature_vector_2"
GOLDEN = {
    **{name: f"{name.split('/')[1]}.npz" for name in V1},
    OF_2018: "mobilenet_v1_0.25_224_2018.npz",
    V2: "hub_mobilenet_v2_035_128_feature_vector_2.npz",
}


@pytest.fixture(scope="module")
def images():
    """Digits that the sample was trained on, to calibrate with, and others."""
    calibration, _, held_out, _ = digits(TRAINED)
    return calibration[:16], held_out[:16]


@pytest.fixture(scope="module")
def network(randomise):
    """A network by its name in NETWORKS: V1 the shipped sample, V2 random."""
    sample = mobilenets.load(SAMPLE)
    v2 = Variant("mobilenet_v2", 0.35, SIZE)
    made = {
        "V1": sample.with_classes(),
        "V1 classes": sample,
        "V2": randomise(MobileNet(v2), seed=3),
        "V2 classes": randomise(MobileNet(v2, 5), seed=3),
    }
    return made.__getitem__


@pytest.fixture(scope="module")
def made(network, images):
    """The LiteRT model of a network at a precision."""
    models = {}

    def made(name, precision):
        if (name, precision) not in models:
            models[name, precision] = float_model(network(name), precision, images=images[0])
        return models[name, precision]

    return made


def outputs(content, images):
    model = LiteModel(content)
    return np.stack([model.run(image)[0] for image in images])


def ends(content):
    interpreter = Interpreter(model_content=content)
    return *interpreter.get_input_details(), *interpreter.get_output_details()


@pytest.mark.parametrize("name", networks)
def test_float32_is_the_module(name, network, made, images):
    found = compare(made(name, "float32"), network(name), images[1])
    # Of probabilities, and of features, which go up to 6.
    assert found.difference <= (1e-5 if "classes" in name else 2 * TOLERANCE)
    assert found.cosine > 1 - 1e-9


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("V1 classes", "float32"),
        ("V1 classes", "dynamic"),
        slow("V2 classes", "float32"),
        slow("V2 classes", "dynamic"),
        *(
            slow(name, precision)
            for name in ("V1 classes", "V2 classes")
            for precision in ("float16", "int8")
        ),
    ],
)
def test_what_it_is(name, precision, network, made):
    content = made(name, precision)
    first, last = ends(content)
    assert (first["dtype"], list(first["shape"])) == (np.float32, [1, SIZE, SIZE, 3])
    assert (last["dtype"], list(last["shape"])) == (np.float32, [1, network(name).num_classes])
    assert "images" in first["name"]
    assert LiteModel(content).in_xnnpack


# V1's dynamic one is made above.
@pytest.mark.parametrize("precision", first_fast(PRECISIONS))
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


@all_precisions
@pytest.mark.parametrize("name", networks)
def test_other_batches(name, precision, made, images):
    content, pair = made(name, precision), images[1][:2]
    interpreter = Interpreter(model_content=content)
    (first,), (last,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(first["index"], pair.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(first["index"], pair)
    interpreter.invoke()
    expected = outputs(content, pair)
    np.testing.assert_allclose(
        interpreter.get_tensor(last["index"]), expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "least"),
    [slow("float16", 0.999999), slow("dynamic", 0.9999), ("int8", 0.999)],
)
def test_lower_precisions_are_close(precision, least, network, made, images):
    _, held_out = images
    for name in ("V1", "V1 classes"):
        found = compare(made(name, precision), network(name), held_out)
        assert found.cosine > least
    assert found.top1 == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", slow("dynamic")])
def test_corrected_biases_make_it_closer(precision, network, made, images, monkeypatch):
    calibration, held_out = images
    corrected = compare(made("V1", precision), network("V1"), held_out)
    monkeypatch.setattr(litert_graph.Convolution, "shift_bias", lambda *_: None)
    plain = float_model(network("V1"), precision, images=calibration)
    assert 1 - corrected.cosine < 0.7 * (1 - compare(plain, network("V1"), held_out).cosine)


@pytest.mark.slow
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
    np.testing.assert_allclose(
        bias_correction._relu6_mean(mean, deviation), samples, rtol=0, atol=0.02
    )


def test_the_expected_inputs_are_those_of_the_training_images(network):
    """The sample's batch norms know its digits."""
    model = network("V1")
    training, *_ = digits(TRAINED)
    endpoints = model(training[::10], return_endpoints=True)
    expected = bias_correction.expected_inputs(model)
    assert [len(mean) for mean in expected] == [
        convolution.kernel.shape[2] for convolution in model.convolutions
    ]
    for mean, name in ((expected[2], "Conv2d_1_depthwise"), (expected[7], "Conv2d_3_pointwise")):
        found = np.mean(endpoints[f"MobilenetV1/{name}"], axis=(0, 1, 2))
        # Grey digits are far from normally distributed.
        assert np.corrcoef(mean, found)[0, 1] > 0.7


@pytest.mark.parametrize("interface", first_fast(["uint8", "int8"]))
@pytest.mark.slow
def test_pixels_in_and_integers_out(interface, network, images):
    calibration, held_out = (0.8 * each + 0.1 for each in images)
    model = network("V1 classes")
    content, floats = (
        float_model(model, "int8", images=calibration, interface=each)
        for each in (interface, "float32")
    )
    first, last = ends(content)
    assert first["dtype"] == last["dtype"] == np.dtype(interface).type
    scale, zero_point = first["quantization"]
    assert scale == pytest.approx(1 / 255, rel=1e-6)
    assert zero_point == np.iinfo(interface).min
    # XNNPACK does not make int8 of uint8.
    assert LiteModel(content).in_xnnpack == (interface == "int8")
    pixels = np.round(held_out * 255) / np.float32(255)
    step = last["quantization"][0]
    np.testing.assert_allclose(
        outputs(content, pixels), outputs(floats, pixels), rtol=0, atol=2 * step
    )


@pytest.mark.parametrize("size", first_fast([33, 96]))
def test_other_image_sizes(size, network, random_images):
    images = random_images(2, size)
    content = float_model(network("V1"), image_size=size)
    assert list(ends(content)[0]["shape"]) == [1, size, size, 3]
    np.testing.assert_allclose(outputs(content, images), network("V1")(images), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_equal_biases_are_not_mixed_up(random_images):
    """A new network's biases are all zero, and the converter keeps equal constants once."""
    model = MobileNet(Variant("mobilenet_v1", 0.25, 32))
    content = float_model(model, "int8", images=random_images(4, 32))
    graph = litert_graph.LiteGraph(content)
    biases = [convolution.operator.inputs[2] for convolution in graph.convolutions]
    assert len(biases) == 27
    assert len({graph.graph.tensors[bias].buffer for bias in biases}) == 27


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"precision": "int8", "images": np.zeros((0, SIZE, SIZE, 3))},
            "needs images to calibrate",
        ),
        ({"precision": "int8", "images": np.zeros((1, 32, 32, 3))}, r"must be \[number, 64, 64, 3"),
        ({"precision": "uint8"}, "precision must be one of float32, float16"),
        ({"precision": "int8", "interface": "int16"}, "interface must be one of float32, uint8"),
    ],
    ids=["no images", "other size", "precision", "interface"],
)
def test_mistakes(arguments, message, network):
    with pytest.raises(ConvertError, match=message) as error:
        float_model(network("V1"), **arguments)
    assert "\n" not in str(error.value)


def test_a_quantops_model_is_not_one():
    with pytest.raises(ConvertError, match="mobilenet_v1_025_64/quantops is not a float module"):
        float_model(MobileNet(Variant("mobilenet_v1", 0.25, 64, quantized=True)))


@pytest.fixture(scope="module")
def classifier(network, tmp_path_factory, inference_alone):
    """A classifier by its world: the model, its brightest pixel, and where it is saved."""
    folder = tmp_path_factory.mktemp("classifiers")
    made = {}

    def classifier(world):
        if world in made:
            return made[world]
        kerases = tf_keras if world.startswith("tf_keras") else keras
        kerases.utils.set_random_seed(1)
        backbone = network("V1")
        if kerases is tf_keras:
            if not (folder / "module").exists():
                with inference_alone():
                    mobilenets.save(backbone, folder / "module")
            backbone = hub.KerasLayer(str(folder / "module"))
        layers = [
            kerases.layers.Input((SIZE, SIZE, 3)),
            *([kerases.layers.Rescaling(1 / 255)] if "pixels" in world else []),
            backbone,
            kerases.layers.Dense(20, activation="relu"),
            kerases.layers.BatchNormalization(),
            kerases.layers.Dense(5, activation="softmax"),
        ]
        model = kerases.Sequential(layers)
        model.save(folder / f"{world}.keras")
        paths = [folder / f"{world}.keras"]
        if kerases is tf_keras:
            model.save(folder / world)
        else:
            model.export(folder / world, verbose=False)
        made[world] = model, 255 if "pixels" in world else 1, [*paths, folder / world]
        return made[world]

    return classifier


class TestClassifiers:
    """Float models with layers after, and scaling before, the MobileNet."""

    @pytest.mark.slow
    @pytest.mark.parametrize("world", ["keras pixels", "tf_keras"])
    def test_float32(self, world, classifier, images):
        model, white, paths = classifier(world)
        expected = np.asarray(model(white * images[1]))
        assert expected.std() > 0.01
        for source in (model, *paths):
            found = outputs(float_model(source), white * images[1])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=str(source))

    @pytest.mark.slow
    @pytest.mark.parametrize("world", ["keras", "tf_keras pixels"])
    def test_every_precision(self, world, classifier, images):
        model, white, (path, *_) = classifier(world)
        expected = np.asarray(model(white * images[1]))
        inference = opened(path)
        contents = {each: float_model(inference, each, images=images[0]) for each in PRECISIONS}
        exact = contents.pop("float32")
        np.testing.assert_allclose(outputs(exact, white * images[1]), expected, rtol=0, atol=1e-5)
        for content in contents.values():
            assert cosines(outputs(content, white * images[1]), expected).min() > 0.99
            assert len(content) < 0.7 * len(exact)

    @pytest.mark.slow
    @pytest.mark.parametrize("world", ["keras pixels", "keras"])
    def test_pixels_in(self, world, classifier, images):
        model, white, (path, *_) = classifier(world)
        content = float_model(path, "int8", images=images[0], interface="uint8")
        first, _ = ends(content)
        assert first["quantization"] == (pytest.approx(white / 255, rel=1e-6), 0)
        pixels = np.round(images[1] * 255)
        scaled = pixels / np.float32(255)
        expected = np.asarray(model(white * scaled))
        found = np.stack([LiteModel(content).run(image)[0] for image in scaled])
        assert cosines(found, expected).min() > 0.99

    @pytest.mark.slow
    def test_command(self, classifier, images, photos, command, tmp_path):
        _, _, paths = classifier("keras")
        for path in paths:
            code, out, err = command(
                *("lite", path, "--output", tmp_path / "m.tflite", "--precision", "int8"),
                *("--images", photos[0].parent, "--report", "--json"),
            )
            found = json.loads(out)
            assert (code, err) == (0, "")
            assert (found["precision"], found["image_size"], found["calibrated"]) == ("int8", 64, 3)
            assert found["comparison"]["images"] == 3
            assert found["comparison"]["cosine"] > 0.9

    @pytest.mark.slow
    def test_a_scale_that_is_not_known(self, network, images):
        inputs = keras.Input((SIZE, SIZE, 3))
        model = keras.Model(inputs, network("V1")(inputs / 510 + 0.25))
        found = outputs(float_model(model), 255 * images[1])
        expected = np.asarray(model(255 * images[1]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        with pytest.raises(ConvertError, match="unsupported input scaling: expected"):
            float_model(model, "int8", images=images[0])


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    ("call", "lacking"),
    [
        (tf.math.erfinv, "Erfinv"),
        (lambda x: tf.ensure_shape(tf.py_function(tf.sqrt, [x], x.dtype), x.shape), "EagerPyFunc"),
        (lambda x: tf.strings.to_number(tf.strings.as_string(x)), "AsString, StringToNumber"),
    ],
    ids=["not built in", "Python", "strings"],
)
def test_operations_that_litert_lacks(call, lacking, precision, capfd):
    layers = [keras.layers.Rescaling(2, -1), keras.layers.Conv2D(2, 1)]
    layers += [keras.layers.Lambda(call, (8, 8, 2))]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    images = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(ConvertError, match=f"^LiteRT lacks operations of the model: .*{lacking}; "):
        float_model(model, precision, images=images)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def photos(random_images, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(random_images(3, 80)):
        pixels = tf.constant(np.round(image * 255).astype(np.uint8))
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return sorted(folder.iterdir())


class TestExport:
    @pytest.mark.slow
    def test_a_folder_is_the_same_as_its_model(self, network, made, images, quick_save, tmp_path):
        """With corrected biases and class names, that is: as a module, not as some SavedModel."""
        model = network("V1 classes")
        mobilenets.save(model, tmp_path / "module")
        content = float_model(tmp_path / "module", "int8", images=images[0])
        np.testing.assert_array_equal(
            outputs(content, images[1]), outputs(made("V1 classes", "int8"), images[1])
        )
        assert opened(str(tmp_path / "module")).class_names == model.class_names

    def test_labels_lie_beside(self, tmp_path):
        names = ("background", "Käfer", "ant")
        model = MobileNet(Variant("mobilenet_v1", 0.25, 32), class_names=names)
        done = export(model, tmp_path / "new" / "m.tflite")
        assert done.labels == str(tmp_path / "new" / "m.tflite.labels.txt")
        with open(done.labels, encoding="utf-8") as file:
            assert file.read() == "background\nKäfer\nant\n"
        again = export(MobileNet(model.variant, 3), tmp_path / "new" / "m.tflite")
        assert again.labels is None
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.tflite"]
        assert done.bytes == (tmp_path / "new" / "m.tflite").stat().st_size
        assert (done.calibrated, done.comparison, done.interface) == (0, None, "float32")

    @pytest.mark.slow
    def test_of_quantops_too(self, photos, tmp_path):
        model = MobileNet(
            Variant("mobilenet_v1", 0.25, 32, quantized=True), class_names=("ant", "bee")
        )
        done = litert_quantops.export(model, tmp_path / "m.tflite", compared=photos)
        with open(done.labels, encoding="utf-8") as file:
            assert file.read() == "ant\nbee\n"
        # Features that are all 0 in both are equal.
        assert (done.comparison.images, done.comparison.cosine) == (3, 1.0)

    @pytest.mark.slow
    def test_it_says_how_many_images_it_calibrated_on(self, module, photos, tmp_path, monkeypatch):
        monkeypatch.setattr(litert_float, "_MOST_IMAGES", 2)
        done = export(module("mobilenet_v1"), tmp_path / "m.tflite", "int8", images=photos)
        assert done.calibrated == 2


class TestCommandLine:
    @pytest.fixture
    def run(self, command):
        return functools.partial(command, "lite")

    def test_a_table(self, run, module, made, monkeypatch, tmp_path):
        content = made("V1 classes", "float32")
        monkeypatch.setattr(litert_float, "float_model", lambda *_, **__: content)
        code, out, _ = run(module("mobilenet_v1", 7), "--output", tmp_path / "m.tflite")
        assert code == 0
        assert "m.tflite" in out
        assert f"{len(content):,}" in out
        assert "float32 64 px" in out
        assert "cosine" not in out

    def test_a_report(self, run, module, photos, tmp_path):
        code, out, _ = run(
            *(module("mobilenet_v1", 7), "--output", tmp_path / "m.tflite"),
            *("--precision", "int8", "--input-output", "uint8", "--image-size", 96),
            *("--images", photos[0].parent, "--report"),
        )
        assert code == 0
        assert "uint8 96 px" in out
        assert "Compared with" in out
        assert "on 3 images" in out
        assert f"on 3 images in {photos[0].parent}, which are also compared." in out

    def test_json(self, run, module, photos, tmp_path):
        code, out, _ = run(
            *(module("mobilenet_v1", 7), "--output", tmp_path / "m.tflite", "--json"),
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
            (("--precision", "uint8"), "is a float module, and only quantops modules become uint8"),
            (("--precision", "int8"), "those that the model will see (--images DIR)"),
            (("--precision", "int8", "--images", "{tmp}/no"), "/no: no such folder (--images DIR)"),
            (("--precision", "int8", "--images", "{tmp}/none"), "/none: no .bmp, .gif, .jpeg"),
            (("--precision", "int8", "--images", "{tmp}/bad"), "cannot load 1 of 1 images: "),
            (("--report",), "--report needs images to compare on"),
            (("--report", "{tmp}/bad"), "cannot load 1 of 1 images: "),
            (
                ("--input-output", "int8"),
                "int8 input and output need precision int8, not float32 (--input-output)",
            ),
            (("--image-size", "0"), "32 pixels or more; got 0 (--image-size PIXELS)"),
            (
                ("--images", "{tmp}/bad"),
                "--images needs --precision int8 (to calibrate) or --report",
            ),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_mistakes(self, run, module, tmp_path, arguments, message):
        (tmp_path / "none").mkdir()
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "photo.jpg").write_text("no photograph")
        file = tmp_path / "out" / "m.tflite"
        given = [argument.format(tmp=tmp_path) for argument in arguments]
        code, _, err = run(module("mobilenet_v1", 7), "--output", file, *given)
        assert code == 2
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
        assert not file.parent.exists()

    def test_no_module(self, run, tmp_path):
        code, _, err = run(tmp_path / "absent", "--output", tmp_path / "m.tflite")
        assert (code, err.count("\n")) == (2, 1)
        assert "no such folder" in err

    @pytest.fixture(scope="class")
    @classmethod
    def quantops(cls, tmp_path_factory):
        model = MobileNet(Variant("mobilenet_v1", 0.25, 32, quantized=True))
        prefix = tmp_path_factory.mktemp("quantops") / "mobilenet_v1_0.25_32_quant.ckpt"
        slim.export(model, prefix)
        return prefix

    @pytest.mark.parametrize(
        "arguments", [("--precision", "int8"), ("--input-output", "float32")], ids=" ".join
    )
    def test_quantops_are_uint8(self, run, quantops, tmp_path, arguments):
        code, _, err = run(quantops, "--output", tmp_path / "out" / "m.tflite", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert f"its LiteRT model is uint8 throughout, not {arguments[1]}" in err
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_a_report_of_quantops(self, run, quantops, photos, tmp_path):
        code, out, _ = run(
            *(quantops, "--output", tmp_path / "m.tflite", "--report", photos[0].parent)
        )
        assert code == 0
        assert "uint8 32 px" in out
        assert "on 3 images" in out
        assert "cosine" in out


@pytest.mark.slow
class TestReal:
    """The published weights, on photographs."""

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, reference_data):
        """Model, opened, and photographs by the checkpoint's path."""
        models = {}

        def loaded(name):
            if name not in models:
                photos = np.load(reference_data / "golden" / GOLDEN[name])["images"]
                model = mobilenets.load(reference_data / name)
                models[name] = model, opened(model), photos / np.float32(255)
            return models[name]

        return loaded

    @pytest.mark.parametrize("name", [*V1, OF_2018])
    def test_float32(self, name, loaded):
        model, source, photos = loaded(name)
        found = probabilities(outputs(float_model(source), photos))
        assert len(photos) == 8
        np.testing.assert_allclose(found, probabilities(model(photos).numpy()), rtol=0, atol=1e-5)

    def test_googles_own(self, loaded, reference_data):
        _, source, photos = loaded(OF_2018)
        (googles,) = (reference_data / OF_2018).glob("*.tflite")
        ours = probabilities(outputs(float_model(source), photos))
        # Google's starts at the normalized image and ends in a softmax.
        theirs = outputs(googles.read_bytes(), 2 * photos - 1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("precision", ["float16", "dynamic"])
    @pytest.mark.parametrize("name", [*V1, OF_2018])
    def test_the_same_classes(self, name, precision, loaded):
        model, source, photos = loaded(name)
        found = outputs(float_model(source, precision), photos)
        np.testing.assert_array_equal(found.argmax(1), model(photos).numpy().argmax(1))

    def test_v2_rounded_as_it_goes(self, loaded):
        model, source, photos = loaded(V2)
        found = outputs(float_model(source, "dynamic"), photos)
        assert cosines(found, model(photos).numpy()).min() > 0.998

    @pytest.mark.parametrize(
        ("name", "held_out"),
        [*((name, turn % 2) for turn, name in enumerate(GOLDEN)), (V1[0], 1), (V2, 0)],
    )
    def test_int8_on_photographs_held_out(self, name, held_out, loaded):
        """Every second one; the others calibrate."""
        full, _, photos = loaded(name)
        model = full.with_classes()
        content = float_model(model, "int8", images=photos[1 - held_out :: 2])
        held = photos[held_out::2]
        assert cosines(outputs(content, held), model(held).numpy()).min() >= 0.98
