"""Every variable of a TF-Slim checkpoint is accounted for: exported, left out or unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from refusals import refused
from slim_checkpoints import AVERAGE, network, opened, selected, written

from mobilenets.weights.slim import select


class TestSelect:
    V1 = ("MobilenetV1/Conv2d_0/BatchNorm/moving_mean", "MobilenetV1/Conv2d_0/weights")
    V2 = ("MobilenetV2/Conv/BatchNorm/moving_mean", "MobilenetV2/Conv/weights")

    @pytest.mark.parametrize(
        ("names", "weights", "averaged"),
        [
            pytest.param(V1, "auto", False, id="v1-auto"),
            pytest.param(V1, "raw", False, id="v1-raw"),
            pytest.param(V1, "averages", True, id="v1-averages"),
            pytest.param(V2, "auto", True, id="v2-auto"),
            pytest.param(V2, "raw", False, id="v2-raw"),
            pytest.param(V2, "averages", True, id="v2-averages"),
        ],
    )
    def test_averages_or_raw(
        self, tmp_path: Path, names: tuple[str, ...], weights: str, averaged: bool
    ) -> None:
        averages = [name + AVERAGE for name in names]
        selection = selected(tmp_path, [*names, *averages], weights)
        exported = averages if averaged else names
        assert selection.keys == dict(zip(names, exported, strict=True))
        assert selection.averaged == (2 if averaged else 0)
        assert selection.leftovers == (
            {"raw variables replaced by averages": list(names)}
            if averaged
            else {"averages not exported": averages}
        )
        assert selection.unknown == []

    def test_v2_exports_unshadowed_variables_raw(self, tmp_path: Path) -> None:
        statistics, weights = self.V2
        selection = selected(tmp_path, [statistics, weights, weights + AVERAGE])
        assert selection.keys == {statistics: statistics, weights: weights + AVERAGE}
        assert selection.averaged == 1
        assert selection.leftovers == {"raw variables replaced by averages": [weights]}

    def test_v2_without_averages_is_raw(self, tmp_path: Path) -> None:
        selection = selected(tmp_path, self.V2)
        assert selection.keys == {name: name for name in self.V2}
        assert (selection.averaged, selection.leftovers) == (0, {})

    @pytest.mark.parametrize("names", [V1, V2], ids=["v1", "v2"])
    def test_averages_demanded_where_there_are_none(
        self, tmp_path: Path, names: tuple[str, ...]
    ) -> None:
        losses = ["total_loss" + AVERAGE]
        with refused(r"holds no moving averages .*\(weights: raw\)"):
            selected(tmp_path, [*names, *losses], "averages")

    def test_an_average_alone_is_exported_for_v2(self, tmp_path: Path) -> None:
        name = self.V2[1]
        assert selected(tmp_path, [name + AVERAGE]).keys == {name: name + AVERAGE}

    def test_unknown_policy(self, tmp_path: Path) -> None:
        with refused("weights must be one of auto, raw, averages; got 'ema'"):
            selected(tmp_path, self.V1, "ema")

    def test_family_and_every_variable_of_a_network(self, tmp_path: Path) -> None:
        variables = network("mobilenet_v2", 0.35, classes=5)
        with opened(written(tmp_path, "m.ckpt", variables)) as checkpoint:
            selection = select(checkpoint)
        assert selection.family == "mobilenet_v2"
        assert list(selection.keys) == sorted(variables)

    RANGES = (
        "MobilenetV1/Logits/Conv2d_1c_1x1/act_quant/max",
        "MobilenetV1/MobilenetV1/Conv2d_0/weights_quant/min",
    )

    def test_ranges_keep_their_doubled_scope(self, tmp_path: Path) -> None:
        averages = [name + AVERAGE for name in self.RANGES]
        selection = selected(tmp_path, [*self.V1, *self.RANGES, *averages])
        assert selection.keys == {name: name for name in sorted([*self.V1, *self.RANGES])}
        assert selection.leftovers == {"averages not exported": averages}

    @pytest.mark.parametrize(
        ("key", "category"),
        [
            ("global_step", "global_step"),
            ("MobilenetV1/Conv2d_0/weights/RMSProp", "optimizer slots"),
            ("MobilenetV1/Conv2d_0/weights/RMSProp_1", "optimizer slots"),
            ("MobilenetV1/Conv2d_0/BatchNorm/beta/Momentum", "optimizer slots"),
            ("MobilenetV1/Conv2d_0/weights/Adam", "optimizer slots"),
            ("MobilenetV1/Conv2d_0/weights/Adam_1", "optimizer slots"),
            ("MobilenetV1/Conv2d_0/weights/Adagrad", "optimizer slots"),
            ("MobilenetV1/Conv2d_0/weights/Adadelta_1", "optimizer slots"),
            ("MobilenetV1/Conv2d_0/weights/Ftrl_1", "optimizer slots"),
            ("beta1_power", "optimizer slots"),
            ("beta2_power", "optimizer slots"),
            ("total_loss" + AVERAGE, "averages of losses"),
            ("softmax_cross_entropy_loss/value" + AVERAGE, "averages of losses"),
            ("clone_loss" + AVERAGE, "averages of losses"),
            ("clone_0/clone_loss_1" + AVERAGE, "averages of losses"),
            (
                "MobilenetV1/MobilenetV1/Conv2d_0/act_quant/MobilenetV1/MobilenetV1/Conv2d_0/"
                "act_quant/max/biased",
                "moving-average bookkeeping",
            ),
            (
                "MobilenetV1/MobilenetV1/Conv2d_0/act_quant/min/local_step" + AVERAGE,
                "moving-average bookkeeping",
            ),
            ("MobilenetV1/Conv2d_0/weights" + AVERAGE, "averages not exported"),
        ],
    )
    def test_leftovers_of_training(self, tmp_path: Path, key: str, category: str) -> None:
        selection = selected(tmp_path, [*self.V1, key])
        assert selection.leftovers == {category: [key]}
        assert selection.unknown == []
        assert selection.keys == {name: name for name in self.V1}

    @pytest.mark.parametrize(
        "key",
        [
            "MobilenetV1/Conv2d_0/bias",
            "MobilenetV1/Conv2d_0/BatchNorm/renorm_mean",
            "MobilenetV1/Conv2d_0/conv_quant/min",
            "MobilenetV1/extra" + AVERAGE,
            "Conv2d_0/weights",
            "total_loss",
            "temperature" + AVERAGE,
            "MobilenetV1/auxiliary_loss" + AVERAGE,
            "learning_rate",
            "other/global_step_of_something",
        ],
    )
    def test_everything_else_is_unknown(self, tmp_path: Path, key: str) -> None:
        selection = selected(tmp_path, [*self.V1, key])
        assert selection.unknown == [key]
        assert (selection.leftovers, selection.keys) == ({}, {name: name for name in self.V1})

    @pytest.mark.parametrize(
        ("keys", "found"),
        [
            (["FeatureExtractor/MobilenetV1/Conv2d_0/weights"], r"found FeatureExtractor/…"),
            (["InceptionV3/a/weights", "InceptionV3/b", "c/d"], r"found InceptionV3/…, c/…"),
            (["weights"], "found no such scope"),
            (
                ["_CHECKPOINTABLE_OBJECT_GRAPH", "variables/0/.ATTRIBUTES/VARIABLE_VALUE"],
                "found TensorFlow 2's object names",
            ),
            ([V1[0], V2[0]], "holds both MobilenetV1/… and MobilenetV2/…"),
        ],
        ids=["detection", "inception", "bare", "tensorflow-2", "both"],
    )
    def test_not_a_slim_mobilenet(self, tmp_path: Path, keys: list[str], found: str) -> None:
        with refused(found):
            selected(tmp_path, keys)

    def test_object_checkpoint_of_tensorflow_2(self, tmp_path: Path) -> None:
        path = tf.train.Checkpoint(v=tf.Variable(1.0)).save(str(tmp_path / "model"))
        with opened(path) as checkpoint, refused("found TensorFlow 2's object names"):
            select(checkpoint)
