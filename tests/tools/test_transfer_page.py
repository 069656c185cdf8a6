"""The page of transfer learning: what is trained, what is kept, and the table."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convert.errors import ConvertError
from mobilenets import Variant
from tools import transfer_page
from tools.transfer_page import Run

SAMPLE = Path(__file__).parents[2] / "sample"
RUN = Run(
    network="mobilenet_v1_100_224",
    image_size=224,
    way="native",
    tuned=False,
    seed=0,
    right=176,
    held_out=200,
    training=300,
    classes=5,
    seconds=40.0,
    megabytes=1200.0,
    cores=1,
)
ARGUMENTS = ("--training", "a", "--held-out", "b")


def written(folder: Path, *runs: Run) -> Path:
    file = folder / "runs"
    file.write_text("".join(f"{json.dumps(asdict(run))}\n" for run in runs))
    return file


def test_a_row_is_of_all_seeds() -> None:
    runs = [
        RUN,
        replace(RUN, tuned=True, right=190, seconds=90.0, megabytes=2000.0),
        replace(RUN, seed=1, right=172, seconds=42.0, megabytes=1100.0),
    ]
    *before, frozen, tuned, end = transfer_page.page(runs)
    assert "300 photographs of 5 classes to learn from, 200 held out." in before
    assert any("on one core of " in line for line in before)
    network = "| `mobilenet_v1_100_224` | 224 | native |"
    assert frozen == f"{network} head | 87.0 % (86.0 to 88.0) | 2 | 41 | 1,200 |"
    assert tuned == f"{network} all | 95.0 % (95.0 to 95.0) | 1 | 90 | 2,000 |"
    assert end == "<!-- end -->"


@pytest.mark.parametrize(
    "other",
    [{"training": 299}, {"held_out": 100}, {"classes": 4}, {"cores": 2}],
    ids=lambda other: next(iter(other)),
)
def test_runs_that_cannot_be_compared(other: dict[str, int]) -> None:
    with pytest.raises(ConvertError, match="2 kinds of runs"):
        transfer_page.page([RUN, replace(RUN, **other)])


def test_rows_stand_in_order() -> None:
    """Whatever was trained first: by network, image size and way, the head before all."""
    keys = [
        ("mobilenet_v1_100_224", 224, "hub.KerasLayer", False),
        ("mobilenet_v1_100_224", 224, "native", False),
        ("mobilenet_v1_100_224", 224, "native", True),
        ("mobilenet_v2_035_128", 128, "native", False),
        ("mobilenet_v2_035_128", 192, "native", False),
    ]
    runs = [replace(RUN, network=n, image_size=s, way=w, tuned=t) for n, s, w, t in keys]
    shuffled = [runs[i] for i in (4, 1, 2, 3, 0)]
    found = transfer_page.page(shuffled)[-6:-1]
    assert [line.split(" | ")[:4] for line in found] == [
        [f"| `{n}`", str(s), w, "all" if t else "head"] for n, s, w, t in keys
    ]


def test_what_is_done_is_not_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeds take turns, so that whatever is interrupted has some of everything."""
    variants = {name: Variant.parse(f"mobilenet_v2_{name}_96") for name in ("035", "050")}
    monkeypatch.setattr(
        transfer_page, "load_module", lambda name: SimpleNamespace(variant=variants[name])
    )
    monkeypatch.setattr(transfer_page, "WAYS", ("hub.KerasLayer", "native"))
    done = [
        replace(RUN, network="mobilenet_v2_050_96", image_size=96),
        replace(RUN, network="mobilenet_v2_035_96", image_size=96, seed=1),
        replace(RUN, network="mobilenet_v2_035_96", image_size=128),
    ]
    assert list(transfer_page._missing(["035", "050"], None, 2, done)) == [
        ("035", 96, "hub.KerasLayer", 0),
        ("035", 96, "native", 0),
        ("050", 96, "hub.KerasLayer", 0),
        ("035", 96, "hub.KerasLayer", 1),
        ("050", 96, "hub.KerasLayer", 1),
        ("050", 96, "native", 1),
    ]
    assert list(transfer_page._missing(["035"], 128, 1, done)) == [
        ("035", 128, "hub.KerasLayer", 0)
    ]


def test_the_page_is_made_of_what_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Old\n<!-- end -->\n\n## By hand\n")
    file = written(tmp_path, RUN)
    assert transfer_page._main([*ARGUMENTS, "--runs", str(file), "--output", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert lines[0] == "# Transfer learning on photographs"
    assert lines[-4].endswith("| 88.0 % (88.0 to 88.0) | 1 | 40 | 1,200 |")
    assert lines[-3:] == ["<!-- end -->", "", "## By hand"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "there are no runs"), ("{}", "not a file of runs"), ("x", "not a file of runs")],
    ids=["empty", "no run", "no JSON"],
)
def test_a_file_without_runs(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, file = tmp_path / "page.md", tmp_path / "runs"
    file.write_text(content)
    assert transfer_page._main([*ARGUMENTS, "--runs", str(file), "--output", str(page)]) == 2
    assert message in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", transfer_page.WAYS)
def test_the_statistics_stay_and_the_weights_move(way: str) -> None:
    images = np.random.default_rng(0).random((8, 64, 64, 3), np.float32)
    learner = transfer_page.WAYS[way](str(SAMPLE), 64, ["a", "b"])
    learner.thaw()
    model: Any = learner.model
    features = learner.features(images).numpy()
    # A head of zeros has no gradient for what is before it.
    (kernel,) = (each for each in learner.head.weights if len(each.shape) > 1)
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape))
    before = {id(each): each.numpy() for each in model.weights}
    model.compile(
        learner.library.optimizers.Adam(0.001),
        learner.library.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, np.arange(8) % 2, epochs=1, verbose=0)
    # One convolution with its batch norm is 5 variables; 13 depthwise, 14 others, and the head.
    assert len(model.weights) == 27 * 5 + 2
    changed = [each for each in model.weights if np.any(before[id(each)] != each.numpy())]
    assert not [each for each in changed if "moving" in getattr(each, "path", each.name)]
    assert len(changed) >= 27 + 2
    native = transfer_page.WAYS["native"](str(SAMPLE), 64, ["a", "b"])
    np.testing.assert_allclose(features, native.features(images), atol=1e-4)
