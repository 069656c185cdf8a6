"""The commands as programs: quiet on the way to success, and light where they can be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import in_turn, writers
from tiers import slow

from convert.commands import commands

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt"
NAMES = [
    *("list", "inspect", "checkpoint", "all", "verify", "evaluate"),
    *("features", "keras-weights", "lite", "publish", "slim"),
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


@pytest.mark.slow
def test_nothing_but_our_own_progress(
    tmp_path: Path, photos: Path, published_checkpoints: Callable[..., Path]
) -> None:
    """No message of TensorFlow's, or of anything else, on the way to success."""
    checkpoints = published_checkpoints("mobilenet_v1_0.25_128")
    converted = tmp_path / "out" / "mobilenet_v1_025_64" / "classification"
    labels = SAMPLE.with_name("labels.txt")
    commands: dict[str, tuple] = {
        "list": ("list",),
        "inspect": ("inspect", SAMPLE),
        "checkpoint": ("checkpoint", SAMPLE, "--output", tmp_path / "out", "--labels", labels),
        "all": (
            *("all", "--checkpoints", checkpoints, "--output", tmp_path / "all"),
            *("--only", "mobilenet_v1_025_128", "--offline"),
        ),
        "verify": ("verify", converted),
        "evaluate": ("evaluate", converted, "--images", photos),
        "features": ("features", SAMPLE, "--images", photos, "--output", tmp_path / "f.npz"),
        "keras-weights": ("keras-weights", SAMPLE, "--output", tmp_path / "w.h5"),
        "lite": ("lite", SAMPLE, "--output", tmp_path / "m.tflite"),
        "lite int8": (
            *("lite", SAMPLE, "--output", tmp_path / "m.tflite"),
            *("--precision", "int8", "--images", photos, "--report"),
        ),
        "evaluate several": (
            *("evaluate", converted, tmp_path / "m.tflite", "--images", photos),
            *("--csv", tmp_path / "predictions.csv"),
        ),
        # TensorFlow takes functions that are made alike for one that is traced again and again.
        "evaluate many": (
            "evaluate",
            converted,
            *_copies(tmp_path / "copies", 6),
            "--images",
            photos,
        ),
        "lite report": (
            *("lite", _quantops(tmp_path), "--output", tmp_path / "m.tflite"),
            *("--report", photos),
        ),
        "publish": ("publish", tmp_path / "out", "--output", tmp_path / "site"),
        "slim": ("slim", SAMPLE, "--output", tmp_path / "m.ckpt"),
    }
    assert {arguments[0] for arguments in commands.values()} == set(NAMES)
    done = in_turn(commands.values())
    assert done.returncode == 0, done.stderr
    outputs, errors = (text.split("<end 0>") for text in (done.stdout, done.stderr))
    for name, output, error in zip([*commands, "its end"], outputs, errors, strict=True):
        assert output.strip() or name == "its end", name
        assert OUR_OWN.fullmatch(error), (name, error)


def _copies(folder: Path, count: int) -> list[Path]:
    """Prefixes of the sample's checkpoint in folders of its own."""
    copies = [folder / str(i) for i in range(count)]
    for copy in copies:
        copy.mkdir(parents=True)
        for file in SAMPLE.parent.glob(f"{SAMPLE.name}.*"):
            shutil.copy(file, copy)
    return [copy / SAMPLE.name for copy in copies]


@pytest.mark.parametrize("output", ["/", slow("."), slow("..")])
@pytest.mark.parametrize(
    "name",
    [
        "lite",
        *map(slow, ("slim", "keras-weights", "features", "features as Parquet", "evaluate")),
    ],
)
def test_a_file_needs_a_name(
    name: str, output: str, tmp_path: Path, photos: Path, command: Callable, monkeypatch
) -> None:
    if name == "evaluate":
        labels = ("--labels", SAMPLE.with_name("labels.txt"))
        assert command("checkpoint", SAMPLE, *labels, "--output", tmp_path / "models")[0] == 0
    given = writers(tmp_path / "models", photos, tmp_path / "out")[name]
    (tmp_path / "empty" / "cwd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "cwd")
    place = next(i for i, each in enumerate(given) if each in ("--output", "--csv"))
    arguments = [*given[: place + 1], output, *given[place + 2 :]]
    code, _, error = command(*arguments)
    assert code == 2
    # Above may be the last state of a bar.
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error
    assert not list(Path().iterdir())


def _quantops(folder: Path) -> Path:
    from convert.export import slim
    from mobilenets import MobileNet, Variant

    prefix = folder / "mobilenet_v1_0.25_32_quant.ckpt"
    slim.export(MobileNet(Variant("mobilenet_v1", 0.25, 32, quantized=True)), prefix)
    return prefix
