"""The card of a module: what it says, and what it does not claim.

Its snippets run in tests/clients/test_published.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.publish import cards
from convert.publish.index import Entry
from convert.publish.modules import find
from mobilenets import published

V1, V2, QUANT = "mobilenet_v1_025_128", "mobilenet_v2_035_96", "mobilenet_v1_025_128/quantops"
Made = Callable[..., Entry]


@pytest.fixture
def entry(module: Callable[..., Path]) -> Made:
    def entry(*arguments: Any, **record: Any) -> Entry:
        (found,) = find(module(*arguments, **record))
        return found.entry(1)

    return entry


def archive(name: str) -> dict[str, Any]:
    row = published.archives()[name]
    where = {"what": "TF-Slim archive", "url": row.url, "sha256": row.sha256}
    return {"origin": where, "weights": "averages" if "_v2_" in name else "raw"}


def head(card: str) -> dict[str, str | list[str]]:
    """The names and values between the two lines of dashes."""
    _, text, _ = card.split("---\n", 2)
    found: dict[str, Any] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("- "):
            found.setdefault(name, []).append(line[2:])
        else:
            name, value = re.fullmatch(r"(\w+):(?: (\S+))?", line).groups()
            found |= {name: value} if value else {}
    return found


def test_published_weights(entry: Made) -> None:
    row = published.archives()[V1]
    card = cards.render(entry(V1, 1001, **archive(V1)))
    assert head(card) == {
        "license": "apache-2.0",
        "library_name": "tf-keras",
        "pipeline_tag": "image-classification",
        "tags": ["tensorflow", "saved-model", "mobilenet_v1"],
        "datasets": ["imagenet-1k"],
    }
    assert f"top-1 {row.top1} %, top-5 {row.top5} %" in card
    assert f"{row.million_macs} million multiply-adds" in card
    assert f"TF-Slim archive: <{row.url}>" in card
    assert row.sha256 in card
    assert "differ by at most 2.4e-05\nfrom those of keras.applications.MobileNet (Keras" in card
    assert "137 variables are bit-identical" in card
    assert "arXiv:1704.04861" in card


def test_other_weights_make_no_claims(entry: Made) -> None:
    card = cards.render(entry(V2, 1001))
    assert head(card) == {
        "library_name": "tf-keras",
        "pipeline_tag": "image-classification",
        "tags": ["tensorflow", "saved-model", "mobilenet_v2"],
    }
    assert "top-1" not in card
    assert "are Google's" not in card
    assert "The source of the weights was not recorded." in card
    assert "The module was not compared with its source." in card
    assert "arXiv:1801.04381" in card


def test_a_feature_vector(entry: Made) -> None:
    card = cards.render(entry(V2, None, **archive(V2)))
    assert head(card)["pipeline_tag"] == "image-feature-extraction"
    assert "feature vectors of length 1280" in card
    assert "`image_classification`" not in card
    assert "Logits" not in card
    assert "| `MobilenetV2/layer_3/expansion_output` | 1 x 48 x 48 x 48 |" in card


def test_quantops(entry: Made) -> None:
    card = cards.render(entry(QUANT, 1001, **archive(QUANT)))
    assert "quantization" in head(card)["tags"]
    assert "activation_range_momentum" in card
    assert "batch_norm_momentum" not in card
    assert "uint8 LiteRT model" in card
    assert card.count("arXiv:1") == 2


@pytest.mark.parametrize("name", [V1, V2, QUANT])
@pytest.mark.parametrize("classes", [None, 1001, 5])
@pytest.mark.parametrize("known", [True, False], ids=["published", "unknown"])
def test_every_card_is_whole(name: str, classes: int | None, known: bool, entry: Made) -> None:
    made = entry(name, classes, **(archive(name) if known else {"reference": None}))
    card = cards.render(made)
    assert not re.search(r"(?<!\[)None|\{[{%]|\n\n\n|[ \t]\n", card)
    assert card.endswith("\n")
    assert not card.endswith("\n\n")
    assert card.count(cards.SITE) == 3
    assert card.count(made.path) == 3
    assert cards.render(made, "https://mine.example") == card.replace(
        cards.SITE, "https://mine.example"
    )
    for endpoint in made.endpoints:
        assert f"| `{endpoint.name}` |" in card
