"""All formats are exported in the same way."""

from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path
from types import ModuleType

import pytest
from tiers import slow

from convert.export import contract, keras_weights, litert_float, litert_quantops, slim
from mobilenets import MobileNet, Variant

FORMATS = {
    litert_float: "m.tflite",
    litert_quantops: "m.tflite",
    keras_weights: "m.weights.h5",
    slim: "m.ckpt",
}
formats = pytest.mark.parametrize("module", FORMATS, ids=lambda module: module.__name__)


@formats
def test_a_function_and_a_result(module: ModuleType) -> None:
    assert list(inspect.signature(module.export).parameters)[:2] == ["source", "output"]
    assert issubclass(module.Export, contract.Export)
    assert dataclasses.fields(module.Export)[0].name == "path"


@pytest.mark.parametrize(
    "module",
    # Models of LiteRT are written in many tests.
    [slow(litert_float), slow(litert_quantops), keras_weights, slim],
    ids=lambda module: module.__name__,
)
def test_it_says_what_was_written(module: ModuleType, tmp_path: Path) -> None:
    model = MobileNet(Variant("mobilenet_v1", 0.25, 32, quantized=module is litert_quantops))
    output = tmp_path / "new" / FORMATS[module]
    done = module.export(model, output)
    assert isinstance(done, module.Export)
    assert done.path == os.fspath(output)
    written = list(output.parent.iterdir())
    assert done.bytes == sum(file.stat().st_size for file in written)
    assert all(file.name.startswith(FORMATS[module]) for file in written)
