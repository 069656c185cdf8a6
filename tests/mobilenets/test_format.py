"""`saved_model.FORMAT` stands for what is written: a module written otherwise has another number.

Where a test here fails, modules are written otherwise than before: raise `FORMAT` in
`mobilenets/saved_model.py`, and record the new listing, which the failure prints, under it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tiers import first_fast

import mobilenets
from mobilenets import MobileNet, Variant
from mobilenets.saved_model import FORMAT

RECORDED = 6
TRACES = """
    call inputs float32[?,64,64,3], training=False, return_endpoints='size', MOMENTUM float32[]
    call inputs float32[?,?,?,3], training=False, return_endpoints=False, MOMENTUM float32[]
    call inputs float32[?,?,?,3], training=False, return_endpoints=True, MOMENTUM float32[]
    call inputs float32[?,?,?,3], training=True, return_endpoints=False, MOMENTUM float32[]
    call inputs float32[?,?,?,3], training=True, return_endpoints=True, MOMENTUM float32[]
"""
FLOAT = TRACES.replace("MOMENTUM", "batch_norm_momentum")
QUANTIZED = TRACES.replace("MOMENTUM", "activation_range_momentum")
LISTINGS = {
    "feature vector": f"""{FLOAT}
    serving_default images float32[?,?,?,3] -> default float32[?,256]
    image_feature_vector images float32[?,?,?,3] -> default float32[?,256]
    """,
    "classification": f"""{FLOAT}
    serving_default images float32[?,?,?,3] -> default float32[?,7]
    image_classification images float32[?,?,?,3] -> default float32[?,7]
    image_feature_vector images float32[?,?,?,3] -> default float32[?,1280]
    """,
    "quantops": f"""{QUANTIZED}
    serving_default images float32[?,?,?,3] -> default float32[?,7]
    image_classification images float32[?,?,?,3] -> default float32[?,7]
    image_feature_vector images float32[?,?,?,3] -> default float32[?,256]
    """,
}


def listing(directory: Path) -> list[str]:
    """The traces in order, then the signatures: what a client of a module can call."""
    module: Any = tf.saved_model.load(str(directory))
    names = [name for name in module.__call__.function_spec.fullargspec.args if name != "self"]
    lines = []
    for trace in module.__call__.concrete_functions:
        arguments, keywords = trace.structured_input_signature
        said = [_said(name, value) for name, value in zip(names, arguments, strict=True)]
        said += [_said(name, value) for name, value in sorted(keywords.items())]
        lines.append(f"call {', '.join(said)}")
    for name, signature in module.signatures.items():
        arguments, keywords = signature.structured_input_signature
        said = [_said(name, value) for name, value in sorted(keywords.items())]
        outputs = [_said(key, value) for key, value in sorted(signature.structured_outputs.items())]
        lines.append(f"{name} {', '.join(said)} -> {', '.join(outputs)}")
    return lines


def _said(name: str, value: Any) -> str:
    if not isinstance(value, tf.TensorSpec):
        return f"{name}={value!r}"
    shape = ",".join("?" if size is None else str(size) for size in value.shape)
    return f"{name} {value.dtype.name}[{shape}]"


@pytest.fixture(scope="module")
def quantops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("format") / "quantops"
    mobilenets.save(MobileNet(Variant("mobilenet_v1", 0.25, 64, quantized=True), 7), directory)
    return directory


@pytest.mark.parametrize("kind", first_fast(["feature vector", "classification", "quantops"]))
def test_the_number_stands_for_what_is_written(
    kind: str, module: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    directory = {
        "feature vector": lambda: module("mobilenet_v1"),
        "classification": lambda: module("mobilenet_v2", 7),
        "quantops": lambda: request.getfixturevalue("quantops"),
    }[kind]()
    found = listing(directory)
    recorded = [line.strip() for line in LISTINGS[kind].splitlines() if line.strip()]
    assert found == recorded, (
        "modules are written otherwise than before: raise saved_model.FORMAT, set RECORDED to it, "
        f"and record for {kind}:\n" + "\n".join(found)
    )
    assert FORMAT == RECORDED, "record what modules of this format look like, and its number"
