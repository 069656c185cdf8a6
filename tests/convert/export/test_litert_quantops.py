"""Integer models: equal to Google's where there are such, else close to what they are made of."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import rebuilt
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tiers import first_fast, slow

import mobilenets
from convert.__main__ import main
from convert.errors import ConvertError
from convert.export import litert_quantops
from convert.export.litert_float import float_model
from convert.export.litert_quantops import export, integer_model
from convert.export.litert_run import LiteModel
from convert.export.litert_source import opened
from mobilenets import MobileNet, Variant
from mobilenets.weights.bundle import Checkpoint
from sample.digits import KEPT, digits

VARIANT = Variant("mobilenet_v1", 0.25, 64, quantized=True)
SIZE = VARIANT.image_size
SAMPLE = Path(__file__).parents[3] / "sample" / "mobilenet_v1_0.25_64.ckpt"
GOOGLES = {
    "mobilenet_v1_0.25_128_quant": "logits",
    "mobilenet_v1_0.5_160_quant": "logits",
    "mobilenet_v1_0.75_192_quant": "logits",
    "mobilenet_v1_1.0_224_quant": "feature",
}
GOOGLES_V2 = "mobilenet_v2_1.0_224_quant"


class Running:
    """A LiteRT model in LiteRT's interpreter."""

    def __init__(
        self,
        model: bytes,
        kernels: OpResolverType = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        **arguments,
    ) -> None:
        self.interpreter = Interpreter(
            model_content=model, experimental_op_resolver_type=kernels, **arguments
        )
        self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        (self.output,) = self.interpreter.get_output_details()
        self.scale, self.zero_point = self.output["quantization"]

    def __call__(self, pixels: np.ndarray, tensor: int | None = None) -> np.ndarray:
        found = []
        for image in pixels:
            self.interpreter.set_tensor(self.input["index"], image[np.newaxis])
            self.interpreter.invoke()
            index = self.output["index"] if tensor is None else tensor
            found.append(self.interpreter.get_tensor(index).ravel())
        return np.array(found)

    def floats(self, images: np.ndarray) -> np.ndarray:
        return self.scale * (self(pixels_of(images)).astype(int) - self.zero_point)


def before_softmax(google: Running) -> int:
    """The number of the tensor with the logits."""
    (logits,) = (
        operation["inputs"][0]
        for operation in google.interpreter._get_ops_details()
        if operation["op_name"] == "RESHAPE"
    )
    return logits


def pixels_of(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def models(reference_data: Path) -> Callable[[str], tuple[bytes, bytes]]:
    """By name: ours of the quantized checkpoint, and Google's beside it."""
    made: dict[str, tuple[bytes, bytes]] = {}

    def models(name: str) -> tuple[bytes, bytes]:
        if name == GOOGLES_V2 and name not in made:
            theirs = (reference_data / "real" / name / f"{name}.tflite").read_bytes()
            model = MobileNet(name, 1001)
            found = rebuilt.values(theirs, model.variant)
            for key, variable in model.slim_variables.items():
                variable.assign(found[key])
            made[name] = integer_model(model), theirs
        if name not in made:
            folder = reference_data / "checkpoints" / name
            classes = 1001 if GOOGLES[name] == "logits" else None
            model = MobileNet(name, classes)
            found = Checkpoint(folder / f"{name}.ckpt").read(model.slim_variables)
            for key, variable in model.slim_variables.items():
                variable.assign(found[key])
            (theirs,) = folder.glob("*.tflite")
            made[name] = integer_model(model), theirs.read_bytes()
        return made[name]

    return models


@pytest.mark.slow
class TestGoogles:
    @pytest.mark.parametrize("name", GOOGLES)
    def test_photographs(self, name: str, models: Callable, reference_data: Path) -> None:
        golden = np.load(reference_data / "golden" / f"{name}.npz")
        running = Running(models(name)[0])
        which = f"tflite_{GOOGLES[name]}"
        np.testing.assert_array_equal(running(golden["images"]), golden[f"{which}_q"])
        assert running.scale == pytest.approx(float(golden[f"{which}_scale"]), rel=1e-6)
        assert running.zero_point == golden[f"{which}_zero_point"]

    def test_photographs_of_v2(self, models: Callable, reference_data: Path) -> None:
        """Google's logits are those of its own model: there is no golden file."""
        ours, theirs = models(GOOGLES_V2)
        files = sorted((reference_data / "photos").glob("*.jpg"))
        files += sorted((reference_data / "imagenet_sample").glob("*/*"))[::25]
        assert len(files) > 20
        pixels = pixels_of(np.stack([mobilenets.images.load(file, 224) for file in files]))
        google = Running(theirs, experimental_preserve_all_tensors=True)
        running = Running(ours)
        expected = google(pixels, before_softmax(google))
        np.testing.assert_array_equal(running(pixels), expected)
        assert len(np.unique(expected.argmax(1))) > 10

    @pytest.mark.parametrize("kernels", ["plain", "xnnpack"])
    @pytest.mark.parametrize("name", [*GOOGLES, GOOGLES_V2])
    def test_random_images(self, name: str, kernels: str, models: Callable) -> None:
        """XNNPACK rounds its own way: with it the integers are others, and equal again."""
        resolver = {
            "plain": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "xnnpack": OpResolverType.BUILTIN,
        }[kernels]
        ours, theirs = models(name)
        running = Running(ours, resolver)
        size = running.input["shape"][1]
        pixels = np.random.default_rng(0).integers(0, 256, (100, size, size, 3), np.uint8)
        google = Running(theirs, resolver, experimental_preserve_all_tensors=True)
        logits = None if GOOGLES.get(name) == "feature" else before_softmax(google)
        found = running(pixels)
        assert len(np.unique(found)) > 50
        np.testing.assert_array_equal(found, google(pixels, logits))

    @pytest.mark.parametrize("name", [*GOOGLES, GOOGLES_V2])
    def test_size(self, name: str, models: Callable) -> None:
        ours, theirs = models(name)
        assert len(ours) == pytest.approx(len(theirs), rel=0.05)


@pytest.fixture(scope="module")
def patterns() -> np.ndarray:
    """Images with structure, `[24, 64, 64, 3]`."""
    random = np.random.default_rng(0)
    coarse = random.uniform(size=(24, 8, 8, 3)).astype(np.float32)
    return np.repeat(np.repeat(coarse, 8, 1), 8, 2)


@pytest.fixture(scope="module")
def quantized(randomise: Callable, patterns: np.ndarray) -> Callable[[int | None], MobileNet]:
    """Quantized models of random weights, by number of classes; not to be changed."""
    made: dict[int | None, MobileNet] = {}

    def quantized(num_classes: int | None) -> MobileNet:
        if num_classes not in made:
            model = randomise(MobileNet(VARIANT, num_classes))
            model(patterns, training=True, activation_range_momentum=0.0)
            made[num_classes] = model
        return made[num_classes]

    return quantized


@pytest.fixture(scope="module")
def integers(quantized: Callable) -> Callable[[int | None], bytes]:
    """Their integer models, each made once."""
    return functools.cache(lambda num_classes: integer_model(quantized(num_classes)))


@pytest.fixture(scope="module")
def saved(
    quantized: Callable, tmp_path_factory: pytest.TempPathFactory, inference_alone: Callable
) -> Path:
    folder = tmp_path_factory.mktemp("modules") / "quantops"
    with inference_alone():
        mobilenets.save(quantized(None), folder)
    return folder


def hub_classifier(saved: Path, *layers: tf_keras.layers.Layer) -> tf_keras.Sequential:
    return tf_keras.Sequential(
        [tf_keras.layers.Input((SIZE, SIZE, 3)), hub.KerasLayer(str(saved)), *layers]
    )


@pytest.mark.parametrize("num_classes", [None, 7], ids=["features", "logits"])
def test_a_module(
    num_classes: int | None, quantized: Callable, integers: Callable, patterns: np.ndarray
) -> None:
    model = quantized(num_classes)
    running = Running(integers(num_classes))
    assert (running.input["dtype"], running.output["dtype"]) == (np.uint8, np.uint8)
    assert tuple(running.input["shape"]) == (1, SIZE, SIZE, 3)
    assert running.input["quantization"] == (1 / 128, 128)
    assert tuple(running.output["shape"]) == (1, num_classes or 256)
    expected = model(pixels_of(patterns) / np.float32(255)).numpy()
    assert expected.std() > 5 * running.scale
    assert np.abs(running.floats(patterns) - expected).mean() < 1.5 * running.scale
    kinds = [operation["op_name"] for operation in running.interpreter._get_ops_details()]
    assert kinds == [
        "CONV_2D",
        *13 * ["DEPTHWISE_CONV_2D", "CONV_2D"],
        "AVERAGE_POOL_2D",
        *(["CONV_2D"] if num_classes else []),
        "RESHAPE",
    ]
    dtypes = {d["dtype"] for d in running.interpreter.get_tensor_details()}
    assert dtypes == {np.uint8, np.int32}


class TestInt8:
    @pytest.fixture(scope="class")
    @classmethod
    def int8(cls, randomise: Callable, patterns: np.ndarray) -> Callable[[int | None], MobileNet]:
        """Models in the int8 scheme, by number of classes; not to be changed."""

        @functools.cache
        def int8(num_classes: int | None) -> MobileNet:
            model = randomise(MobileNet(VARIANT.unquantized, num_classes))
            made = model.quantized(patterns[np.newaxis], scheme="int8")
            # Frozen layers keep ranges that their weights need not fill.
            for layer in made.convolutions[3:5]:
                for bound in (layer.weights_quant.min, layer.weights_quant.max):
                    bound.assign(1.25 * bound.numpy())
            return made

        return int8

    @pytest.mark.slow
    @pytest.mark.parametrize("num_classes", [None, 7], ids=["features", "logits"])
    def test_a_module(self, num_classes: int | None, int8: Callable, patterns: np.ndarray) -> None:
        model = int8(num_classes)
        running = Running(integer_model(model, interface="uint8"))
        assert (running.input["dtype"], running.output["dtype"]) == (np.uint8, np.uint8)
        assert tuple(running.input["shape"]) == (1, SIZE, SIZE, 3)
        scale, zero_point = running.input["quantization"]
        assert (scale, zero_point) == (pytest.approx(1 / 255), 0)
        assert tuple(running.output["shape"]) == (1, num_classes or 256)
        expected = model(pixels_of(patterns) / np.float32(255)).numpy()
        assert expected.std() > 5 * running.scale
        assert np.abs(running.floats(patterns) - expected).mean() < 1.5 * running.scale
        details = {d["index"]: d for d in running.interpreter.get_tensor_details()}
        ends = (running.input["index"], running.output["index"])
        inner = {d["dtype"] for index, d in details.items() if index not in ends}
        assert inner == {np.int8, np.int32}
        self.assert_ranges(running, model)

    def assert_ranges(self, running: Running, model: MobileNet) -> None:
        """Each convolution has the module's own ranges, of weights and of activations."""
        details = {d["index"]: d for d in running.interpreter.get_tensor_details()}
        found = [
            (details[operation["inputs"][1]], details[operation["outputs"][0]])
            for operation in running.interpreter._get_ops_details()
            if operation["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        ]
        layers = [*model.convolutions, *([model.logits] if model.logits else [])]
        for (kernel, output), layer in zip(found, layers, strict=True):
            weights = kernel["quantization_parameters"]
            assert not weights["zero_points"].any()
            assert weights["quantized_dimension"] == (3 if "depthwise" in layer.name else 0)
            np.testing.assert_allclose(
                weights["scales"], layer.weights_quant.max.numpy() / 127, rtol=1e-5
            )
            scale, zero_point = output["quantization"]
            low, high = (float(each.numpy()) for each in (layer.act_quant.min, layer.act_quant.max))
            assert scale == pytest.approx((high - low) / 255, rel=1e-5)
            assert abs(scale * (-128 - zero_point) - low) < 0.51 * scale

    @pytest.mark.slow
    @pytest.mark.parametrize("kernels", ["BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN"])
    @pytest.mark.parametrize(
        ("folder", "variant", "classes", "steps"),
        [
            ("checkpoints/mobilenet_v1_0.25_128", "mobilenet_v1_025_128", 1001, 0.7),
            ("hub_tf1/mobilenet_v2_035_128_feature_vector_2", "mobilenet_v2_035_128", None, 1.4),
        ],
        ids=["v1", "v2"],
    )
    def test_real_weights(
        self,
        folder: str,
        variant: str,
        classes: int | None,
        steps: float,
        kernels: str,
        reference_data: Path,
    ) -> None:
        """The simulation's outputs, within rounding; XNNPACK rounds its own way."""
        size = Variant.parse(variant).image_size
        files = sorted((reference_data / "imagenet_sample").glob("*/*"))[::5]
        images = np.stack([mobilenets.images.load(file, size) for file in files])
        images = pixels_of(images) / np.float32(255)
        float_model = mobilenets.load(reference_data / folder)
        assert float_model.num_classes == classes
        model = float_model.quantized(images[:60].reshape(3, 20, size, size, 3), scheme="int8")
        running = Running(integer_model(model, interface="uint8"), OpResolverType[kernels])
        self.assert_ranges(running, model)
        expected = model.predict(images[60:], verbose=0)
        found = running.floats(images[60:])
        difference = np.abs(found - expected) / running.scale
        assert difference.mean() < steps
        assert LiteModel(integer_model(model)).in_xnnpack

    @pytest.mark.slow
    @pytest.mark.parametrize("interface", ["float32", "int8", "uint8"])
    def test_takes_and_gives_what_a_float_modules_int8_model_does(
        self, interface: str, int8: Callable, patterns: np.ndarray, tmp_path: Path
    ) -> None:
        theirs = Running(
            float_model(
                MobileNet(VARIANT.unquantized), "int8", images=patterns, interface=interface
            )
        )
        done = export(int8(None), tmp_path / "m.tflite", images=patterns, interface=interface)
        ours = Running((tmp_path / "m.tflite").read_bytes())
        for key in ("dtype", "shape", "quantization"):
            np.testing.assert_array_equal(ours.input[key], theirs.input[key])
        assert ours.output["dtype"] == theirs.output["dtype"]
        assert (done.precision, done.interface) == ("int8", interface)
        assert done.scale == pytest.approx(int8(None).pool_quant.max.numpy() / 255)
        assert done.difference < 0.7

    @pytest.mark.slow
    @pytest.mark.parametrize("head", ["dense", "softmax", "hidden"])
    def test_classifiers(self, head: str, int8: Callable, patterns: np.ndarray) -> None:
        keras.utils.set_random_seed(1)
        layers = [layer(keras) for layer in HEADS[head]]
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), int8(None), *layers])
        expected = np.asarray(model(pixels_of(patterns) / np.float32(255)))
        for images in [patterns] if head == "hidden" else [patterns, None]:
            running = Running(integer_model(model, images=images, interface="uint8"))
            difference = np.abs(running.floats(patterns) - expected)
            assert difference.mean() < 0.03 * (expected.max() - expected.min())

    @pytest.mark.slow
    def test_command(
        self, int8: Callable, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
    ) -> None:
        mobilenets.save(int8(7), tmp_path / "module")
        arguments = ("lite", tmp_path / "module", "--output", tmp_path / "m.tflite")
        code, out, _ = command(*arguments, "--json")
        assert code == 0
        done = json.loads(out)
        assert (done["precision"], done["interface"], done["ranges"]) == (
            "int8",
            "float32",
            "module",
        )
        assert LiteModel((tmp_path / "m.tflite").read_bytes()).in_xnnpack
        code, out, _ = command(*arguments, "--input-output", "uint8")
        assert (code, "uint8 64 px" in out) == (0, True)
        code, _, err = command(*arguments, "--precision", "uint8")
        assert (code, "its LiteRT model is int8, not uint8" in " ".join(err.split())) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", first_fast(["BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN"]))
@pytest.mark.parametrize("num_classes", [None, 7], ids=["features", "logits"])
def test_other_batches(
    num_classes: int | None, kernels: str, integers: Callable, patterns: np.ndarray
) -> None:
    model, resolver = integers(num_classes), OpResolverType[kernels]
    pixels = pixels_of(patterns[:2])
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=resolver)
    (first,), (last,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(first["index"], pixels.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(first["index"], pixels)
    interpreter.invoke()
    expected = Running(model, resolver)(pixels)
    np.testing.assert_array_equal(interpreter.get_tensor(last["index"]), expected)
    assert len(np.unique(expected)) > 5


@pytest.mark.slow
def test_saved_or_not(
    quantized: Callable, integers: Callable, saved: Path, tmp_path: Path, patterns: np.ndarray
) -> None:
    expected = Running(integers(None))(pixels_of(patterns))
    quantized(None).save(tmp_path / "native.keras")
    wrapped = hub_classifier(saved)
    wrapped.save(tmp_path / "hub")
    wrapped.save(tmp_path / "hub.keras")
    for source in (saved, wrapped, tmp_path / "hub", tmp_path / "hub.keras", "native.keras"):
        place = tmp_path / source if isinstance(source, str) else source
        found = Running(integer_model(place))(pixels_of(patterns))
        np.testing.assert_array_equal(found, expected, str(source))


def dense(*arguments, **kwargs) -> Callable:
    return lambda keras: keras.layers.Dense(*arguments, **kwargs)


HEADS: dict[str, list[Callable]] = {
    "dense": [dense(5)],
    "softmax": [dense(5, activation="softmax")],
    "sigmoid": [dense(5, activation="sigmoid")],
    "no-bias": [dense(5, use_bias=False)],
    "hidden": [
        dense(20, activation="relu"),
        lambda keras: keras.layers.Dropout(0.5),
        dense(5),
    ],
    "hidden-relu6": [dense(20, activation="relu6"), dense(5, activation="softmax")],
    "separate": [
        dense(5),
        lambda keras: keras.layers.Activation("softmax"),
    ],
}


@pytest.mark.parametrize(
    ("world", "head"),
    [
        slow("native", "hidden"),
        slow("tf_keras", "dense"),
        slow("tf_keras", "hidden"),
        *(slow("native", head) for head in HEADS if head != "hidden"),
    ],
)
def test_classifiers(
    world: str, head: str, saved: Path, quantized: Callable, patterns: np.ndarray
) -> None:
    tf_keras.utils.set_random_seed(1)
    keras.utils.set_random_seed(1)
    if world == "native":
        layers = [layer(keras) for layer in HEADS[head]]
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), quantized(None), *layers])
    else:
        model = hub_classifier(saved, *(layer(tf_keras) for layer in HEADS[head]))
    expected = np.asarray(model(pixels_of(patterns) / np.float32(255)))
    inference = opened(model)
    if "hidden" in head:
        with pytest.raises(ConvertError, match=r"2 layers after the module .*: pass images"):
            integer_model(inference)
    for images in [patterns] if "hidden" in head else [patterns, None]:
        running = Running(integer_model(inference, images=images))
        difference = np.abs(running.floats(patterns) - expected)
        assert difference.mean() < 0.03 * (expected.max() - expected.min())
        dtypes = {d["dtype"] for d in running.interpreter.get_tensor_details()}
        assert dtypes == {np.uint8, np.int32}


@pytest.mark.slow
def test_a_functional_classifier_on_feature_maps(saved: Path, patterns: np.ndarray) -> None:
    keras.utils.set_random_seed(1)
    backbone = mobilenets.load(saved)
    inputs = keras.Input((SIZE, SIZE, 3))
    maps = backbone(inputs, return_endpoints=True)["MobilenetV1/Conv2d_11_pointwise"]
    maps = keras.layers.Conv2D(12, 3, activation="relu", padding="same")(maps)
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps)))
    expected = np.asarray(model(pixels_of(patterns) / np.float32(255)))
    running = Running(integer_model(model, images=patterns))
    difference = np.abs(running.floats(patterns) - expected)
    assert difference.mean() < 0.03 * (expected.max() - expected.min())


@pytest.mark.slow
def test_bounds_hold_for_every_image_and_images_are_finer(
    saved: Path, patterns: np.ndarray
) -> None:
    model = hub_classifier(saved, tf_keras.layers.Dense(3))
    kernel, bias = model.layers[-1].get_weights()
    (last,) = (v.numpy() for v in model.layers[0].weights if "13_pointwise/act_quant/max" in v.name)
    highest = (last * np.maximum(kernel, 0).sum(0) + bias).max()
    lowest = (last * np.minimum(kernel, 0).sum(0) + bias).min()
    coarse, fine = (Running(integer_model(model, images=images)) for images in (None, patterns))
    assert coarse.scale * 255 == pytest.approx(highest - lowest, rel=0.01)
    shown = np.asarray(model(patterns))
    assert fine.scale * 255 == pytest.approx(max(shown.max(), 0) - min(shown.min(), 0), rel=0.05)
    assert fine.scale < coarse.scale


@pytest.mark.slow
def test_pixels_from_0_to_255(saved: Path, patterns: np.ndarray) -> None:
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Input((SIZE, SIZE, 3)),
            tf_keras.layers.Rescaling(1 / 255),
            hub.KerasLayer(str(saved)),
        ]
    )
    np.testing.assert_array_equal(
        Running(integer_model(model))(pixels_of(patterns)),
        Running(integer_model(saved))(pixels_of(patterns)),
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantops module of the sample checkpoint, which tells the digits 0 to 4 apart."""
    model = MobileNet(VARIANT)
    values = Checkpoint(SAMPLE)
    names = [name for name in model.slim_variables if name in values.shapes]
    for name, value in values.read(names).items():
        model.slim_variables[name].assign(value)
    images, *_ = digits(range(5))
    model(images[:100], training=True, activation_range_momentum=0.0)
    folder = tmp_path_factory.mktemp("sample") / "quantops"
    mobilenets.save(model, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world", ["tf_keras", "native"])
def test_fine_tuned_on_digits(world: str, sample: Path, tmp_path: Path) -> None:
    """Digits 5 to 9, which the module has never seen: fine-tuned, then integers alone."""
    images, labels, held_out, expected = digits(KEPT)
    kerases = keras if world == "native" else tf_keras
    kerases.utils.set_random_seed(0)
    if world == "native":
        backbone = mobilenets.load(sample, activation_range_momentum=0.9)
    else:
        arguments = {"activation_range_momentum": 0.9}
        backbone = hub.KerasLayer(str(sample), trainable=True, arguments=arguments)
    inputs = kerases.layers.Input((SIZE, SIZE, 3))
    model = kerases.Sequential([inputs, backbone, kerases.layers.Dense(5)])
    model.compile(
        kerases.optimizers.Adam(1e-3),
        kerases.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images, labels, 32, epochs=3, verbose=0)
    outputs = model.predict(held_out, verbose=0)
    fine_tuned = np.mean(outputs.argmax(1) == expected)
    assert fine_tuned >= 0.9

    model.save(tmp_path / "classifier.keras")
    source = opened(tmp_path / "classifier.keras")
    for given in (None, images[:100]):
        integers = Running(integer_model(source, images=given))
        accuracy = np.mean(integers(pixels_of(held_out)).argmax(1) == expected)
        assert abs(accuracy - fine_tuned) <= 0.01


class TestExport:
    def test_writes_what_integer_model_gives(
        self, quantized: Callable, integers: Callable, tmp_path: Path, patterns: np.ndarray
    ) -> None:
        path = tmp_path / "new" / "model.tflite"
        done = export(quantized(7), path, images=patterns)
        assert path.read_bytes() == integers(7)
        assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]
        running = Running(path.read_bytes())
        assert (done.bytes, done.images, done.image_size) == (path.stat().st_size, 24, SIZE)
        assert (done.scale, done.zero_point) == (running.scale, running.zero_point)
        assert done.ranges == "module"
        found = running.floats(patterns)
        outputs = quantized(7)(pixels_of(patterns) / np.float32(255)).numpy()
        assert done.difference == pytest.approx(np.abs(found - outputs).mean() / running.scale)
        assert done.agreement == np.mean(found.argmax(1) == outputs.argmax(1))

    @pytest.mark.slow
    def test_command(self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "model.tflite"
        path.write_bytes(b"an older one")
        assert main(["lite", str(saved), "--output", str(path)]) == 0
        printed = capsys.readouterr()
        assert f"{path.stat().st_size:,}" in printed.out
        assert "uint8 64 px" in printed.out
        assert "steps" in printed.out
        assert "top-1" not in printed.out
        Running(path.read_bytes())

    @pytest.mark.slow
    def test_command_with_images(
        self,
        saved: Path,
        tmp_path: Path,
        patterns: np.ndarray,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        hub_classifier(saved, tf_keras.layers.Dense(3)).save(tmp_path / "classifier")
        (tmp_path / "images" / "some").mkdir(parents=True)
        for index, image in enumerate(pixels_of(patterns[:3])):
            png = tf.io.encode_png(image).numpy()
            (tmp_path / "images" / "some" / f"{index}.PNG").write_bytes(png)
        arguments = ["lite", str(tmp_path / "classifier"), "--output", str(tmp_path / "m.tflite")]
        for given, ranges, count in (
            ([], "bounds", 4),
            (["--images", str(tmp_path / "images")], "images", 3),
        ):
            assert main([*arguments, *given, "--json"]) == 0
            done = json.loads(capsys.readouterr().out)
            assert (done["ranges"], done["images"]) == (ranges, count)
            # Noise patterns say nothing about classes.
            assert (done["agreement"] is None) == (not given)
            assert done["difference"] > 0

    @pytest.mark.parametrize("images", ["absent", "empty"])
    def test_no_images(
        self, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "empty").mkdir()
        arguments = ["--output", str(tmp_path / "m.tflite"), "--images", str(tmp_path / images)]
        assert main(["lite", "module", *arguments]) == 2
        assert f"{tmp_path / images}: no " in " ".join(capsys.readouterr().err.split())

    def test_nothing_is_left_where_it_cannot_be_written(
        self,
        quantized: Callable,
        integers: Callable,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        content = integers(None)
        monkeypatch.setattr(litert_quantops, "_integer", lambda *_: content)
        (tmp_path / "model.tflite").mkdir()
        with pytest.raises(ConvertError, match=r"model\.tflite cannot be written: "):
            export(quantized(None), tmp_path / "model.tflite")
        assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]


class TestRefused:
    def test_a_float_module(self, module: Callable[..., Path]) -> None:
        with pytest.raises(ConvertError, match="the model is not quantized"):
            integer_model(module("mobilenet_v1"))

    def test_two_modules(self, quantized: Callable) -> None:
        inputs = keras.Input((SIZE, SIZE, 3))
        model = keras.Model(inputs, quantized(None)(inputs) + quantized(None)(inputs))
        with pytest.raises(ConvertError, match=r"expected one quantops module .*, found 2"):
            integer_model(model)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            (tf_keras.layers.Resizing(SIZE, SIZE), "ResizeBilinear before the module"),
            slow(tf_keras.layers.Rescaling(1 / 127.5, -1), "unsupported input scaling"),
        ],
        ids=["resizing", "other-scale"],
    )
    def test_preprocessing(self, layer: tf_keras.layers.Layer, message: str, saved: Path) -> None:
        layers = [tf_keras.layers.Input((SIZE, SIZE, 3)), layer, hub.KerasLayer(str(saved))]
        with pytest.raises(ConvertError, match=message):
            integer_model(tf_keras.Sequential(layers))

    def test_layers(self, quantized: Callable) -> None:
        layers = [keras.Input((SIZE, SIZE, 3)), quantized(None)]
        model = keras.Sequential([*layers, keras.layers.Dense(3, activation="elu")])
        with pytest.raises(ConvertError, match="no integer form of Elu"):
            integer_model(model)

    @pytest.mark.slow
    def test_layers_of_tf_keras(self, saved: Path) -> None:
        with pytest.raises(ConvertError, match="no integer form of Mul"):
            integer_model(hub_classifier(saved, tf_keras.layers.BatchNormalization()))

    def test_two_outputs(self, quantized: Callable) -> None:
        inputs = keras.Input((SIZE, SIZE, 3))
        features = quantized(None)(inputs)
        model = keras.Model(inputs, [features, keras.layers.Dense(2)(features)])
        with pytest.raises(ConvertError, match="expected one output, found 2"):
            integer_model(model)

    def test_no_size(self, quantized: Callable) -> None:
        inputs = keras.Input((None, None, 3))
        model = keras.Model(inputs, quantized(None)(inputs))
        with pytest.raises(ConvertError, match="has no fixed image size"):
            integer_model(model)
        assert tuple(Running(integer_model(model, image_size=96)).input["shape"]) == (1, 96, 96, 3)

    def test_another_size(self, quantized: Callable) -> None:
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), quantized(None)])
        with pytest.raises(ConvertError, match="takes 64-pixel images; an image size of 96"):
            integer_model(model, image_size=96)

    @pytest.mark.parametrize(
        "shape", [(2, 32, 32, 3), (64, 64, 3), (0, 64, 64, 3)], ids=["size", "rank", "none"]
    )
    def test_images(self, shape: tuple[int, ...], quantized: Callable) -> None:
        with pytest.raises(ConvertError, match=r"images must be \[number, 64, 64, 3\], got"):
            integer_model(quantized(None), images=np.zeros(shape, np.float32))

    @pytest.mark.parametrize("kind", ["absent", "no file", "empty", "keras", "object"])
    def test_no_model(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "model.keras").write_bytes(b"no zip")
        source, message = {
            "absent": (tmp_path / "absent", "no such folder"),
            "no file": (tmp_path / "absent.keras", "absent.keras: no such file"),
            "empty": (tmp_path / "empty", "was not written by mobilenets.save"),
            "keras": (tmp_path / "model.keras", "cannot be loaded: "),
            "object": (3, "expected a model or a path, got int"),
        }[kind]
        with pytest.raises(ConvertError, match=message) as error:
            integer_model(source)
        assert "\n" not in str(error.value)
