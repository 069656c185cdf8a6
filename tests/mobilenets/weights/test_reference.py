"""The checkpoints of the reference data: Google's own, and random ones that Slim wrote."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from slim_checkpoints import AVERAGE, written

from mobilenets import weights
from mobilenets.variants import Variant
from mobilenets.weights.bundle import Checkpoint, find
from mobilenets.weights.slim import select


def opened(folder: Path) -> Checkpoint:
    return Checkpoint(find(folder))


REFERENCE = {
    **{
        f"checkpoints/mobilenet_v1_0.25_{size}": (f"mobilenet_v1_025_{size}", 1001, 137, 0, {})
        for size in (128, 160, 192, 224)
    },
    "checkpoints_2018/mobilenet_v1_0.25_224": (
        "mobilenet_v1_025_224",
        1001,
        137,
        0,
        {
            "averages not exported": 137,
            "averages of losses": 2,
            "global_step": 1,
            "optimizer slots": 166,
        },
    ),
    "checkpoints/mobilenet_v1_0.25_128_quant": (
        "mobilenet_v1_025_128/quantops", 1001, 249, 0, {}
    ),
    "checkpoints/mobilenet_v1_0.5_160_quant": (
        "mobilenet_v1_050_160/quantops", 1001, 249, 0, {}
    ),
    "checkpoints/mobilenet_v1_0.75_192_quant": (
        "mobilenet_v1_075_192/quantops", 1001, 249, 0, {}
    ),
    "checkpoints/mobilenet_v1_1.0_224_quant": (
        "mobilenet_v1_100_224/quantops", None, 243, 0, {}
    ),
    "hub_tf1/mobilenet_v2_035_128_feature_vector_2": ("mobilenet_v2_035_128", None, 260, 0, {}),
    "slim_random/mobilenet_v1_0.25_128_quant": (
        "mobilenet_v1_025_128/quantops", 1001, 249, 0, {"global_step": 1}
    ),
    "slim_random/mobilenet_v1_0.5_160": (
        "mobilenet_v1_050_160", 1001, 137, 0, {"averages not exported": 126, "global_step": 1}
    ),
    "slim_random/mobilenet_v2_0.35_96": (
        "mobilenet_v2_035_96",
        1001,
        262,
        262,
        {"global_step": 1, "optimizer slots": 310, "raw variables replaced by averages": 262},
    ),
}  # fmt: skip
"""Folder to variant, classes, exported variables, averages among them, leftovers' counts."""


class TestReferenceCheckpoints:
    @pytest.mark.parametrize("folder", REFERENCE)
    def test_is_identified_and_read(self, reference_data: Path, folder: str) -> None:
        name, classes, exported, averaged, leftovers = REFERENCE[folder]
        with weights.open(reference_data / folder) as found:
            assert found.variant().name == name
            assert found.num_classes == classes
            assert (len(found.keys), len(found.averaged)) == (exported, averaged)
            assert {k: len(keys) for k, keys in found.leftovers.items()} == leftovers
            assert found.unknown == {}
            accounted = [*found.keys.values(), *itertools.chain(*found.leftovers.values())]
            assert len(set(accounted)) == len(accounted) == found.entries
            values = found.values(found.variant())
        assert sorted(values) == sorted(found.keys)
        for name, key in found.keys.items():
            assert key.removesuffix(AVERAGE) == name
            assert values[name].shape == found.shapes[name]
            assert values[name].dtype == np.float32
            assert np.isfinite(values[name]).all()

    @pytest.mark.parametrize("folder", REFERENCE)
    def test_shapes_alone_tell_the_network(self, reference_data: Path, folder: str) -> None:
        expected = Variant.parse(REFERENCE[folder][0])
        with weights.open(reference_data / folder) as found:
            unnamed = dataclasses.replace(found, source="unnamed/model.ckpt", file="model.ckpt")
            assert unnamed.variant(image_size=expected.image_size) == expected

    def test_v2_exports_other_values_than_the_raw_ones(self, reference_data: Path) -> None:
        checkpoint = opened(reference_data / "slim_random/mobilenet_v2_0.35_96")
        selection = select(checkpoint)
        name = "MobilenetV2/expanded_conv_3/depthwise/BatchNorm/moving_variance"
        average = selection.keys[name]
        values = checkpoint.read([name, average])
        assert average == name + AVERAGE
        assert not np.array_equal(values[name], values[average])

    def test_unreadable_slots_of_the_original(self, reference_data: Path) -> None:
        folder = reference_data / "checkpoints_2018/mobilenet_v1_0.25_224"
        checkpoint = opened(folder)
        slot = "MobilenetV1/Conv2d_0/weights/RMSProp"
        assert slot in select(checkpoint).leftovers["optimizer slots"]
        with refused(f"cannot read {slot}: "):
            checkpoint.read([slot])

    def test_what_is_copied_is_the_same(self, reference_data: Path, tmp_path: Path) -> None:
        checkpoint = opened(reference_data / "checkpoints/mobilenet_v1_0.25_128")
        values = checkpoint.read(checkpoint.shapes)
        copy = Checkpoint(written(tmp_path, "copy.ckpt", values))
        found = copy.read(values)
        assert all(found[key].tobytes() == value.tobytes() for key, value in values.items())
