"""Hugging Face's transformers: a folder of `config.json` and `model.safetensors`.

The layout is that of transformers' MobileNetV1 and MobileNetV2 for PyTorch, whose converters give
the Slim name of every tensor (`_build_tf_to_pytorch_map` in modeling_mobilenet_v1.py and
modeling_mobilenet_v2.py). A configuration can describe networks that this library does not build;
they are refused.

The safetensors format is a little-endian 64-bit length, a JSON header of that length and the
tensors' bytes (https://github.com/huggingface/safetensors, "Format"). The header is read here, with
bounds, because the package would be one more dependency and would not widen bfloat16 for NumPy.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from mobilenets import architecture
from mobilenets.variants import FAMILIES, Variant
from mobilenets.weights.contents import Weights
from mobilenets.weights.errors import WeightsError, shape_text

__all__ = ["EXPECTED", "read", "recognises"]

EXPECTED = "a Hugging Face folder (config.json and model.safetensors)"

_CONFIG, _TENSORS, _PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
_SHARDS = "model.safetensors.index.json"
_PREPROCESSOR = "preprocessor_config.json"

# The values that the configuration must have, where it has any: those of these networks, and
# transformers' own defaults.
_EXPECTED_CONFIG: dict[str, dict[str, Any]] = {
    "": {
        "hidden_act": "relu6",
        "layer_norm_eps": 0.001,
        "min_depth": 8,
        "num_channels": 3,
        "tf_padding": True,
    },
    "mobilenet_v2": {
        "depth_divisible_by": 8,
        "expand_ratio": 6,
        "finegrained_output": True,
        "first_layer_is_expansion": True,
        "output_stride": 32,
    },
}
_PARTS = {
    "convolution.weight": "weights",
    "normalization.weight": "BatchNorm/gamma",
    "normalization.bias": "BatchNorm/beta",
    "normalization.running_mean": "BatchNorm/moving_mean",
    "normalization.running_var": "BatchNorm/moving_variance",
}
_COUNTERS = re.compile(r".+\.num_batches_tracked")

# NumPy's dtypes for the format's, where NumPy has them. The mapping refuses all but float32.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "BOOL": "|b1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
}
# The safetensors package's own limit for a header, in bytes.
_LONGEST_HEADER = 100_000_000
# How much of a name an error shows.
_SHOWN = 100


def recognises(path: Path) -> bool:
    """Whether a path is a folder that transformers saved, or a safetensors file.

    A folder with only PyTorch's pickle, or with weights in several files, counts too; `read` then
    says how to convert it.
    """
    if path.is_dir():
        return (path / _CONFIG).is_file() and any(
            (path / name).is_file() for name in (_TENSORS, _SHARDS, _PICKLE)
        )
    if not path.is_file():
        return False
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 8 + length <= path.stat().st_size


def read(path: Path, source: str, selection: str) -> Weights:
    """Opens the network of a folder, or of a safetensors file with its `config.json` beside it.

    Values of half precision are widened to float32, which represents them exactly. Layers outside
    the network, such as a segmentation head, are left out and listed.

    Args:
      path: A path that `recognises` accepts.
      source: The path as the user named it.
      selection: `"averages"` is refused: there is one value of each variable.

    Raises:
      WeightsError: Moving averages are requested; or a file is missing, damaged or forged; or the
        configuration describes another network than Slim's MobileNet V1 or V2.
    """
    if selection == "averages":
        raise WeightsError(
            f"{source} holds no moving averages of variables; take the raw variables (weights: raw)"
        )
    file = path / _TENSORS if path.is_dir() else path
    if not file.is_file() and file.with_name(_SHARDS).is_file():
        raise WeightsError(
            f"{source} holds its weights in several files ({_SHARDS}): save them as one (in "
            'transformers: model.save_pretrained(folder, max_shard_size="1GB"))'
        )
    if not file.is_file():
        raise WeightsError(
            f"{source} holds its weights as a pickle ({_PICKLE}), which can run any code and is "
            "not read: convert it to safetensors (in transformers: "
            "model.save_pretrained(folder, safe_serialization=True))"
        )
    if not (config_file := file.with_name(_CONFIG)).is_file():
        raise WeightsError(f"{source}: {_CONFIG} is missing beside {file.name}")
    config = _json(config_file, source)
    family = _family(config, source)
    _check(config, family, source)
    _check_preprocessor(file.with_name(_PREPROCESSOR), source)
    tensors = _header(file, source)

    names = _names(family)
    keys: dict[str, str] = {}
    leftovers: dict[str, list[str]] = {}
    unknown: dict[str, tuple[int, ...]] = {}
    for key, tensor in tensors.items():
        inner = key.removeprefix(f"{family}.")
        if inner in names and names[inner] not in keys:
            keys[names[inner]] = key
        elif _COUNTERS.fullmatch(key):
            leftovers.setdefault("counters", []).append(key)
        elif inner == key and key.partition(".")[0] not in ("classifier", *_TOP_LEVEL[family]):
            leftovers.setdefault("layers outside the network", []).append(key)
        else:
            unknown[key] = tensor.shape
    found = {name: tensors[key] for name, key in keys.items()}
    shapes = {name: _slim_shape(name, tensor.shape) for name, tensor in found.items()}

    def values(wanted: Iterable[str]) -> dict[str, np.ndarray]:
        with file.open("rb") as opened:
            return {name: _value(name, found[name], opened, source) for name in wanted}

    kernel = shapes.get(f"{architecture.scope(family)}/Logits/Conv2d_1c_1x1/weights")
    return Weights(
        source=source,
        file=file.name,
        family=family,
        entries=len(tensors),
        keys={name: keys[name] for name in sorted(keys)},
        shapes={name: shapes[name] for name in sorted(keys)},
        leftovers={category: leftovers[category] for category in sorted(leftovers)},
        unknown=unknown,
        image_size=_image_size(config, source),
        class_names=_class_names(config, kernel[-1], source) if kernel else None,
        read=values,
        digest=lambda: hashlib.sha256(file.read_bytes()).hexdigest(),
    )


def _json(path: Path, source: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source}: {path.name} is not a JSON file ({error})") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{source}: {path.name} holds no JSON object")
    return found


def _family(config: Mapping[str, Any], source: str) -> str:
    kind = config.get("model_type")
    if kind in FAMILIES:
        return str(kind)
    # timm's configurations say `architecture` instead.
    names = [kind, config.get("architecture"), *_listed(config.get("architectures"))]
    if any(re.search(r"mobilenet_?v3", str(name), re.IGNORECASE) for name in names):
        raise WeightsError(f"{source}: this is MobileNet V3; only V1 and V2 are supported")
    expected = " or ".join(map(repr, FAMILIES))
    state = f"is {kind!r}" if kind is not None else "is not given"
    raise WeightsError(
        f"{source}: the model_type of {_CONFIG} {state}: expected transformers' {expected}"
    )


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _check(config: Mapping[str, Any], family: str, source: str) -> None:
    expected = {**_EXPECTED_CONFIG[""], **_EXPECTED_CONFIG.get(family, {})}
    wrong = [
        f"{name} {json.dumps(config[name])} instead of {json.dumps(value)}"
        for name, value in expected.items()
        if name in config and config[name] != value
    ]
    if wrong:
        raise WeightsError(
            f"{source} is another network than TF-Slim's MobileNet {family[-2:].upper()}: "
            f"{_CONFIG} says {', '.join(wrong)}"
        )


def _check_preprocessor(path: Path, source: str) -> None:
    """Raises WeightsError if the network was trained on images in another range than [-1, 1]."""
    config = _json(path, source) if path.is_file() else {}
    for name in ("image_mean", "image_std"):
        value = config.get(name)
        if value is not None and any(each != 0.5 for each in _listed(value) or [value]):
            raise WeightsError(
                f"{source} takes other images than TF-Slim's MobileNets: {path.name} says {name} "
                f"{json.dumps(value)} instead of 0.5"
            )


def _image_size(config: Mapping[str, Any], source: str) -> int | None:
    size = config.get("image_size")
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 32:
        raise WeightsError(
            f"{source}: the image_size of {_CONFIG} is {json.dumps(size)}: expected a whole number "
            "of pixels from 32 up"
        )
    return size


_PLACEHOLDER = re.compile(r"LABEL_\d+")


def _class_names(config: Mapping[str, Any], classes: int, source: str) -> tuple[str, ...] | None:
    """The names in `id2label`, in order; None where transformers made them up (`LABEL_7`)."""
    labels = config.get("id2label")
    if labels is None:
        return None
    wanted = [str(number) for number in range(classes)]
    if not isinstance(labels, dict) or labels.keys() != set(wanted):
        count = len(labels) if isinstance(labels, dict) else "no"
        raise WeightsError(
            f"{source}: {_CONFIG} names {count} classes in id2label, but the classifier has the "
            f"classes from 0 to {classes - 1}"
        )
    names = tuple(str(labels[number]) for number in wanted)
    return None if all(map(_PLACEHOLDER.fullmatch, names)) else names


def _names(family: str) -> dict[str, str]:
    """Slim's name of every tensor of the network, by transformers' name without prefix."""
    scope = architecture.scope(family)
    names = {
        "classifier.weight": f"{scope}/Logits/Conv2d_1c_1x1/weights",
        "classifier.bias": f"{scope}/Logits/Conv2d_1c_1x1/biases",
    }
    for number, line in enumerate(architecture.convolutions(Variant(family, 1.0, 224))):
        module = _MODULES[family](number, line.scope)
        for theirs, ours in _PARTS.items():
            ours = "depthwise_weights" if (ours, line.kind) == ("weights", "depthwise") else ours
            names[f"{module}.{theirs}"] = f"{scope}/{line.scope}/{ours}"
    return names


def _v1_module(number: int, scope: str) -> str:
    return f"layer.{number - 1}" if number else "conv_stem"


_V2_CONVOLUTIONS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}


def _v2_module(number: int, scope: str) -> str:
    block, _, inner = scope.partition("/")
    if not inner:
        return {"Conv": "conv_stem.first_conv", "Conv_1": "conv_1x1"}[block]
    # The first block, which expands nothing, belongs to transformers' stem.
    index = block.removeprefix("expanded_conv").removeprefix("_")
    outer = f"layer.{int(index) - 1}" if index else "conv_stem"
    return f"{outer}.{_V2_CONVOLUTIONS[inner]}"


_MODULES: dict[str, Callable[[int, str], str]] = {
    "mobilenet_v1": _v1_module,
    "mobilenet_v2": _v2_module,
}
# The tensors of a network that was saved without a head have no prefix.
_TOP_LEVEL = {
    "mobilenet_v1": ("conv_stem", "layer"),
    "mobilenet_v2": ("conv_stem", "layer", "conv_1x1"),
}


def _slim_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of PyTorch's tensor in Slim's order; unchanged if its rank does not fit."""
    order = _order(name, len(shape))
    if order is None:
        return shape
    shape = tuple(shape[axis] for axis in order)
    return (1, 1, *shape) if len(order) == 2 else shape


def _order(name: str, rank: int) -> tuple[int, ...] | None:
    """The axes of PyTorch's tensor in Slim's order; None if they stay.

    PyTorch has `[output, input, height, width]`, with an input of 1 for depthwise convolutions,
    and `[classes, features]`.
    """
    if name.endswith("/depthwise_weights") and rank == 4:
        return (2, 3, 0, 1)
    if name.endswith("/Logits/Conv2d_1c_1x1/weights"):
        return (1, 0) if rank == 2 else None
    return (2, 3, 1, 0) if name.endswith("/weights") and rank == 4 else None


def _value(name: str, tensor: _Tensor, file: BinaryIO, source: str) -> np.ndarray:
    file.seek(tensor.start)
    data = file.read(tensor.stop - tensor.start)
    if len(data) != tensor.stop - tensor.start:
        raise WeightsError(f"{source}: the file was shortened while it was read")
    value = _widened(np.frombuffer(data, _DTYPES[tensor.dtype]), tensor.dtype)
    value = value.reshape(tensor.shape)
    order = _order(name, value.ndim)
    value = value if order is None else value.transpose(order)
    return np.ascontiguousarray(value).reshape(_slim_shape(name, tensor.shape))


def _widened(value: np.ndarray, dtype: str) -> np.ndarray:
    """Widens the floating dtypes that float32 represents exactly; leaves others unchanged."""
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        return (value.astype(np.uint32) << 16).view(np.float32)
    return value.astype(np.float32) if dtype in ("F32", "F16") else value


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a safetensors file: the format's name of its dtype, shape, place in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def _header(path: Path, source: str) -> dict[str, _Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
      WeightsError: The header is longer than the file or not JSON, or its tensors lie outside the
        file, overlap, leave gaps, or have sizes that do not fit their shapes.
    """

    def forged(reason: str) -> WeightsError:
        return WeightsError(
            f"{source}: {path.name} is damaged or not a safetensors file: {reason}; "
            "copy or download it again"
        )

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise forged("its header is longer than the file")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise forged("its header is not JSON") from None
    if not isinstance(header, dict):
        raise forged("its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors: dict[str, _Tensor] = {}
    for name, entry in header.items():
        shown = json.dumps(name[:_SHOWN])
        dtype, shape, offsets = (
            (entry.get("dtype"), entry.get("shape"), entry.get("data_offsets"))
            if isinstance(entry, dict)
            else (None, None, None)
        )
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise forged(f"{shown} has no known dtype")
        if not _whole(shape):
            raise forged(f"{shown} has no shape")
        if not (_whole(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
            raise forged(f"{shown} has no data_offsets")
        begin, end = (8 + length + offset for offset in offsets)
        if end > size:
            raise forged(f"{shown} ends after the end of the file")
        if math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != end - begin:
            raise forged(
                f"{shown} has {end - begin} bytes, but its shape is {shape_text(shape)} of {dtype}"
            )
        tensors[name] = _Tensor(dtype, tuple(shape), begin, end)
    # The format demands that every byte belongs to one tensor.
    at = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != at:
            relation = "overlaps another tensor" if tensor.start < at else "leaves a gap before it"
            raise forged(f"{json.dumps(name[:_SHOWN])} {relation}")
        at = tensor.stop
    if at != size:
        raise forged("bytes follow the last tensor")
    return tensors


def _whole(value: object) -> TypeGuard[list[int]]:
    """Whether a value is a list of whole numbers from 0 up."""
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
