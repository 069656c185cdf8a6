"""Commands whose files must not be written: one line, and nothing has changed.

Root may write everywhere; the commands run without this capability.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from local_hosts import Hosts, hosts, tgz  # noqa: F401
from programs import in_turn

pytestmark = pytest.mark.slow

SAMPLE = Path(__file__).resolve().parents[3] / "sample" / "mobilenet_v1_0.25_64.ckpt"


def without_override() -> None:
    """Takes CAP_DAC_OVERRIDE from the program that starts next."""
    drop_from_bounding_set, dac_override = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def lock(folder: Path, mode: int = 0o555) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            path.chmod(mode)


@pytest.fixture
def world(tmp_path: Path, random_images: Callable, command: Callable) -> Iterator[Path]:
    """Photographs, modules, and a locked folder that holds what each command would write."""
    for i, image in enumerate(random_images(3, 80)):
        path = tmp_path / "photos" / "zero" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = tf.constant(np.round(image * 255).astype(np.uint8))
        path.write_bytes(tf.io.encode_png(pixels).numpy())
    labels = SAMPLE.with_name("labels.txt")
    assert (
        command("checkpoint", SAMPLE, "--labels", labels, "--output", tmp_path / "models")[0] == 0
    )
    (tmp_path / "locked").mkdir()
    yield tmp_path
    lock(tmp_path, 0o755)


def writers(world: Path, output: Path) -> dict[str, tuple]:
    module = world / "models" / "mobilenet_v1_025_64" / "classification"
    photos = ("--images", world / "photos")
    return {
        "slim": ("slim", SAMPLE, "--output", output / "m.ckpt"),
        "keras-weights": ("keras-weights", SAMPLE, "--output", output / "w.h5"),
        "keras-weights for Keras 3": (
            *("keras-weights", SAMPLE, "--output", output / "w.weights.h5"),
        ),
        "lite": ("lite", SAMPLE, "--output", output / "m.tflite"),
        "features": ("features", SAMPLE, *photos, "--output", output / "f.npz"),
        "features as Parquet": ("features", SAMPLE, *photos, "--output", output / "f.parquet"),
        "evaluate": ("evaluate", module, *photos, "--csv", output / "p.csv"),
        "checkpoint": ("checkpoint", SAMPLE, "--output", output / "made"),
        "publish": ("publish", world / "models", "--output", output / "site"),
    }


def refusals(commands: dict[str, tuple], **environment: str) -> dict[str, str]:
    """What each prints on standard error; all exit with 2."""
    done = in_turn(commands.values(), without_override, **environment)
    assert done.returncode == 0, done.stderr
    *parts, rest = re.split(r"<end (\d+)>", done.stderr)
    assert rest == ""
    said = dict(zip(commands, parts[::2], strict=True))
    assert dict(zip(commands, parts[1::2], strict=True)) == dict.fromkeys(commands, "2")
    return said


def may_write(folder: Path) -> bool:
    """Whether the commands could, as the system sees it."""
    program = f"import os; print(os.access({os.fspath(folder)!r}, os.W_OK))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=without_override,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout == "True\n"


@pytest.mark.parametrize("state", ["empty", "with an earlier output"])
def test_the_output_s_folder(state: str, world: Path, command: Callable) -> None:
    locked = world / "locked"
    commands = writers(world, locked)
    if state != "empty":
        for arguments in commands.values():
            assert command(*arguments)[0] == 0
        # Another source: nothing counts as done before.
        shutil.rmtree(locked / "made" / "mobilenet_v1_025_64" / "classification")
        (locked / "site" / "index.json").unlink()
    before = files(locked)
    lock(locked)
    if may_write(locked):
        pytest.skip("this system lets the user write to a folder without permission")
    for name, said in refusals(commands).items():
        assert said.count("error: ") == 1, (name, said)
        assert said.splitlines()[-1].startswith("error: "), (name, said)
        assert "Permission denied" in said, (name, said)
    assert files(locked) == before


def test_the_cache(world: Path, hosts: Hosts) -> None:  # noqa: F811
    parts = {f"m.ckpt{s}": Path(f"{SAMPLE}{s}") for s in (".index", ".data-00000-of-00001")}
    url = f"{hosts.url}/m.tgz"
    hosts.answers[url] = tgz({name: path.read_bytes() for name, path in parts.items()})
    lock(world / "locked")
    commands = {"inspect": ("inspect", url)}
    (said,) = refusals(commands, MOBILENETS_CACHE=os.fspath(world / "locked")).values()
    assert "Permission denied" in said
    assert files(world / "locked") == {}
