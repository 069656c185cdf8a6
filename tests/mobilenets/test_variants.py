"""Names of MobileNets: what was published, and how every spelling reads."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from mobilenets import VARIANTS, Variant

ARCHIVES = tomllib.loads(
    (Path(__file__).parents[2] / "mobilenets" / "published.toml").read_text(encoding="utf-8")
)


def test_published() -> None:
    def published(family: str, quantized: bool) -> set[tuple[float, int]]:
        return {
            (variant.depth_multiplier, variant.image_size)
            for variant in VARIANTS
            if variant.family == family and variant.quantized == quantized
        }

    v1 = {(m, s) for m in (0.25, 0.5, 0.75, 1.0) for s in (128, 160, 192, 224)}
    v2 = {(m, s) for m in (0.35, 0.5, 0.75, 1.0) for s in (96, 128, 160, 192, 224)}
    v2 |= {(1.3, 224), (1.4, 224)}
    assert published("mobilenet_v1", False) == v1
    assert published("mobilenet_v1", True) == v1
    assert published("mobilenet_v2", False) == v2
    assert published("mobilenet_v2", True) == set()
    assert len(VARIANTS) == len(set(VARIANTS)) == 54


def test_names_are_those_of_the_archives() -> None:
    assert [(v.name, v.slim_name) for v in VARIANTS] == [
        (name, row["slim_name"]) for name, row in ARCHIVES.items() if "slim_name" in row
    ]


@pytest.mark.parametrize(
    ("variant", "name", "slim_name"),
    [
        (
            Variant("mobilenet_v1", 0.5, 160),
            "mobilenet_v1_050_160",
            "mobilenet_v1_0.5_160",
        ),
        (
            Variant("mobilenet_v1", 1.0, 224, quantized=True),
            "mobilenet_v1_100_224/quantops",
            "mobilenet_v1_1.0_224_quant",
        ),
        (
            Variant("mobilenet_v2", 0.35, 96),
            "mobilenet_v2_035_96",
            "mobilenet_v2_0.35_96",
        ),
        (
            Variant("mobilenet_v2", 0.35, 96, quantized="int8"),
            "mobilenet_v2_035_96/int8",
            "mobilenet_v2_0.35_96_int8",
        ),
        (
            Variant("mobilenet_v2", 1.4, 224),
            "mobilenet_v2_140_224",
            "mobilenet_v2_1.4_224",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_spelling(variant: Variant, name: str, slim_name: str) -> None:
    assert variant.name == str(variant) == name
    assert variant.slim_name == slim_name
    assert Variant.parse(name) == Variant.parse(slim_name) == variant


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_spelling_reads(variant: Variant) -> None:
    kaggle_name = f"{variant.depth_multiplier * 100:03.0f}-{variant.image_size}" + (
        "-quantops" if variant.quantized else ""
    )
    family = variant.family.removeprefix("mobilenet_")
    spellings = [variant.name, variant.slim_name]
    for kind in ("feature_vector", "classification"):
        spellings += [
            f"{variant.name}/{kind}",
            f"google/imagenet/{variant.name}/{kind}/1",
            f"google/imagenet/{variant.name}/{kind}/5",
            f"google/image/imagenet/{variant.name}/{kind}/1",
            f"https://tfhub.dev/google/imagenet/{variant.name}/{kind}/3",
            f"https://tfhub.dev/google/imagenet/{variant.name}/{kind}/3/",
        ]
        kaggle = f"{kaggle_name}-{kind.replace('_', '-')}"
        spellings += [
            f"google/mobilenet-{family}/tensorFlow2/{kaggle}",
            f"google/mobilenet-{family}/tensorFlow1/{kaggle}/1",
            f"https://www.kaggle.com/models/google/mobilenet-{family}"
            f"/frameworks/TensorFlow2/variations/{kaggle}/versions/2",
        ]
    assert {spelling: Variant.parse(spelling) for spelling in spellings} == dict.fromkeys(
        spellings, variant
    )
    assert Variant.parse(variant) is variant


@pytest.mark.parametrize("multiplier", [0.1, 0.333, 0.6, 1.25, 2.0, 9.99, 1 / 3, 1e-5], ids=str)
@pytest.mark.parametrize("image_size", [32, 65, 299, 1024], ids=str)
@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2"])
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_unpublished_variants_have_names(
    family: str, multiplier: float, image_size: int, quantized: bool
) -> None:
    variant = Variant(family, multiplier, image_size, quantized)
    assert variant not in VARIANTS
    assert Variant.parse(variant.name) == variant
    assert Variant.parse(variant.slim_name) == variant


def test_numbers_are_normalised() -> None:
    variant = Variant("mobilenet_v1", 1, 224.0)  # type: ignore[arg-type]
    assert variant == Variant("mobilenet_v1", 1.0, 224)
    assert (type(variant.depth_multiplier), type(variant.image_size)) == (float, int)


def test_unquantized() -> None:
    quantized = Variant("mobilenet_v1", 0.5, 160, quantized=True)
    assert quantized.unquantized == Variant("mobilenet_v1", 0.5, 160)
    assert quantized.unquantized.unquantized == quantized.unquantized


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        VARIANTS[0].image_size = 96  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mobilenet_v3", 1.0, 224), "family must be one of mobilenet_v1, mobilenet_v2; got"),
        (("mobilenet_v1", 0.0, 224), "depth_multiplier must be above 0 and below 10; got 0.0"),
        (("mobilenet_v1", -0.5, 224), "depth_multiplier must be above 0 and below 10; got -0.5"),
        (("mobilenet_v1", 10.0, 224), "depth_multiplier must be above 0 and below 10; got 10.0"),
        (
            ("mobilenet_v1", float("nan"), 224),
            "depth_multiplier must be above 0 and below 10; got nan",
        ),
        (("mobilenet_v1", 1.0, 31), "image_size must be a whole number of pixels from 32 up"),
        (("mobilenet_v1", 1.0, 32.5), "image_size must be a whole number of pixels from 32 up"),
    ],
    ids=[
        "family",
        "multiplier-0",
        "multiplier-negative",
        "multiplier-10",
        "multiplier-nan",
        "size-31",
        "size-32.5",
    ],
)
def test_impossible_variants_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Variant(*arguments)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "mobilenet",
        "mobilenet_v3_100_224",
        "mobilenet_v1_050",
        "mobilenet_v1_050_",
        "mobilenet_v1_050_160_float",
        "mobilenet_v1_050_160/quantops/logits/1",
        "my_mobilenet_v1_050_160",
        "google/imagenet/inception_v3/classification/5",
        "google/mobilenet-v3/tensorFlow2/100-224-classification",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no MobileNet variant is called") as caught:
        Variant.parse(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mobilenet_v1_050_16", "mobilenet_v1_000_224"])
def test_names_of_impossible_variants_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"image_size|depth_multiplier"):
        Variant.parse(name)
