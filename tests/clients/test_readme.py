"""The first results of README and the docs, run as they stand on a folder of images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mobilenets
from convert.export.litert_quantops import integer_model
from convert.export.litert_run import LiteModel
from mobilenets import Variant
from sample.digits import KEPT, NAMES, digits

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"<!-- runs in the tests: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
SNIPPETS = dict(SNIPPET.findall((ROOT / "README.md").read_text(encoding="utf-8")))
FEATURES = dict(SNIPPET.findall((ROOT / "docs" / "speed.md").read_text(encoding="utf-8")))
QUANTIZED = dict(SNIPPET.findall((ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")))


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = tf.image.convert_image_dtype(image, tf.uint8, saturate=True)
    encode = tf.io.encode_jpeg if path.suffix == ".jpg" else tf.io.encode_png
    path.write_bytes(encode(pixels).numpy())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of five digits, a new one, and the sample's features."""
    folder = tmp_path_factory.mktemp("readme")
    images, labels, new, new_labels = digits(KEPT)
    for label, digit in enumerate(KEPT):
        for i, image in enumerate(images[labels == label][:80]):
            write(folder / "photos" / NAMES[digit] / f"{i}.png", image)
    write(folder / "new.jpg", new[new_labels == KEPT.index(6)][0])
    sample = mobilenets.load(ROOT / "sample")
    features = sample.with_classes(None)
    mobilenets.save(features, folder / "models" / "mobilenet_v1_025_64" / "feature_vector")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy."""
    return shutil.copytree(written, tmp_path / "copy")


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_there_is_one_for_each_world() -> None:
    assert list(SNIPPETS) == ["hub", "keras"]


SEEDED: dict[str, Callable[[str], str]] = {
    "hub": lambda code: f"import tf_keras\ntf_keras.utils.set_random_seed(0)\n{code}",
    "keras": lambda code: f"import keras\nkeras.utils.set_random_seed(0)\n{code}",
}
REST = """
import numpy as np
batch = next(iter(held_out))[0]
np.testing.assert_allclose(again.predict(batch), model.predict(batch), atol=1e-4)
print("held out:", model.evaluate(held_out)[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", list(SNIPPETS))
def test_a_folder_of_images(world: str, folder: Path) -> None:
    output = run(SEEDED[world](SNIPPETS[world]) + REST, folder)
    assert re.search(r"^six(: \d|$)", output, re.MULTILINE)
    accuracy = float(output.rpartition("held out: ")[2])
    assert accuracy >= 0.9


HELD_OUT = """
import numpy as np
held_out = np.load("held_out.npz")
scale = {"features_hub": 255, "features_keras": 1}[WORLD]
found = model.predict(scale * held_out["images"]).argmax(axis=1)
wanted = [names.index(str(name)) for name in held_out["names"]]
print("held out:", np.mean(found == wanted))
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", list(FEATURES))
def test_features_once(world: str, folder: Path) -> None:
    """The head learns, is part of the model, and a second session reads the cached features."""
    _, _, images, labels = digits(KEPT)
    names = [NAMES[KEPT[label]] for label in labels]
    np.savez(folder / "held_out.npz", images=images, names=names)
    kind = world.removeprefix("features_")
    code = SEEDED[kind](FEATURES[world]) + f"WORLD = {world!r}" + HELD_OUT
    accuracies = [float(run(code, folder).rpartition("held out: ")[2])]
    (index,) = folder.glob("features.index")
    written = index.stat().st_mtime_ns
    accuracies.append(float(run(code, folder).rpartition("held out: ")[2]))
    assert min(accuracies) >= 0.8
    assert index.stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snippet", "quantized"), [("quantized", True), ("distilled", "int8")], ids=["uint8", "int8"]
)
def test_quantized(snippet: str, quantized: bool | str, folder: Path) -> None:
    """The integers of the model that is trained so recognise new digits as the floats do."""
    sample = mobilenets.load(ROOT / "sample")
    names = sorted(NAMES[digit] for digit in KEPT)
    order = [KEPT.index(NAMES.index(name)) for name in names]
    mine = sample.with_classes(class_names=names)
    for ours, theirs in zip(mine.logits.weights, sample.logits.weights, strict=True):
        ours.assign(theirs.numpy()[..., order])
    mobilenets.save(mine, folder / "mine")
    # Two epochs of the ten: what is tested is that the code runs and teaches nothing wrong.
    code = QUANTIZED[snippet].replace("64, 20, 10, 3e-5", "64, 20, 2, 3e-5")
    assert (code != QUANTIZED[snippet]) == (snippet == "distilled")
    run(SEEDED["keras"](code), folder)
    trained = mobilenets.load(folder / snippet)
    assert trained.variant == Variant("mobilenet_v1", 0.25, 64, quantized=quantized)
    _, _, images, labels = digits(KEPT)
    wanted = [order.index(label) for label in labels]
    before = np.mean(mine.predict(images, verbose=0).argmax(1) == wanted)
    integers = LiteModel(integer_model(trained))
    found = [integers.run(image)[0].argmax() for image in images]
    assert np.mean(found == np.array(wanted)) >= before - 0.02
