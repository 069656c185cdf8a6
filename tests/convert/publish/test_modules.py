"""What is known of a module: its network, and whose weights it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from refusals import refused
from tiers import first_fast

from convert.publish.modules import endpoints, find
from mobilenets import MobileNet, MobileNetError, Variant, published

V1, V2, QUANT = "mobilenet_v1_025_128", "mobilenet_v2_035_96", "mobilenet_v1_025_128/quantops"


@pytest.mark.parametrize(
    ("name", "classes"),
    first_fast([(V2, 7), ("mobilenet_v1_025_72", None), (QUANT, 1001), ("mobilenet_v2_140_33", 3)]),
)
def test_endpoints_are_the_models(name: str, classes: int | None) -> None:
    model = MobileNet(name, classes)
    size = model.variant.image_size
    outputs = model(keras.Input((size, size, 3), batch_size=1), return_endpoints=True)
    outputs.pop("default")
    found = endpoints(model.variant, classes)
    assert {each.name: each.shape for each in found} == {
        name: tuple(tensor.shape) for name, tensor in outputs.items()
    }
    assert [each.name for each in found] == list(outputs)


def test_all_modules_are_found(module: Callable[..., Path], tmp_path: Path) -> None:
    for name in (V2, V1, QUANT):
        module(name)
        module(name, 1001)
    hidden = tmp_path / "models" / ".old"
    (tmp_path / "models" / V2).rename(hidden)
    module(V2)
    found = find(tmp_path / "models")
    kinds = ("classification", "feature_vector")
    expected = [(name, kind) for name in (V1, QUANT) for kind in kinds] + [(V2, kinds[1])]
    assert [(each.variant.name, each.kind) for each in found] == expected
    (one,) = find(tmp_path / "models" / V2 / "feature_vector")
    assert one == found[-1]


@pytest.mark.parametrize("wrong", ["absent", "empty", "twice", "half", "old", "damaged"])
def test_what_cannot_be_published(wrong: str, module: Callable[..., Path], tmp_path: Path) -> None:
    models = tmp_path / "models"
    if wrong == "empty":
        models.mkdir()
    elif wrong != "absent":
        folder = module(V1)
    if wrong == "twice":
        folder.rename(models / "mine")
        module(V1)
    elif wrong == "half":
        (folder / "variables" / "variables.index").unlink()
    elif wrong == "old":
        (folder / "fingerprint.pb").write_bytes(b"random")
    elif wrong == "damaged":
        (folder / "assets.extra" / "mobilenet.json").write_text("{}")
    reason = {
        "absent": "no such folder",
        "empty": "holds no modules: make some",
        "twice": "are both mobilenet_v1_025_128/feature_vector",
        "half": r"variables\.index is missing",
        "old": "was written by an earlier version",
        "damaged": "mobilenet.json is damaged",
    }[wrong]
    with refused(reason, MobileNetError):
        find(models)


ARCHIVE = published.archives()[V1]
V2_ARCHIVE = published.archives()[V2]
HUB = f"https://tfhub.dev/google/imagenet/{V1}/classification/5?tf-hub-format=compressed"
APPLICATIONS = published.sources(V1, "feature_vector")[-1].url


def origin(**fields: str) -> dict[str, Any]:
    return {"origin": {"what": "file", "file": "x", "sha256": "0" * 64, **fields}}


@pytest.mark.parametrize(
    ("name", "classes", "record", "known"),
    [
        (V1, 1001, origin(sha256=ARCHIVE.sha256), True),
        (V1, None, origin(sha256=ARCHIVE.sha256), True),
        (V1, None, origin(url=HUB), True),
        (V2, None, origin(sha256=V2_ARCHIVE.sha256) | {"weights": "averages"}, True),
        (QUANT, 1001, origin(sha256=published.archives()[QUANT].sha256), True),
        # What was trained on, or of which nobody knows.
        (V1, 1001, {}, False),
        (V1, 1001, origin(), False),
        (V1, 1001, {"source": ARCHIVE.url}, False),
        (V1, 1001, origin(file="mobilenet_v1_0.25_128.tgz"), False),
        (V1, None, origin(url=ARCHIVE.url), False),
        # Of other classes, variants and variables.
        (V1, 5, origin(sha256=ARCHIVE.sha256), False),
        (V1, 1000, origin(url=HUB), False),
        ("mobilenet_v1_025_160", 1001, origin(sha256=ARCHIVE.sha256), False),
        ("mobilenet_v1_025_160", 1001, origin(url=HUB), False),
        ("mobilenet_v1_025_64", None, origin(sha256=ARCHIVE.sha256), False),
        (V2, None, origin(sha256=V2_ARCHIVE.sha256) | {"weights": "raw"}, False),
        # Keras's.
        (V1, None, origin(url=APPLICATIONS), False),
        (V1, None, origin(url=HUB.replace("tfhub.dev", "example.org")), False),
    ],
    ids=[
        *("archive", "archive-features", "hub", "averages", "quantops"),
        *("saved-by-hand", "other-hash", "by-path", "by-file-name", "by-url-alone"),
        *("fine-tuned", "1000-classes", "other-size", "hub-other-size", "unpublished", "raw-v2"),
        *("keras", "other-host"),
    ],
)
def test_published_accuracy_is_for_published_weights(
    name: str,
    classes: int | None,
    record: dict[str, Any],
    known: bool,
    module: Callable[..., Path],
) -> None:
    (found,) = find(module(name, classes, **record))
    entry = found.entry(1)
    row = published.archives().get(name)
    expected = (row.top1, row.top5) if known and row else (None, None)
    assert (entry.top1, entry.top5) == expected
    assert entry.source == record.get("origin")


@pytest.mark.parametrize(
    ("name", "classes", "cost"),
    [
        (V1, None, (14, 0.47)),
        (V1, 1001, (14, 0.47)),
        (V1, 5, (None, None)),
        ("mobilenet_v1_025_64", None, (None, None)),
    ],
)
def test_cost_is_the_networks(
    name: str,
    classes: int | None,
    cost: tuple[int | None, float | None],
    module: Callable[..., Path],
) -> None:
    (found,) = find(module(name, classes))
    entry = found.entry(1)
    assert (entry.million_macs, entry.million_parameters) == cost
    assert (entry.image_size, entry.features) == (Variant.parse(name).image_size, 256)


def test_paths_of_this_machine_are_not_published(module: Callable[..., Path]) -> None:
    folder = module(V1, **origin(file="x.ckpt"), source="/home/me/x.ckpt")
    (folder / ".DS_Store").write_bytes(b"mine")
    (found,) = find(folder)
    files = found.files()
    assert b"/home/me" not in files["parity.json"]
    assert found.record["source"] == "x.ckpt"
    assert sorted(files) == [
        "assets.extra/mobilenet.json",
        "parity.json",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
