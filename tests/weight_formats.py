"""A network's weights in formats that others write, for the tests that read some.

Every helper takes values by Slim name, as `slim_checkpoints.network` gives them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

Values = Mapping[str, np.ndarray]


def plausible(values: Values) -> dict[str, np.ndarray]:
    """The values, scaled so that the network computes something of a usual size."""

    def scaled(name: str, value: np.ndarray) -> np.ndarray:
        if name.endswith("weights"):
            fan_in = np.prod(value.shape[: 2 if "depthwise_weights" in name else 3])
            return value * np.float32(1.4 / np.sqrt(fan_in))
        if name.endswith(("gamma", "moving_variance")):
            return 1 + np.tanh(value) / 3
        return value / 5

    return {name: scaled(name, value).astype(np.float32) for name, value in values.items()}


def hub_module(
    folder: Path,
    values: Values,
    size: int | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """A TF2 SavedModel whose variables bear these names, in an order that says nothing."""
    module = tf.train.Checkpoint()
    names = list(values)
    random.Random(0).shuffle(names)
    module.variables = [tf.Variable(values[name], name=name) for name in names]
    if class_names:
        folder.parent.mkdir(parents=True, exist_ok=True)
        (text := folder.with_name("labels.txt")).write_text("\n".join(class_names) + "\n")
        module.labels = tf.saved_model.Asset(str(text))
    module.__call__ = tf.function(
        lambda inputs: tf.reduce_mean(inputs, [1, 2]),
        input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)],
    )
    tf.saved_model.save(module, str(folder))
    return folder


def frozen_graph(
    path: Path, values: Values, size: int | None = None, *, more: Values | None = None
) -> Path:
    """A GraphDef as freeze_graph writes it: constants, what read them, constants of operations.

    Args:
      path: Where to.
      values: What was a variable.
      size: Height and width of the images.
      more: Constants by name that were none, and that no Identity reads.
    """
    graph = graph_pb2.GraphDef()
    node = graph.node.add(name="input", op="Placeholder")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    for length in (-1, size or -1, size or -1, 3):
        node.attr["shape"].shape.dim.add(size=length)
    for name, value in {**values, **(more or {})}.items():
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        if name in values:
            node = graph.node.add(name=f"{name}/read", op="Identity", input=[name])
            node.attr["T"].type = tf.as_dtype(value.dtype).as_datatype_enum
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString())
    return path


def transformers_tensors(values: Values) -> dict[str, np.ndarray]:
    """The values as transformers' converters lay them out, counters of batches included."""
    tensors = {}
    for name, value in values.items():
        scope, _, inner = name.partition("/")
        family = {"MobilenetV1": "mobilenet_v1", "MobilenetV2": "mobilenet_v2"}[scope]
        if "depthwise_weights" in name:
            value = value.transpose(2, 3, 0, 1)
        elif "Logits" in name:
            value = value[0, 0].T if value.ndim == 4 else value
        elif name.endswith("weights"):
            value = value.transpose(3, 2, 0, 1)
        layer, _, part = inner.replace("BatchNorm/", "BatchNorm.").rpartition("/")
        part = {
            "BatchNorm.gamma": "normalization.weight",
            "BatchNorm.beta": "normalization.bias",
            "BatchNorm.moving_mean": "normalization.running_mean",
            "BatchNorm.moving_variance": "normalization.running_var",
            "biases": "bias",
        }.get(part, "convolution.weight")
        if "Logits" in name:
            tensors[f"classifier.{part.removeprefix('convolution.')}"] = value
            continue
        module = _transformers_module(layer)
        tensors[f"{family}.{module}.{part}"] = value
        if part == "normalization.weight":
            tensors[f"{family}.{module}.normalization.num_batches_tracked"] = np.array(7)
    return tensors


def _transformers_module(layer: str) -> str:
    """What modeling_mobilenet_v1.py and _v2.py call a layer, by its Slim scope in the network's."""
    stems = {
        "Conv2d_0": "conv_stem",
        "Conv": "conv_stem.first_conv",
        "Conv_1": "conv_1x1",
        "expanded_conv/depthwise": "conv_stem.conv_3x3",
        "expanded_conv/project": "conv_stem.reduce_1x1",
    }
    if layer in stems:
        return stems[layer]
    if v1 := re.fullmatch(r"Conv2d_(\d+)_(depthwise|pointwise)", layer):
        return f"layer.{2 * int(v1[1]) - 2 + (v1[2] == 'pointwise')}"
    v2 = re.fullmatch(r"expanded_conv_(\d+)/(\w+)", layer)
    assert v2
    parts = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    return f"layer.{int(v2[1]) - 1}.{parts[v2[2]]}"


def safetensors(path: Path, tensors: Values, dtype: str = "F32") -> Path:
    """A safetensors file; float32 values are stored as the dtype, whole numbers as I64.

    What bfloat16 cannot hold is cut off.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, value in tensors.items():
        if value.dtype != np.float32:
            stored, data = "I64", value.astype("<i8").tobytes()
        elif dtype == "BF16":
            stored, data = dtype, (value.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
            stored, data = dtype, value.astype(kinds[dtype]).tobytes()
        header[name] = {
            "dtype": stored,
            "shape": list(value.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def hugging_face(folder: Path, values: Values, dtype: str = "F32", **config: object) -> Path:
    """A folder as transformers saves one; what `config` gives as None is left out."""
    family = "mobilenet_v1" if "MobilenetV1/Conv2d_0/weights" in values else "mobilenet_v2"
    said = {"model_type": family, "layer_norm_eps": 0.001, "tf_padding": True} | config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in said.items() if value is not None})
    )
    safetensors(folder / "model.safetensors", transformers_tensors(values), dtype)
    return folder
