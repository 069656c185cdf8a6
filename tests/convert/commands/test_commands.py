"""The commands as programs: quiet on the way to success, and light where they can be."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from programs import as_program

from convert.commands import commands

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt"
NAMES = [
    *("list", "inspect", "checkpoint", "all", "verify", "evaluate"),
    *("keras-weights", "lite", "publish", "slim"),
]
# Of a bar that is redrawn, the last state; a spinner leaves nothing.
OUR_OWN = re.compile(r"\s*(?:(?:images|modules|[⠀-⣿]? *checkpoints) [━╸╺ ]+ *\d+/\d+ [\d: -]+)?\s*")


def test_all_are_found() -> None:
    assert list(commands()) == NAMES
    for module in commands().values():
        assert module.HELP[0].islower()


@pytest.mark.parametrize("arguments", [("list",), ("--help",), *((n, "--help") for n in NAMES)])
def test_light_ones_do_not_load_tensorflow(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys; from convert.__main__ import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def photos(tmp_path: Path, random_images: Callable) -> Path:
    for i, image in enumerate(random_images(3, 80)):
        path = tmp_path / "photos" / "zero" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = tf.constant(np.round(image * 255).astype(np.uint8))
        path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return tmp_path / "photos"


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """The folder of the shipped sample's classification module."""
    from convert.conversion import convert

    (done,) = convert(
        SAMPLE, tmp_path / "models", kinds=["classification"], labels=SAMPLE.with_name("labels.txt")
    )
    return Path(done.directory)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "lite int8", "lite report"])
def test_nothing_but_our_own_progress(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """No message of TensorFlow's, or of anything else, on the way to success."""

    def get(fixture: str) -> Path:
        return request.getfixturevalue(fixture)

    arguments: dict[str, Callable[[], tuple]] = {
        "list": lambda: ("list",),
        "inspect": lambda: ("inspect", SAMPLE),
        "checkpoint": lambda: ("checkpoint", SAMPLE, "--output", tmp_path / "out"),
        "all": lambda: (
            *("all", "--checkpoints", _published(tmp_path), "--output", tmp_path / "out"),
            *("--only", "mobilenet_v1_025_128", "--offline"),
        ),
        "verify": lambda: ("verify", get("converted")),
        "evaluate": lambda: ("evaluate", get("converted"), "--images", get("photos")),
        "keras-weights": lambda: ("keras-weights", SAMPLE, "--output", tmp_path / "w.h5"),
        "lite": lambda: ("lite", SAMPLE, "--output", tmp_path / "m.tflite"),
        "lite int8": lambda: (
            *("lite", SAMPLE, "--output", tmp_path / "m.tflite"),
            *("--precision", "int8", "--images", get("photos"), "--report"),
        ),
        "lite report": lambda: (
            *("lite", _quantops(tmp_path), "--output", tmp_path / "m.tflite"),
            *("--report", get("photos")),
        ),
        "publish": lambda: (
            *("publish", get("converted").parents[1]),
            *("--output", tmp_path / "site"),
        ),
        "slim": lambda: ("slim", SAMPLE, "--output", tmp_path / "m.ckpt"),
    }
    done = as_program(*arguments[name]())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert OUR_OWN.fullmatch(done.stderr), done.stderr


def _published(folder: Path) -> Path:
    """A folder of checkpoints with a published variant, of random weights."""
    from convert.export import slim
    from mobilenets import MobileNet

    name = "mobilenet_v1_0.25_128"
    slim.export(MobileNet(name), folder / "checkpoints" / name / f"{name}.ckpt")
    return folder / "checkpoints"


def _quantops(folder: Path) -> Path:
    from convert.export import slim
    from mobilenets import MobileNet, Variant

    prefix = folder / "mobilenet_v1_0.25_32_quant.ckpt"
    slim.export(MobileNet(Variant("mobilenet_v1", 0.25, 32, quantized=True)), prefix)
    return prefix
