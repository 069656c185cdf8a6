"""Decoding, the evaluation crop, class names, and predictions in words."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import mobilenets.images
from mobilenets.images import (
    Prediction,
    batches,
    class_names,
    decode_predictions,
    evaluation_crop,
    load,
    load_batch,
)
from tools import class_names as generator

PHOTOGRAPHS = (
    "bird.bmp",
    "cat.bmp",
    "dragonfly.bmp",
    "grace_hopper.bmp",
    "hot_dog.jpg",
    "owl.jpg",
    "parrot.jpg",
    "sunflower.bmp",
)


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    """A uint8 RGB image, smooth enough for JPEG, whose channels and sides all differ."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * y / height, 255 * x / width, 255 - 120 * (x + y) / (height + width))
    return np.stack(channels, axis=-1).astype(np.uint8)


def bmp(image: np.ndarray) -> bytes:
    height, width, _ = image.shape
    rows = [image[y, :, ::-1].tobytes().ljust(-(-width * 3 // 4) * 4, b"\0") for y in range(height)]
    pixels = b"".join(reversed(rows))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + header + pixels


def gif(*frames: int, width: int = 8, height: int = 6) -> bytes:
    """An animation of frames of one colour: 0 black, 1 red, 2 green, 3 blue."""
    blocks = [b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"]
    for colour in frames:
        # A clear code (4) before every pixel keeps all codes three bits long; 5 ends.
        codes = [code for _ in range(width * height) for code in (4, colour)] + [5]
        bits = sum(code << 3 * position for position, code in enumerate(codes))
        data = bits.to_bytes(-(-3 * len(codes) // 8), "little")
        chunks = [data[start : start + 255] for start in range(0, len(data), 255)]
        blocks.append(b"\x21\xf9\x04\0\x0a\0\0\0")
        blocks.append(struct.pack("<BHHHHBB", 0x2C, 0, 0, width, height, 0, 2))
        blocks.extend(bytes([len(chunk)]) + chunk for chunk in chunks)
        blocks.append(b"\0")
    palette = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x91, 0, 0)
    return screen + palette + b"".join(blocks) + b";"


def png(image: np.ndarray) -> bytes:
    return tf.io.encode_png(image).numpy()


def jpeg(image: np.ndarray) -> bytes:
    return tf.io.encode_jpeg(image, quality=98).numpy()


def slim_crop(image: np.ndarray, size: int, fraction: float = 0.875) -> np.ndarray:
    """Slim's evaluation crop of one uint8 image, spelled out."""
    image = image / 255.0
    top, left = (int((side - side * fraction) / 2) for side in image.shape[:2])
    image = image[top : image.shape[0] - top, left : image.shape[1] - left]

    def resize(values: np.ndarray) -> np.ndarray:
        # TensorFlow 1: output pixel i lies at i * scale, between two neighbours.
        position = np.arange(size) * (len(values) / size)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, len(values) - 1)
        weight = (position - low).reshape(-1, 1, 1)
        return values[low] * (1 - weight) + values[high] * weight

    return resize(resize(image).swapaxes(0, 1)).swapaxes(0, 1)


def only_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("fraction", [0.875, 0.5, 1.0])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(40, 56, 16), (41, 33, 24), (300, 200, 96), (20, 20, 64)],
    ids=["shrunk", "odd", "shrunk-threefold", "enlarged"],
)
def test_evaluation_crop_is_slims(height: int, width: int, size: int, fraction: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cropped = evaluation_crop(image, size, fraction)
    assert cropped.shape == (size, size, 3)
    assert cropped.dtype == tf.float32
    np.testing.assert_allclose(cropped, slim_crop(image, size, fraction), atol=2e-5)


def test_evaluation_crop_keeps_seven_eighths() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    np.testing.assert_array_equal(evaluation_crop(image, 96), evaluation_crop(image, 96, 0.875))


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image,
        lambda image: image.astype(np.uint16) * 257,
        lambda image: (image / 255).astype(np.float64),
        lambda image: tf.constant(image / 255, tf.float32),
    ],
    ids=["uint8", "uint16", "float64", "float32-tensor"],
)
def test_evaluation_crop_knows_the_range_of_a_type(convert) -> None:
    cropped = evaluation_crop(convert(picture()), 24)
    assert cropped.dtype == tf.float32
    np.testing.assert_allclose(cropped, slim_crop(picture(), 24), atol=1e-6)


def test_evaluation_crop_of_a_batch_is_that_of_each_image() -> None:
    batch = np.stack([picture(), picture()[::-1]])
    cropped = evaluation_crop(batch, 24)
    np.testing.assert_array_equal(cropped, [evaluation_crop(image, 24) for image in batch])


@pytest.mark.parametrize("size", [0, -3, 2.5, "224", (224, 224), None])
@pytest.mark.parametrize(
    "call",
    [evaluation_crop, load, lambda image, size: load_batch([image], size)],
    ids=["evaluation_crop", "load", "load_batch"],
)
def test_size_is_a_number_of_pixels(call, size: object) -> None:
    image = picture() if call is evaluation_crop else png(picture())
    with pytest.raises(ValueError, match="size must be") as error:
        call(image, size)
    assert repr(size) in only_line(error)


@pytest.mark.parametrize("fraction", [0, -1, 1.01, float("nan")])
def test_evaluation_crop_refuses_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"central_fraction must be in \(0, 1\]"):
        evaluation_crop(picture(), 24, fraction)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.bool_])
def test_evaluation_crop_refuses_a_type_without_range(dtype: type) -> None:
    with pytest.raises(TypeError, match="give uint8 from 0 to 255") as error:
        evaluation_crop(picture().astype(dtype), 24)
    assert np.dtype(dtype).name in only_line(error)


@pytest.mark.parametrize("shape", [(8, 8), (1, 1, 8, 8, 3)], ids=str)
def test_evaluation_crop_refuses_a_rank(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image must be \[height, width, 3\]") as error:
        evaluation_crop(np.zeros(shape, np.uint8), 24)
    assert str(shape) in only_line(error)


FORMATS = {
    # name: how the picture is encoded, its RGB values, how many grey levels may be lost.
    "png": (png, picture(), 0),
    "bmp": (bmp, picture(), 0),
    "bmp-with-padded-rows": (lambda image: bmp(image[:13, :17]), picture()[:13, :17], 0),
    "jpeg": (jpeg, picture(), 6),
    "greyscale-png": (lambda image: png(image[..., :1]), picture()[..., [0, 0, 0]], 0),
    "greyscale-jpeg": (lambda image: jpeg(image[..., :1]), picture()[..., [0, 0, 0]], 6),
    "rgba": (lambda image: png(image[..., [0, 1, 2, 0]]), picture(), 0),
    "greyscale-with-alpha": (lambda image: png(image[..., [2, 0]]), picture()[..., [2, 2, 2]], 0),
    "16-bit": (lambda image: png(image.astype(np.uint16) * 257), picture(), 0),
    "gif-first-frame": (lambda _: gif(1, 3), np.full((6, 8, 3), [255, 0, 0], np.uint8), 0),
}


@pytest.mark.parametrize("crop", ["central", None])
@pytest.mark.parametrize(("encode", "expected", "tolerance"), FORMATS.values(), ids=FORMATS)
def test_load_decodes(encode, expected: np.ndarray, tolerance: int, crop) -> None:
    loaded = load(encode(picture()), 12, crop)
    assert loaded.shape == (12, 12, 3)
    assert loaded.dtype == tf.float32
    reference = (
        slim_crop(expected, 12)
        if crop
        else tf.image.resize(expected, (12, 12), antialias=True) / 255
    )
    np.testing.assert_allclose(loaded, reference, atol=tolerance / 255 + 1e-6)


@pytest.mark.parametrize("crop", ["central", None])
def test_load_keeps_the_range(crop) -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    image[:, 25:] = 255
    loaded = load(png(image), 33, crop).numpy()
    assert loaded.min() == 0
    assert 1 - 1e-6 < loaded.max() <= 1


def test_load_without_crop_shows_the_borders() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:4] = image[-4:] = image[:, :4] = image[:, -4:] = 255
    frame = load(png(image), 16, None).numpy()
    assert frame[0].min() > 0.5
    assert frame[-1].min() > 0.5
    assert load(png(image), 16).numpy().max() == 0


def test_load_without_crop_averages_when_it_shrinks() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    np.testing.assert_allclose(load(png(stripes), 16, None)[2:-2, 2:-2], 0.5, atol=0.01)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three readable files of different formats and sizes; the extension does not matter."""
    contents = {
        "a b.png": png(picture()),
        "grün.jpg": bmp(picture(30, 20)),
        "c.gif": gif(2, 1),
    }
    for name, encoded in contents.items():
        (tmp_path / name).write_bytes(encoded)
    return [tmp_path / name for name in contents]


@pytest.mark.parametrize("crop", ["central", None])
@pytest.mark.parametrize(
    "given",
    [
        lambda path: path,
        str,
        lambda path: np.str_(path),
        lambda path: tf.constant(str(path)),
        lambda path: path.read_bytes(),
    ],
    ids=["path", "str", "numpy-str", "tensor", "bytes"],
)
def test_load_takes(given, files: list[Path], crop) -> None:
    for path in files:
        expected = load(path.read_bytes(), 20, crop)
        np.testing.assert_array_equal(load(given(path), 20, crop), expected)


@pytest.mark.parametrize(
    "source", [3, None, ["a.png"], picture()], ids=["int", "None", "list", "array"]
)
def test_load_refuses_what_is_no_source(source: object) -> None:
    with pytest.raises(TypeError, match="must be a path, bytes or a scalar string tensor") as error:
        load(source, 20)
    assert only_line(error).endswith(type(source).__name__)


@pytest.mark.parametrize(
    "call",
    [load, lambda image, *rest: load_batch([image], *rest)],
    ids=["load", "load_batch"],
)
def test_crop_is_central_or_none(call) -> None:
    with pytest.raises(ValueError, match="crop must be 'central' or None; got 'centre'"):
        call(png(picture()), 20, "centre")


def broken(folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.jpg" for name in ("absent", "empty", "text", "cut", "folder")}
    paths["empty"].touch()
    paths["text"].write_text("<html>not found</html>")
    whole = jpeg(picture())
    paths["cut"].write_bytes(whole[: len(whole) // 3])
    paths["folder"].mkdir()
    return paths


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "No such file or directory"),
        ("empty", "Input is empty"),
        ("text", "Unknown image file format. One of JPEG,"),
        ("cut", "Invalid JPEG data"),
        ("folder", "Is a directory"),
    ],
)
@pytest.mark.parametrize(
    "given", [str, Path, lambda path: tf.constant(str(path))], ids=["str", "path", "tensor"]
)
def test_load_says_what_is_wrong_with_a_file(given, name: str, reason: str, tmp_path: Path) -> None:
    path = broken(tmp_path)[name]
    with pytest.raises(ValueError, match="cannot load") as error:
        load(given(path), 20)
    line = only_line(error)
    assert line.startswith(f"cannot load '{path}': ")
    assert reason in line
    assert line.count(str(path)) == 1
    assert "function_node" not in line
    assert "Op:" not in line
    assert not line.endswith("name:")


def test_load_says_what_is_wrong_with_bytes() -> None:
    with pytest.raises(ValueError, match=r"^cannot load an image of 9 bytes: Unknown image file"):
        load(b"photo.jpg", 20)


def test_load_names_a_file_with_a_line_break_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\\nb\.png': No such file") as error:
        load(tmp_path / "a\nb.png", 20)
    only_line(error)


def test_load_knows_an_encoded_image_from_a_path() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="not a path; pass an encoded image as bytes") as error:
        load(tf.constant(png(noise)), 20)
    assert len(only_line(error)) < 400


def test_load_reports_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\\udcff\.png': cannot be read"):
        load(tmp_path / "\udcff.png", 20)


def test_load_batch_is_load_of_each(files: list[Path]) -> None:
    expected = [load(path, 20) for path in files]
    mixed = [files[0], str(files[1]), files[2].read_bytes()]
    for sources in (files, mixed, iter(files), tf.constant([str(path) for path in files])):
        batch = load_batch(sources, 20)
        assert batch.shape == (3, 20, 20, 3)
        np.testing.assert_array_equal(batch, expected)
    np.testing.assert_array_equal(
        load_batch(files, 20, None), [load(path, 20, None) for path in files]
    )


def test_load_batch_names_every_file_that_it_cannot_load(files: list[Path], tmp_path: Path) -> None:
    paths = broken(tmp_path)
    with pytest.raises(ValueError, match=r"^cannot load 6 of 9 images: ") as error:
        load_batch([*files, *paths.values(), b"nothing"], 20)
    line = only_line(error)
    for path in paths.values():
        assert f"'{path}' (" in line
    assert "an image of 7 bytes (" in line
    for path in files:
        assert str(path) not in line


@pytest.mark.parametrize(
    "given",
    [str, Path, str.encode, tf.constant],
    ids=["str", "path", "bytes", "tensor"],
)
def test_load_batch_refuses_a_single_image(given) -> None:
    with pytest.raises(TypeError, match="sources is a single image"):
        load_batch(given("a.png"), 20)


def test_load_batch_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="sources is empty"):
        load_batch([], 20)


@pytest.mark.parametrize("crop", ["central", None])
def test_load_works_in_a_dataset(files: list[Path], crop) -> None:
    paths = tf.data.Dataset.from_tensor_slices([str(path) for path in files])
    batches = paths.map(lambda path: load(path, 20, crop), num_parallel_calls=2).batch(2)
    assert batches.element_spec.shape.as_list() == [None, 20, 20, 3]
    np.testing.assert_allclose(
        np.concatenate(list(batches.as_numpy_iterator())), load_batch(files, 20, crop), atol=1e-6
    )


@pytest.mark.parametrize("crop", ["central", None])
def test_load_batch_works_in_a_dataset(files: list[Path], crop) -> None:
    paths = tf.data.Dataset.from_tensor_slices([str(path) for path in files]).batch(2)
    batches = paths.map(lambda batch: load_batch(batch, 20, crop))
    assert batches.element_spec.shape.as_list() == [None, 20, 20, 3]
    np.testing.assert_allclose(
        np.concatenate(list(batches.as_numpy_iterator())), load_batch(files, 20, crop), atol=1e-6
    )


@pytest.mark.parametrize("crop", ["central", None])
@pytest.mark.parametrize(
    "given",
    [iter, lambda paths: tf.data.Dataset.from_tensor_slices([str(path) for path in paths])],
    ids=["paths", "dataset"],
)
def test_batches_are_load_of_each(given, files: list[Path], crop) -> None:
    paths = [*files, files[0], files[2]]
    dataset = batches(given(paths), 20, crop, batch_size=2)
    assert dataset.element_spec[1].shape.as_list() == [None, 20, 20, 3]
    for _ in range(2):
        positions, images = zip(*dataset.as_numpy_iterator(), strict=True)
        assert [each.tolist() for each in positions] == [[0, 1], [2, 3], [4]]
        np.testing.assert_allclose(
            np.concatenate(images), load_batch(paths, 20, crop), rtol=0, atol=1e-6
        )


def test_a_pass_does_not_wait_for_the_tuner(files: list[Path]) -> None:
    """At its end TensorFlow waits until the tuner wakes, up to a quarter of a second."""
    options = mobilenets.images.batches(files, 32).options()
    assert options.autotune.enabled is False


def test_batches_of_nothing() -> None:
    assert list(batches([], 20)) == []


def test_batches_leave_out_what_is_unreadable(files: list[Path], tmp_path: Path) -> None:
    """The positions tell; batches stay full. Otherwise it is an error."""
    first, *others = broken(tmp_path).values()
    paths = [first, files[0], *others, files[1], files[2]]
    found = list(batches(paths, 20, batch_size=2, skip_unreadable=True).as_numpy_iterator())
    last = len(paths) - 1
    assert [positions.tolist() for positions, _ in found] == [[1, last - 1], [last]]
    np.testing.assert_allclose(
        np.concatenate([images for _, images in found]), load_batch(files, 20), rtol=0, atol=1e-6
    )
    with pytest.raises(tf.errors.OpError):
        list(batches(paths, 20))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, None])
def test_batches_have_a_size(batch_size) -> None:
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1"):
        batches([], 20, batch_size=batch_size)


def test_a_dataset_names_a_file_that_is_absent(tmp_path: Path) -> None:
    paths = tf.data.Dataset.from_tensors(str(tmp_path / "absent.png"))
    with pytest.raises(tf.errors.NotFoundError, match=r"absent\.png"):
        list(paths.map(lambda path: load(path, 20)))


def test_evaluation_crop_works_on_encoded_records() -> None:
    records = tf.data.Dataset.from_tensors(png(picture()))
    images = records.map(
        lambda record: evaluation_crop(
            tf.io.decode_image(record, channels=3, expand_animations=False), 20
        )
    )
    assert images.element_spec.shape.as_list() == [20, 20, 3]
    (image,) = images.as_numpy_iterator()
    np.testing.assert_allclose(image, slim_crop(picture(), 20), atol=1e-6)


def test_evaluation_crop_works_on_class_folders(tmp_path: Path) -> None:
    for name, image in (("ants", picture()), ("bees", picture()[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(image))
    folders = keras.utils.image_dataset_from_directory(
        str(tmp_path), image_size=(40, 56), shuffle=False, verbose=False
    )
    ((images, labels),) = folders.map(lambda x, y: (evaluation_crop(x / 255, 20), y))
    assert labels.numpy().tolist() == [0, 1]
    expected = [slim_crop(picture(), 20), slim_crop(picture()[::-1], 20)]
    np.testing.assert_allclose(images, expected, atol=1e-6)


@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_plain_resize_gives_the_golden_images(
    photograph: str, size: int, reference_data: Path
) -> None:
    """They are Pillow's: bilinear, antialiased, rounded, and the whole image.

    Rounding twice, Pillow may be one grey level off. TensorFlow's faster inverse DCT makes JPEGs
    differ by up to 20 levels before the resize; an accurate decode shows that this is all.
    """
    path = reference_data / "photos" / photograph
    golden = np.load(reference_data / "golden" / f"mobilenet_v1_0.25_{size}.npz")
    expected = golden["images"][golden["names"].tolist().index(path.stem)].astype(float)
    loaded = load(path, size, None)
    if path.suffix == ".jpg":
        assert np.abs(loaded * 255 - expected).mean() < 1.5
        encoded = tf.io.read_file(str(path))
        accurate = tf.image.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        loaded = load(png(accurate), size, None)
    assert np.abs(np.round(loaded * 255) - expected).max() <= 1


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_evaluation_crop_of_photographs(photograph: str, reference_data: Path) -> None:
    path = reference_data / "photos" / photograph
    pixels = tf.io.decode_image(path.read_bytes(), channels=3).numpy()
    np.testing.assert_allclose(load(path, 128), slim_crop(pixels, 128), atol=5e-5)


def test_class_names() -> None:
    names = class_names()
    assert len(names) == 1001
    assert all(name == name.strip() and name.isprintable() and name for name in names)
    assert {name for name in names if names.count(name) > 1} == {"crane"}
    assert [index for index, name in enumerate(names) if name == "crane"] == [135, 518]
    # Pins the order too; `python -m tools.class_names` regenerates the file.
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "d5e07a182ba230472348bcc9ddb971209c54d163c99dedd021578795cf609a4b"


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0, "background"),
        (1, "tench"),
        (2, "goldfish"),
        (265, "Cardigan Welsh corgi"),
        (475, "cardigan"),
        (639, "maillot"),
        (640, "tank suit"),
        (653, "military uniform"),
        (1000, "toilet tissue"),
    ],
)
def test_class_name(index: int, name: str) -> None:
    assert class_names()[index] == name


def test_class_names_are_those_of_the_reference(reference_data: Path) -> None:
    text = (reference_data / "photos" / "imagenet_labels_1001.txt").read_text()
    reference = [[lemma.strip() for lemma in line.split(",")] for line in text.splitlines()]
    assert len(reference) == 1001
    without = [index for index, name in enumerate(class_names()) if name not in reference[index]]
    assert without == []
    assert ["background", *generator.choose(reference[1:])] == list(class_names())


def test_decode_predictions_against_numpy() -> None:
    logits = np.random.default_rng(1).normal(scale=4, size=(3, 1001)).astype(np.float32)
    decoded = decode_predictions(logits, top=7)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, predictions in zip(probabilities, decoded, strict=True):
        best = np.argsort(row)[::-1][:7]
        assert [prediction.index for prediction in predictions] == best.tolist()
        assert [prediction.name for prediction in predictions] == [class_names()[i] for i in best]
        np.testing.assert_allclose([p.probability for p in predictions], row[best], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "logits"),
    [
        (list, [0.0, 2.0, 1.0]),
        (np.float16, [0.0, 2.0, 1.0]),
        (lambda logits: tf.constant(logits, tf.bfloat16), [0.0, 2.0, 1.0]),
        (keras.ops.convert_to_tensor, [0.0, 2.0, 1.0]),
        (np.float64, [998000.0, 1001000.0, 1000999.0]),
        (list, [-np.inf, 1.0, 0.0]),
    ],
    ids=["list", "float16", "bfloat16-tensor", "keras-tensor", "huge", "minus-infinity"],
)
def test_decode_predictions_takes(given, logits: list[float]) -> None:
    (predictions,) = decode_predictions(given([logits]), class_names=["a", "b", "c"])
    assert [prediction.name for prediction in predictions] == ["b", "c", "a"]
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1)
    ratio = predictions[0].probability / predictions[1].probability
    assert ratio == pytest.approx(np.e)


def test_decode_predictions_are_plain_values() -> None:
    ((first, *_),) = decode_predictions(np.array([[0.0, np.log(3)]]), class_names=["no", "yes"])
    assert first == Prediction(1, "yes", pytest.approx(0.75))
    assert [type(value) for value in first] == [int, str, float]


def test_decode_predictions_orders_ties_and_tiny_probabilities() -> None:
    ((*predictions,),) = decode_predictions([[-2000.0, 5.0, -1000.0, 5.0]], class_names="abcd")
    assert [prediction.name for prediction in predictions] == ["b", "d", "c", "a"]
    (equal,) = decode_predictions(np.tile([1.0, 0.0], 500)[np.newaxis], 6, [""] * 1000)
    assert [prediction.index for prediction in equal] == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("logits", "arguments", "message"),
    [
        (np.zeros((1, 1000)), {}, "there are 1000 logits for 1001 class names"),
        (np.zeros((2, 3)), {"class_names": ["a", "b"]}, "there are 3 logits for 2 class names"),
        (np.zeros(1001), {}, r"logits must be \[batch, classes\]; their shape is \(1001,\)"),
        (np.zeros((1, 1001)), {"top": 0}, "top must be at least 1; got 0"),
        ([[0.0], [np.nan]], {"class_names": ["a"]}, r"for the images \[1\] of the batch"),
        ([[np.inf], [0.0]], {"class_names": ["a"]}, r"for the images \[0\] of the batch"),
    ],
    ids=["without-background", "own-names", "no-batch", "top", "nan", "infinite"],
)
def test_decode_predictions_refuses(logits, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        decode_predictions(logits, **arguments)
    only_line(error)


@pytest.mark.parametrize(
    ("photograph", "name"),
    [
        ("bird", "chickadee"),
        ("cat", "Egyptian cat"),
        ("dragonfly", "dragonfly"),
        ("grace_hopper", "bow tie"),
        ("hot_dog", "hotdog"),
        ("owl", "ruffed grouse"),
        ("parrot", "macaw"),
        ("sunflower", "daisy"),
    ],
)
def test_golden_logits_in_words(photograph: str, name: str, reference_data: Path) -> None:
    """As the smallest network sees them, right or (owl) wrong."""
    golden = np.load(reference_data / "golden" / "mobilenet_v1_0.25_224.npz")
    image = golden["names"].tolist().index(photograph)
    assert decode_predictions(golden["logits"])[image][0].name == name


def test_public_names() -> None:
    assert mobilenets.images.__all__ == [
        "Prediction",
        "batches",
        "class_names",
        "decode_predictions",
        "evaluation_crop",
        "load",
        "load_batch",
    ]
