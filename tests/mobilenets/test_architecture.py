"""The tables of rows: exact counts of every published network, and facts that others published."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiers import slow

from mobilenets import VARIANTS, MobileNet, Variant
from mobilenets.architecture import (
    convolutions,
    dropout_rate,
    num_features,
    rows,
    scope,
    variables,
)

ARCHIVES = tomllib.loads(
    (Path(__file__).parents[2] / "mobilenets" / "published.toml").read_text(encoding="utf-8")
)
FLOAT = [variant for variant in VARIANTS if not variant.quantized]

# Trainable elements of the feature vector and with 1001 classes, elements of the moving
# statistics, multiply-adds with 1001 classes. Printed by `python tests/test_architecture.py`.
COUNTS = {
    "mobilenet_v1_100_224": (3_206_976, 4_233_001, 21_888, 568_741_376),
    "mobilenet_v1_100_192": (3_206_976, 4_233_001, 21_888, 418_122_752),
    "mobilenet_v1_100_160": (3_206_976, 4_233_001, 21_888, 290_676_224),
    "mobilenet_v1_100_128": (3_206_976, 4_233_001, 21_888, 186_401_792),
    "mobilenet_v1_075_224": (1_816_560, 2_586_329, 16_416, 325_401_216),
    "mobilenet_v1_075_192": (1_816_560, 2_586_329, 16_416, 239_274_240),
    "mobilenet_v1_075_160": (1_816_560, 2_586_329, 16_416, 166_397_568),
    "mobilenet_v1_075_128": (1_816_560, 2_586_329, 16_416, 106_771_200),
    "mobilenet_v1_050_224": (818_592, 1_332_105, 10_944, 149_497_600),
    "mobilenet_v1_050_192": (818_592, 1_332_105, 10_944, 109_970_944),
    "mobilenet_v1_050_160": (818_592, 1_332_105, 10_944, 76_525_312),
    "mobilenet_v1_050_128": (818_592, 1_332_105, 10_944, 49_160_704),
    "mobilenet_v1_025_224": (213_072, 470_329, 5_472, 41_030_528),
    "mobilenet_v1_025_192": (213_072, 470_329, 5_472, 30_212_864),
    "mobilenet_v1_025_160": (213_072, 470_329, 5_472, 21_059_456),
    "mobilenet_v1_025_128": (213_072, 470_329, 5_472, 13_570_304),
    "mobilenet_v2_140_224": (4_315_776, 6_110_569, 47_936, 582_197_616),
    "mobilenet_v2_130_224": (3_721_792, 5_388_457, 44_256, 509_376_224),
    "mobilenet_v2_100_224": (2_223_872, 3_506_153, 34_112, 300_775_552),
    "mobilenet_v2_100_192": (2_223_872, 3_506_153, 34_112, 221_317_888),
    "mobilenet_v2_100_160": (2_223_872, 3_506_153, 34_112, 154_084_480),
    "mobilenet_v2_100_128": (2_223_872, 3_506_153, 34_112, 99_075_328),
    "mobilenet_v2_100_96": (2_223_872, 3_506_153, 34_112, 56_290_432),
    "mobilenet_v2_075_224": (1_355_424, 2_637_705, 26_640, 209_071_072),
    "mobilenet_v2_075_192": (1_355_424, 2_637_705, 26_640, 153_943_168),
    "mobilenet_v2_075_160": (1_355_424, 2_637_705, 26_640, 107_296_480),
    "mobilenet_v2_075_128": (1_355_424, 2_637_705, 26_640, 69_131_008),
    "mobilenet_v2_075_96": (1_355_424, 2_637_705, 26_640, 39_446_752),
    "mobilenet_v2_050_224": (687_680, 1_969_961, 18_544, 97_133_120),
    "mobilenet_v2_050_192": (687_680, 1_969_961, 18_544, 71_703_040),
    "mobilenet_v2_050_160": (687_680, 1_969_961, 18_544, 50_185_280),
    "mobilenet_v2_050_128": (687_680, 1_969_961, 18_544, 32_579_840),
    "mobilenet_v2_050_96": (687_680, 1_969_961, 18_544, 18_886_720),
    "mobilenet_v2_035_224": (396_128, 1_678_409, 14_080, 59_287_088),
    "mobilenet_v2_035_192": (396_128, 1_678_409, 14_080, 43_897_792),
    "mobilenet_v2_035_160": (396_128, 1_678_409, 14_080, 30_876_080),
    "mobilenet_v2_035_128": (396_128, 1_678_409, 14_080, 20_221_952),
    "mobilenet_v2_035_96": (396_128, 1_678_409, 14_080, 11_935_408),
}


def counts(variant: Variant) -> tuple[int, int, int, int]:
    headless, whole = convolutions(variant), convolutions(variant, 1001)
    return (
        sum(line.parameters for line in headless),
        sum(line.parameters for line in whole),
        sum(line.statistics for line in whole),
        sum(line.multiply_adds for line in whole),
    )


@pytest.mark.parametrize("variant", FLOAT, ids=str)
def test_counts(variant: Variant) -> None:
    assert counts(variant) == COUNTS[variant.name]


def test_every_float_variant_is_counted() -> None:
    assert list(COUNTS) == [variant.name for variant in FLOAT]
    assert len(COUNTS) == 38


@pytest.mark.parametrize(
    ("name", "parameters"),
    # With 1000 classes, statistics included: the table of https://keras.io/api/applications/.
    [("mobilenet_v1_100_224", 4_253_864), ("mobilenet_v2_100_224", 3_538_984)],
)
def test_counts_of_keras(name: str, parameters: int) -> None:
    lines = convolutions(Variant.parse(name), 1000)
    assert sum(line.parameters + line.statistics for line in lines) == parameters


# The size changes no variable, so one network per multiplier; the others are built in
# test_applications.
@pytest.mark.parametrize(
    "variant",
    [
        # The narrowest, and the one whose last layer is wider than the paper's.
        v if v.depth_multiplier in (0.25, 0.35, 1.4) else slow(v)
        for v in FLOAT
        if v.image_size == 224
    ],
    ids=str,
)
@pytest.mark.parametrize("num_classes", [None, 1001], ids=["feature_vector", "classification"])
def test_counts_of_the_model(variant: Variant, num_classes: int | None) -> None:
    model = MobileNet(variant, num_classes)
    headless, whole, statistics, _ = COUNTS[variant.name]

    def elements(variables: list) -> int:
        return sum(int(np.prod(variable.shape)) for variable in variables)

    trainable = headless if num_classes is None else whole
    assert elements(model.trainable_variables) == trainable
    assert elements(model.non_trainable_variables) == statistics
    assert model.count_params() == trainable + statistics


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1_025_32",
        "mobilenet_v1_011_32/quantops",
        "mobilenet_v2_035_32",
        "mobilenet_v2_035_32/quantops",
        slow("mobilenet_v1_025_32/int8"),
        "mobilenet_v2_035_32/int8",
    ],
)
@pytest.mark.parametrize("num_classes", [None, 7], ids=["feature_vector", "classification"])
def test_variables_of_the_model(name: str, num_classes: int | None) -> None:
    built = MobileNet(name, num_classes).slim_variables
    expected = [(name, tuple(variable.shape)) for name, variable in built.items()]
    assert list(variables(Variant.parse(name), num_classes).items()) == expected


@pytest.mark.parametrize("size", [128, 160, 192, 224])
def test_counts_of_the_real_checkpoints(size: int, reference_data: Path) -> None:
    name = f"mobilenet_v1_0.25_{size}"
    shapes = tf.train.load_checkpoint(
        str(reference_data / "checkpoints" / name / f"{name}.ckpt")
    ).get_variable_to_shape_map()
    statistics = sum(np.prod(shape) for key, shape in shapes.items() if "/moving_" in key)
    trainable = sum(map(np.prod, shapes.values())) - statistics
    _, whole, ours, _ = COUNTS[Variant.parse(name).name]
    assert (trainable, statistics) == (whole, ours)


# Where Slim's table says something else than its network computes, in millions. V1's paper
# (table 6) has 325 for 0.75 and 149 for 0.5 at 224 pixels, as computed.
DEVIATING = {
    "mobilenet_v1_075_224": 317,
    "mobilenet_v1_075_192": 233,
    "mobilenet_v1_075_160": 162,
    "mobilenet_v1_075_128": 104,
    "mobilenet_v1_050_224": 150,
    "mobilenet_v1_025_192": 34,
}


@pytest.mark.parametrize("variant", FLOAT, ids=str)
def test_published_multiply_adds(variant: Variant) -> None:
    published = ARCHIVES[variant.name]["million_macs"]
    millions = COUNTS[variant.name][3] / 1e6
    # V1's table rounds, V2's cuts off.
    computed = round(millions) if variant.family == "mobilenet_v1" else int(millions)
    if variant.name in DEVIATING:
        assert computed != published == DEVIATING[variant.name]
    else:
        assert computed == published


@pytest.mark.parametrize("variant", FLOAT, ids=str)
def test_published_parameters(variant: Variant) -> None:
    published = ARCHIVES[variant.name]["million_parameters"]
    _, parameters, statistics, _ = COUNTS[variant.name]
    if variant.family == "mobilenet_v1":
        assert abs(parameters / 1e6 - published) < 0.01
    else:
        # V2's table leaves out batch norm, whose gammas and betas are as many as its statistics.
        assert round((parameters - statistics) / 1e6, 2) == published


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("mobilenet_v1_025_128", 256),
        ("mobilenet_v1_050_128", 512),
        ("mobilenet_v1_075_128", 768),
        ("mobilenet_v1_100_128", 1024),
        ("mobilenet_v2_035_96", 1280),
        ("mobilenet_v2_050_96", 1280),
        ("mobilenet_v2_075_96", 1280),
        ("mobilenet_v2_100_96", 1280),
        ("mobilenet_v2_130_224", 1664),
        ("mobilenet_v2_140_224", 1792),
    ],
)
def test_num_features(name: str, length: int) -> None:
    assert num_features(Variant.parse(name)) == length


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        (
            "mobilenet_v1_100_224",
            "32 64 128 128 256 256 512 512 512 512 512 512 1024 1024",
        ),
        ("mobilenet_v1_025_224", "8 16 32 32 64 64 128 128 128 128 128 128 256 256"),
        # Slim's min_depth is 8.
        ("mobilenet_v1_010_224", "8 8 12 12 25 25 51 51 51 51 51 51 102 102"),
        (
            "mobilenet_v2_100_224",
            "32 16 24 24 32 32 32 64 64 64 64 96 96 96 160 160 160 320 1280",
        ),
        (
            "mobilenet_v2_035_96",
            "16 8 8 8 16 16 16 24 24 24 24 32 32 32 56 56 56 112 1280",
        ),
        (
            "mobilenet_v2_075_96",
            "24 16 24 24 24 24 24 48 48 48 48 72 72 72 120 120 120 240 1280",
        ),
        (
            "mobilenet_v2_140_224",
            "48 24 32 32 48 48 48 88 88 88 88 136 136 136 224 224 224 448 1792",
        ),
    ],
)
def test_widths(name: str, widths: str) -> None:
    assert " ".join(str(row.filters) for row in rows(Variant.parse(name))) == widths


@pytest.mark.parametrize(
    ("name", "strides"),
    [("mobilenet_v1_050_160", "21212121111121"), ("mobilenet_v2_050_160", "2121211211111121111")],
)
def test_strides(name: str, strides: str) -> None:
    assert "".join(str(row.strides) for row in rows(Variant.parse(name))) == strides


@pytest.mark.parametrize("size", [32, 33, 63, 65, 97, 224], ids=str)
def test_strided_convolutions_round_sizes_up(size: int) -> None:
    v1 = convolutions(Variant("mobilenet_v1", 0.25, size), 10)
    halved = size
    for line in v1[:-1]:
        halved = (halved + 1) // 2 if line.strides == 2 else halved
        assert line.output_size == halved
    assert v1[-1].output_size == 1
    assert halved == (size + 31) // 32


def test_lines_of_a_block() -> None:
    lines = {line.scope: line for line in convolutions(Variant.parse("mobilenet_v2_100_224"), 5)}
    expand, depthwise, project = (
        lines[f"expanded_conv_1/{part}"] for part in ("expand", "depthwise", "project")
    )
    assert (expand.filters, expand.output_size, expand.parameters) == (96, 112, 16 * 96 + 2 * 96)
    assert (depthwise.filters, depthwise.output_size) == (96, 56)
    assert depthwise.parameters == 9 * 96 + 2 * 96
    assert depthwise.multiply_adds == 9 * 96 * 56 * 56
    assert (project.filters, project.output_size) == (24, 56)
    assert project.multiply_adds == 96 * 24 * 56 * 56
    assert lines["Logits/Conv2d_1c_1x1"].parameters == 1280 * 5 + 5
    assert lines["Logits/Conv2d_1c_1x1"].statistics == 0
    assert "expanded_conv/expand" not in lines


def test_facts_of_the_families() -> None:
    assert (scope("mobilenet_v1"), scope("mobilenet_v2")) == ("MobilenetV1", "MobilenetV2")
    assert (dropout_rate("mobilenet_v1"), dropout_rate("mobilenet_v2")) == (0.001, 0.2)


if __name__ == "__main__":
    for each in FLOAT:
        print(f'    "{each.name}": ({", ".join(f"{number:_}" for number in counts(each))}),')
