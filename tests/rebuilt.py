"""Checkpoints rebuilt from Google's uint8 models, whose training checkpoints are not at hand.

An integer model holds what its conversion left of a checkpoint: rounded weights, biases with the
batch norm in them, and the scale and zero point of every range. A checkpoint with these weights,
batch norms that do nothing, and these ranges is converted to the same integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from mobilenets import Variant, architecture

_OPERATOR = schema.BuiltinOperator
_DTYPES = {schema.TensorType.UINT8: np.uint8, schema.TensorType.INT32: np.int32}
# A batch norm of variance 1 divides by the root of 1 + epsilon.
_GAMMA = np.float32(np.sqrt(np.float32(1.001)))


def values(content: bytes, variant: Variant) -> dict[str, np.ndarray]:
    """Value of every variable by Slim name, logits included.

    Args:
      content: Google's uint8 model with 1001 classes.
      variant: Its network.
    """
    model, graph = _parts(content)
    found: dict[str, np.ndarray] = {}

    def steps(tensor: int) -> tuple[np.float32, int]:
        quantization = graph.tensors[tensor].quantization
        return np.float32(quantization.scale[0]), int(quantization.zeroPoint[0])

    def constant(tensor: int) -> np.ndarray:
        held = graph.tensors[tensor]
        data = bytes(model.buffers[held.buffer].data)
        scale, zero_point = steps(tensor)
        integers = np.frombuffer(data, _DTYPES[held.type]).reshape(held.shape).astype(np.int32)
        return (integers - zero_point).astype(np.float32) * scale

    def add_range(scope: str, tensor: int, lowest: int = 0) -> None:
        scale, zero_point = steps(tensor)
        found[f"{scope}/min"] = np.float32((lowest - zero_point) * scale)
        found[f"{scope}/max"] = np.float32((255 - zero_point) * scale)

    weighted = _operators(model, graph, _OPERATOR.CONV_2D, _OPERATOR.DEPTHWISE_CONV_2D)
    network = architecture.scope(variant.family)
    for line, operator in zip(architecture.convolutions(variant, 1001), weighted, strict=True):
        scope = f"{network}/{line.scope}"
        _, kernel, bias = operator.inputs
        weights = "depthwise_weights" if line.kind == "depthwise" else "weights"
        found[f"{scope}/{weights}"] = constant(kernel).transpose(1, 2, 3, 0)
        ranges = scope
        if line.kind == "logits":
            found[f"{scope}/biases"] = constant(bias)
        else:
            ranges = architecture.range_scope(scope)
            ones = np.ones(line.filters, np.float32)
            found[f"{scope}/BatchNorm/gamma"] = _GAMMA * ones
            found[f"{scope}/BatchNorm/beta"] = constant(bias)
            found[f"{scope}/BatchNorm/moving_mean"] = 0 * ones
            found[f"{scope}/BatchNorm/moving_variance"] = ones
        # Integer kernels leave out the lowest of the 256 values.
        add_range(f"{ranges}/weights_quant", kernel, lowest=1)
        add_range(f"{ranges}/act_quant", operator.outputs[0])
    channels, sums = 3, iter(_operators(model, graph, _OPERATOR.ADD))
    for row in architecture.rows(variant):
        if row.adds_input(channels):
            (output,) = next(sums).outputs
            add_range(f"{network}/{row.name}/{architecture.SUM_QUANT}", output)
        channels = row.filters
    assert next(sums, None) is None
    return {name: found[name] for name in architecture.variables(variant, 1001)}


def _parts(content: bytes) -> tuple[Any, Any]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    (graph,) = model.subgraphs
    return model, graph


def _operators(model: Any, graph: Any, *kinds: int) -> list[Any]:
    codes = [
        flatbuffer_utils.get_builtin_code_from_operator_code(code) for code in model.operatorCodes
    ]
    return [each for each in graph.operators if codes[each.opcodeIndex] in kinds]
