"""From image files to a network's input, and from its logits to names.

The published accuracies were measured with Slim's evaluation crop, `evaluation_crop`.
`load` and `load_batch` decode files and crop in one go, and `batches` does so for any number of
files while a network computes:

    for positions, images in batches(paths, 224):
        features = model(images)  # of paths[position] for each position

The image functions are TensorFlow operations and work inside `tf.data.Dataset.map` too:

    folders = keras.utils.image_dataset_from_directory("photos", image_size=(256, 256))
    batches = folders.map(lambda images, labels: (evaluation_crop(images / 255, 224), labels))
"""

from __future__ import annotations

import functools
import importlib.resources
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from mobilenets.errors import without_operation

__all__ = [
    "Prediction",
    "batches",
    "class_names",
    "decode_predictions",
    "evaluation_crop",
    "load",
    "load_batch",
]

_Source: TypeAlias = str | bytes | os.PathLike[str] | tf.Tensor

# UnicodeDecodeError comes from TensorFlow's message if the path is not UTF-8.
_UNREADABLE = (tf.errors.OpError, UnicodeDecodeError)


class Prediction(NamedTuple):
    """A class that a network sees in an image.

    Attributes:
      index: The position of the class among the logits.
      name: Name of the class.
      probability: Softmax of the image's logits at `index`, in [0, 1].
    """

    index: int  # type: ignore[assignment]  # Hides tuple.index.
    name: str
    probability: float


def evaluation_crop(image: tf.Tensor, size: int, central_fraction: float = 0.875) -> tf.Tensor:
    """The central part of an image, resized to a square: Slim's preprocessing for evaluation.

    Follows `preprocess_for_eval` of Slim's `preprocessing/inception_preprocessing.py`, with which
    the published accuracies were measured: scale to [0, 1], crop both sides centrally, resize with
    the bilinear resize of TensorFlow 1. Unlike `tf.image.resize`, the latter puts a pixel's centre
    at its corner; it does not average when it shrinks. The aspect ratio is not kept. Slim then
    scales to [-1, 1]; here the networks do that themselves.

    Args:
      image: `[height, width, 3]` or `[batch, height, width, 3]`, RGB. Unsigned integers span
        their type's range, floats must be in [0, 1]: divide images of 0 to 255 by 255 first.
      size: Height and width of the result in pixels, such as `variant.image_size`.
      central_fraction: The share of height and width to keep, above 0 and at most 1.

    Returns:
      `[size, size, 3]` or `[batch, size, size, 3]`, float32 in [0, 1].

    Raises:
      TypeError: The image has signed integers, whose range is unknown.
      ValueError: `size` or `central_fraction` is out of range, or the image has another rank.
    """
    _check_size(size)
    if not 0 < central_fraction <= 1:
        raise ValueError(f"central_fraction must be in (0, 1]; got {central_fraction!r}")
    image = tf.convert_to_tensor(image)
    if not (image.dtype.is_floating or image.dtype.is_unsigned):
        raise TypeError(
            f"image is {image.dtype.name}: give uint8 from 0 to 255, or floats in [0, 1]"
        )
    if image.shape.rank not in (3, 4):
        raise ValueError(
            "image must be [height, width, 3] or [batch, height, width, 3]; "
            f"its shape is {image.shape}"
        )
    # What is cropped off need not become floats.
    image = tf.image.central_crop(image, central_fraction)
    image = tf.image.convert_image_dtype(image, tf.float32)
    batch = image if image.shape.rank == 4 else image[tf.newaxis]
    # tf.compat.v1.image.resize_bilinear without its deprecation warning.
    resized = tf.raw_ops.ResizeBilinear(images=batch, size=(size, size))
    return resized if image.shape.rank == 4 else resized[0]


def load(source: _Source, size: int, crop: Literal["central"] | None = "central") -> tf.Tensor:
    """One image from a file or from encoded bytes, ready for a network with this input size.

    Reads what `tf.io.decode_image` reads: JPEG, PNG, BMP, GIF and more. Greyscale becomes RGB,
    transparency is dropped, and an animation gives its first frame. TensorFlow ignores two things:
    the EXIF orientation (rotate such photographs beforehand) and the palette of a BMP with 8 bits
    per pixel, which it reads as greyscale.

    Args:
      source: The path of a file as `str`, path object or scalar string tensor, or the encoded
        image as `bytes`. TensorFlow's remote paths, such as `gs://`, work too.
      size: Height and width of the result in pixels, such as `variant.image_size`.
      crop: `"central"` for `evaluation_crop`; None, for images that are cropped already, stretches
        the whole image to the square with bilinear antialiasing (equal to Pillow's `resize` with
        `BILINEAR` up to rounding).

    Returns:
      `[size, size, 3]`, RGB, float32 in [0, 1].

    Raises:
      TypeError: `source` has another type.
      ValueError: The image cannot be read or decoded, or `size` or `crop` is not allowed. Inside
        `tf.data` TensorFlow raises its own error for the image; it names a file that cannot be
        read, but not a file that cannot be decoded. `load_batch` on the list of files names both.
    """
    _check_size(size)
    _check_crop(crop)
    try:
        return _load(source, size, crop)
    except _UNREADABLE as error:
        raise ValueError(f"cannot load {_called(source)}: {_reason(error, source)}") from None


def load_batch(
    sources: Iterable[_Source] | tf.Tensor, size: int, crop: Literal["central"] | None = "central"
) -> tf.Tensor:
    """Several images as one batch, each as `load` gives it.

    Args:
      sources: Paths and encoded bytes as in `load`, or a string tensor `[batch]` of paths.
      size: Height and width of the result in pixels.
      crop: As in `load`.

    Returns:
      `[batch, size, size, 3]`, RGB, float32 in [0, 1].

    Raises:
      TypeError: `sources` is a single image, or one of them has a type that `load` does not take.
      ValueError: Images cannot be read or decoded (the message names each), there are no images,
        or `size` or `crop` is not allowed.
    """
    _check_size(size)
    _check_crop(crop)
    rank = sources.shape.rank if isinstance(sources, tf.Tensor) else None
    if rank == 0 or isinstance(sources, str | bytes | os.PathLike):
        raise TypeError("sources is a single image: give a list of them, or call load")
    if isinstance(sources, tf.Tensor) and not tf.executing_eagerly():
        return tf.map_fn(
            lambda source: _load(source, size, crop),
            sources,
            fn_output_signature=tf.TensorSpec((size, size, 3), tf.float32),
        )
    images, problems = [], []
    for source in sources:
        try:
            images.append(_load(source, size, crop))
        except _UNREADABLE as error:
            problems.append(f"{_called(source)} ({_reason(error, source)})")
    if problems:
        total = len(images) + len(problems)
        raise ValueError(f"cannot load {len(problems)} of {total} images: {', '.join(problems)}")
    if not images:
        raise ValueError("no images to load: sources is empty")
    return tf.stack(images)


def batches(
    paths: Iterable[str | os.PathLike[str]] | tf.data.Dataset,
    size: int,
    crop: Literal["central"] | None = "central",
    *,
    batch_size: int = 32,
    skip_unreadable: bool = False,
) -> tf.data.Dataset:
    """Image files as a dataset of batches, decoded on all cores while a network computes.

    The order is that of the paths, and every pass gives the same batches. Memory does not grow with
    the number of files if `paths` is a dataset, such as `tf.data.TextLineDataset("paths.txt")`.

    Args:
      paths: Paths of files as in `load`, or a dataset of scalar strings.
      size: Height and width of the images in pixels.
      crop: As in `load`.
      batch_size: Images per batch, 1 or more; the last batch holds what is left.
      skip_unreadable: Whether to leave out files that cannot be read or decoded. The positions
        tell which: nothing else does.

    Returns:
      A dataset of pairs: int64 `[batch]`, the position of each image among `paths`, ascending; and
      float32 `[batch, size, size, 3]`, RGB in [0, 1], each image as `load` gives it.

    Raises:
      ValueError: `size`, `crop` or `batch_size` is not allowed.
      tf.errors.OpError: While iterating: a file cannot be read or decoded. `load_batch` on the
        batch's paths names it.
    """
    _check_size(size)
    _check_crop(crop)
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, at least 1; got {batch_size!r}")
    if not isinstance(paths, tf.data.Dataset):
        encoded = [os.fsencode(path) for path in paths]
        paths = tf.data.Dataset.from_tensor_slices(tf.constant(encoded, tf.string, [len(encoded)]))
    loaded = paths.enumerate().map(
        lambda position, path: (position, load(path, size, crop)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if skip_unreadable:
        loaded = loaded.ignore_errors()
    options = tf.data.Options()
    # Threads of its own, one a core: in TensorFlow's, decoding keeps the network waiting.
    options.threading.private_threadpool_size = 0
    # The end of a pass would wait for the tuner to wake, up to a quarter of a second.
    options.autotune.enabled = False
    return loaded.batch(batch_size).prefetch(2).with_options(options)


@functools.cache
def class_names() -> tuple[str, ...]:
    """The 1001 names of the published networks' logits.

    `background`, then ILSVRC-2012's 1,000 classes in the order of their WordNet synsets, each
    named by its first lemma. Where two classes share the first lemma, one has its second lemma if
    there is one; `crane` names both the bird (135) and the machine (518).
    """
    text = importlib.resources.files("mobilenets").joinpath("class_names.txt").read_text("utf-8")
    return tuple(text.splitlines())


def decode_predictions(
    logits: Any, top: int = 5, class_names: Sequence[str] | None = None
) -> list[list[Prediction]]:
    """The most probable classes of each image, the best first.

    Args:
      logits: `[batch, classes]`, as the classification models return them; the softmax is applied
        here.
      top: How many classes to name for each image, at least 1; all of them if there are fewer.
      class_names: One name for each class; None means the 1001 of the published networks.

    Returns:
      For each image a list of `top` predictions, the most probable first. Among equal logits the
      lower index comes first.

    Raises:
      ValueError: The logits have another rank, are NaN or infinite, or differ in number from the
        names; or `top` is below 1.
    """
    values = np.asarray(logits).astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"logits must be [batch, classes]; their shape is {values.shape}")
    names = _imagenet_names() if class_names is None else tuple(class_names)
    if values.shape[1] != len(names):
        raise ValueError(
            f"there are {values.shape[1]} logits for {len(names)} class names: "
            "give class_names, one for each logit"
        )
    if top < 1:
        raise ValueError(f"top must be at least 1; got {top!r}")
    largest = values.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        rows = np.flatnonzero(~np.isfinite(largest)).tolist()
        raise ValueError(f"logits are NaN or infinite for the images {rows} of the batch")
    exponentials = np.exp(values - largest)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    # Sorted by logits, since tiny probabilities all round to 0.
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return [
        [Prediction(int(index), names[index], float(row[index])) for index in indices]
        for row, indices in zip(probabilities, order, strict=True)
    ]


_imagenet_names = class_names


def _check_size(size: int) -> None:
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"size must be a whole number of pixels, at least 1; got {size!r}")


def _check_crop(crop: str | None) -> None:
    if crop not in ("central", None):
        raise ValueError(f"crop must be 'central' or None; got {crop!r}")


def _load(source: _Source, size: int, crop: str | None) -> tf.Tensor:
    if isinstance(source, bytes):
        encoded = source
    elif isinstance(source, str | os.PathLike):
        encoded = tf.io.read_file(os.fsencode(source))
    elif (
        isinstance(source, tf.Tensor)
        and source.dtype == tf.string
        and source.shape.rank in (0, None)
    ):
        encoded = tf.io.read_file(source)
    else:
        raise TypeError(
            f"an image must be a path, bytes or a scalar string tensor; got {type(source).__name__}"
        )
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    if crop:
        return evaluation_crop(image, size)
    image = tf.image.convert_image_dtype(image, tf.float32)
    image = tf.image.resize(image, (size, size), antialias=True)
    # The weights of a pixel may sum to just above 1.
    return tf.clip_by_value(image, 0.0, 1.0)


def _path(source: _Source) -> str:
    return os.fsdecode(source.numpy() if isinstance(source, tf.Tensor) else source)


def _called(source: _Source) -> str:
    if isinstance(source, bytes):
        return f"an image of {len(source)} bytes"
    name = repr(_path(source))
    return name if len(name) <= 500 else f"{name[:100]}…{name[-100:]}"


def _reason(error: Exception, source: _Source) -> str:
    """TensorFlow's message without the operation and the path, on one line."""
    path = "" if isinstance(source, bytes) else _path(source)
    if "\0" in path:
        return "not a path; pass an encoded image as bytes"
    if not isinstance(error, tf.errors.OpError):
        return "cannot be read"
    return without_operation(error.message).removeprefix(f"{' '.join(path.split())}; ")
