from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from convert.checkpoint import (
    Selection,
    identify,
    num_classes,
    open_source,
    select,
    write,
)
from convert.errors import ConvertError
from mobilenets import architecture
from mobilenets.checkpoint import CheckpointError
from mobilenets.variants import Variant

AVERAGE = "/ExponentialMovingAverage"
INDEX, DATA = ".index", ".data-00000-of-00001"


def network(
    family: str, multiplier: float, classes: int | None = None, quantized: bool = False
) -> dict[str, np.ndarray]:
    """Random variables of a whole network as Slim names and shapes them."""
    random = np.random.default_rng(0)
    variables: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        variables[name] = random.normal(size=shape).astype(np.float32)

    scope = architecture.scope(family)
    channels = 3
    for line in architecture.convolutions(Variant(family, multiplier, 224), classes):
        name, kernel = f"{scope}/{line.scope}", (line.kernel_size, line.kernel_size)
        if line.kind == "depthwise":
            add(f"{name}/depthwise_weights", *kernel, channels, 1)
        else:
            add(f"{name}/weights", *kernel, channels, line.filters)
        if line.kind == "logits":
            add(f"{name}/biases", line.filters)
        else:
            for part in ("gamma", "beta", "moving_mean", "moving_variance"):
                add(f"{name}/BatchNorm/{part}", line.filters)
        if quantized:
            twice = name if line.kind == "logits" else f"{scope}/{name}"
            for which in ("weights_quant", "act_quant"):
                add(f"{twice}/{which}/min")
                add(f"{twice}/{which}/max")
        channels = line.filters
    return variables


V1_QUARTER = network("mobilenet_v1", 0.25)


def written(folder: Path, name: str, variables: Mapping[str, np.ndarray]) -> Path:
    write(folder / name, variables)
    return folder / name


def constants(keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Variables that hold their own position."""
    return {key: np.full((2,), i, np.float32) for i, key in enumerate(keys)}


def selected(folder: Path, keys: Iterable[str], weights: str = "auto") -> Selection:
    with open_source(written(folder, "model.ckpt", constants(keys))) as checkpoint:
        return select(checkpoint, weights)


def identified(source: Path, **arguments) -> Variant:
    with open_source(source) as checkpoint:
        return identify(checkpoint, select(checkpoint), **arguments)


def packed(archive: Path, *files: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for file in files:
            tar.add(file, arcname=f"./{file.name}")
    return archive


def refused(message: str):
    """Expects a line that contains a text: the library's, or around `open_source` ConvertError."""
    return pytest.raises((CheckpointError, ConvertError), match=rf"\A[^\n]*{message}[^\n]*\Z")


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "MobilenetV1/Conv2d_0/weights": random.normal(size=(3, 3, 3, 8)).astype(np.float32),
        "MobilenetV1/Conv2d_0/BatchNorm/beta": random.normal(size=8).astype(np.float32),
        "MobilenetV1/Logits/Conv2d_1c_1x1/biases": random.normal(size=600).astype(np.float32),
    }


@pytest.fixture
def model(tmp_path: Path, values: dict[str, np.ndarray]) -> Path:
    """The prefix of a small checkpoint, alone in its folder."""
    return written(tmp_path / "run", "model.ckpt-20", values)


class TestWrite:
    def test_round_trip_is_exact(self, tmp_path: Path) -> None:
        special = np.array([np.nan, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
        variables: dict[str, np.ndarray] = {
            "MobilenetV1/Conv2d_0/weights": special.reshape(1, 5),
            "MobilenetV1/MobilenetV1/Conv2d_0/act_quant/max": np.float32(6).reshape(()),
            "global_step": np.asarray(1450000, np.int64),
            "half": np.arange(3, dtype=np.float16),
        }
        with open_source(written(tmp_path, "model.ckpt", variables)) as checkpoint:
            found = checkpoint.read(variables)
            assert checkpoint.shapes == {key: value.shape for key, value in variables.items()}
            assert checkpoint.dtypes == {key: str(value.dtype) for key, value in variables.items()}
        for key, value in variables.items():
            assert found[key].dtype == value.dtype
            assert found[key].tobytes() == value.tobytes()

    def test_tensorflow_reads_it_by_name(self, model: Path, values: dict[str, np.ndarray]) -> None:
        for key, value in values.items():
            restored = tf.raw_ops.RestoreV2(
                prefix=str(model), tensor_names=[key], shape_and_slices=[""], dtypes=[tf.float32]
            )
            np.testing.assert_array_equal(restored[0], value)

    def test_leaves_an_index_and_one_data_file(self, model: Path) -> None:
        assert sorted(os.listdir(model.parent)) == [model.name + DATA, model.name + INDEX]

    def test_replaces_an_older_checkpoint(self, model: Path) -> None:
        write(model, {"a/b": np.ones(3, np.float32)})
        with open_source(model.parent) as checkpoint:
            assert list(checkpoint.shapes) == ["a/b"]
            np.testing.assert_array_equal(checkpoint.read(["a/b"])["a/b"], [1, 1, 1])

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with refused("cannot write .*file/model.ckpt: .*choose a folder"):
            write(tmp_path / "file" / "model.ckpt", {"a": np.zeros(1)})
        assert os.listdir(tmp_path) == ["file"]

    @pytest.mark.parametrize("fails_at", [INDEX, DATA])
    def test_a_full_disk_leaves_nothing_half_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
    ) -> None:
        replace = os.replace

        def full(source: Path, target: Path) -> None:
            if str(target).endswith(fails_at):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(source, target)

        write(tmp_path / "model.ckpt", {"a": np.ones(1)})
        monkeypatch.setattr(os, "replace", full)
        with refused("cannot write .*No space left"):
            write(tmp_path / "model.ckpt", {"a": np.zeros(1)})
        # Neither a temporary folder nor an old index of new data, which would be damaged.
        assert os.listdir(tmp_path) == [f"model.ckpt{DATA}"]

    def test_tensorflow_failing_to_write_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(prefix: str, **_) -> None:
            Path(prefix + DATA).write_bytes(b"half of i")
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

        monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
        with refused("cannot write .*model.ckpt: No space left on device; "):
            write(tmp_path / "model.ckpt", {"a": np.zeros(1)})
        assert os.listdir(tmp_path) == []


class TestOpenSource:
    @pytest.mark.parametrize("suffix", ["", INDEX, DATA, ".meta"])
    def test_prefix_or_one_of_its_files(
        self, model: Path, values: dict[str, np.ndarray], suffix: str
    ) -> None:
        Path(f"{model}.meta").write_bytes(b"a graph")
        with open_source(f"{model}{suffix}") as checkpoint:
            assert checkpoint.prefix == model
            assert checkpoint.source == f"{model}{suffix}"
            assert list(checkpoint.shapes) == sorted(values)

    def test_folder_with_one_checkpoint(self, model: Path) -> None:
        (model.parent / "model.tflite").write_bytes(b"something else")
        with open_source(model.parent) as checkpoint:
            assert checkpoint.prefix == model
            assert checkpoint.source == str(model.parent)

    def test_a_prefix_beside_a_folder_of_the_same_name(
        self, tmp_path: Path, model: Path, values: dict[str, np.ndarray]
    ) -> None:
        written(model, "another", constants(["MobilenetV2/Conv/weights"]))
        with open_source(f"{model}{INDEX}") as checkpoint:
            assert list(checkpoint.shapes) == sorted(values)

    def test_folder_with_two_checkpoints_names_them(self, model: Path) -> None:
        written(model.parent, "model.ckpt-100", constants(["a/b"]))
        with (
            refused(r"holds several checkpoints: model\.ckpt-100, model\.ckpt-20; name one"),
            open_source(model.parent),
        ):
            pass

    @pytest.mark.parametrize("there", ["", "/where/it/was/trained/"], ids=["relative", "moved"])
    def test_state_file_says_which_of_two_is_the_latest(self, model: Path, there: str) -> None:
        written(model.parent, "model.ckpt-100", constants(["a/b"]))
        (model.parent / "checkpoint").write_text(
            f'model_checkpoint_path: "{there}{model.name}"\n'
            f'all_model_checkpoint_paths: "{there}model.ckpt-100"\n'
        )
        with open_source(model.parent) as checkpoint:
            assert checkpoint.prefix == model

    def test_state_file_that_names_a_deleted_checkpoint(self, model: Path) -> None:
        (model.parent / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
        with open_source(model.parent) as checkpoint:
            assert checkpoint.prefix == model
        written(model.parent, "model.ckpt-100", constants(["a/b"]))
        with refused("holds several checkpoints"), open_source(model.parent):
            pass

    @pytest.mark.parametrize("suffix", [".tgz", ".tar.gz"])
    def test_archive_is_unpacked_and_cleaned_up(
        self, tmp_path: Path, model: Path, values: dict[str, np.ndarray], suffix: str
    ) -> None:
        archive = packed(tmp_path / f"archive{suffix}", model.parent)
        with open_source(archive) as checkpoint:
            unpacked = checkpoint.prefix.parent
            assert checkpoint.source == str(archive)
            assert checkpoint.prefix.name == model.name
            key = "MobilenetV1/Conv2d_0/weights"
            np.testing.assert_array_equal(checkpoint.read([key])[key], values[key])
        assert not unpacked.exists()

    def test_archive_is_cleaned_up_after_an_error(self, tmp_path: Path, model: Path) -> None:
        Path(f"{model}{INDEX}").write_bytes(b"no index")
        archive = packed(tmp_path / "archive.tgz", *sorted(model.parent.iterdir()))
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(temporary))
            with refused("archive.tgz: .*damaged"), open_source(archive):
                pass
        assert list(temporary.iterdir()) == []

    def test_archive_without_a_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("nothing")
        archive = packed(tmp_path / "archive.tgz", tmp_path / "notes.txt")
        with refused("archive.tgz holds no checkpoint"), open_source(archive):
            pass

    @pytest.mark.parametrize("inside", ["", "variables", "variables/variables"])
    def test_saved_model_folder(self, tmp_path: Path, inside: str) -> None:
        folder = tmp_path / "module"
        written(folder / "variables", "variables", constants(["MobilenetV2/Conv/weights"]))
        (folder / "saved_model.pb").write_bytes(b"")
        with open_source(folder / inside) as checkpoint:
            assert checkpoint.prefix == folder / "variables" / "variables"

    def test_relative_path(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(model.parent)
        for source in (model.name, "."):
            with open_source(source) as checkpoint:
                assert checkpoint.shapes

    @pytest.mark.parametrize(
        "source", ["model.ckpt", "absent/model.ckpt", "a.tgz", "model.ckpt-20.index/x"]
    )
    def test_no_such_file(self, model: Path, source: str) -> None:
        with refused(f"{source}: no such file; expected"), open_source(model.parent / source):
            pass

    def test_impossible_file_name(self, tmp_path: Path) -> None:
        with refused("x{300}"), open_source(tmp_path / ("x" * 300)):
            pass

    def test_folder_without_a_checkpoint(self, tmp_path: Path) -> None:
        with refused("holds no checkpoint"), open_source(tmp_path):
            pass

    @pytest.mark.parametrize("suffix", ["", DATA, ".meta", "/.."])
    def test_missing_index(self, model: Path, suffix: str) -> None:
        Path(f"{model}.meta").write_bytes(b"a graph")
        Path(f"{model}{INDEX}").unlink()
        source = model.parent if suffix == "/.." else f"{model}{suffix}"
        with refused(r"index model\.ckpt-20\.index is missing"), open_source(source):
            pass

    def test_missing_data_file(self, model: Path) -> None:
        Path(f"{model}{DATA}").unlink()
        with (
            refused(r"data file model\.ckpt-20\.data-00000-of-00001 is missing"),
            open_source(model),
        ):
            pass

    def test_missing_shard(self, model: Path) -> None:
        os.rename(f"{model}{DATA}", f"{model}.data-00001-of-00002")
        with (
            refused(r"data file model\.ckpt-20\.data-00000-of-00002 is missing"),
            open_source(model),
        ):
            pass

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: b"no table " * 40,
            lambda content: content[: len(content) // 2],
            lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
        ],
        ids=["empty", "something-else", "truncated", "one-bit"],
    )
    def test_damaged_index(self, model: Path, damage) -> None:
        index = Path(f"{model}{INDEX}")
        index.write_bytes(damage(index.read_bytes()))
        with refused(r"model\.ckpt-20\.index is damaged or no checkpoint's"), open_source(model):
            pass

    def test_a_file_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "frozen.pb").write_bytes(b"a graph")
        with refused("frozen.pb is no checkpoint"), open_source(tmp_path / "frozen.pb"):
            pass


class TestRead:
    def test_truncated_data_file_names_the_variables(self, model: Path) -> None:
        data = Path(f"{model}{DATA}")
        data.write_bytes(data.read_bytes()[:-8])
        with open_source(model) as checkpoint:
            last = "MobilenetV1/Logits/Conv2d_1c_1x1/biases"
            with refused(f"cannot read {last}: the data file is incomplete or damaged"):
                checkpoint.read(checkpoint.shapes)

    def test_one_flipped_bit_names_the_variable(
        self, model: Path, values: dict[str, np.ndarray]
    ) -> None:
        data = Path(f"{model}{DATA}")
        content = bytearray(data.read_bytes())
        content[5] ^= 1
        data.write_bytes(content)
        first, *others = sorted(values)
        with open_source(model) as checkpoint:
            with refused(f"cannot read {first}: .*[Cc]hecksum"):
                checkpoint.read(values)
            np.testing.assert_array_equal(checkpoint.read(others)[others[0]], values[others[0]])

    def test_many_unreadable_variables_are_counted(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", constants(f"a/{i}" for i in range(9)))
        Path(f"{prefix}{DATA}").write_bytes(b"")
        with (
            open_source(prefix) as checkpoint,
            refused("cannot read a/0, a/1, a/2, a/3, a/4 and 4 more: "),
        ):
            checkpoint.read(checkpoint.shapes)

    def test_unknown_key(self, model: Path) -> None:
        with open_source(model) as checkpoint, refused("holds no variable a/b"):
            checkpoint.read(["a/b"])

    def test_fingerprint_is_of_the_bytes(self, tmp_path: Path, model: Path) -> None:
        content = Path(f"{model}{INDEX}").read_bytes() + Path(f"{model}{DATA}").read_bytes()
        with open_source(model) as checkpoint:
            assert checkpoint.fingerprint == hashlib.sha256(content).hexdigest()

    def test_fingerprint_does_not_depend_on_the_place(self, tmp_path: Path, model: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(model.parent, copy)
        archive = packed(tmp_path / "archive.tgz", *sorted(copy.iterdir()))
        fingerprints = set()
        for source in (model, copy, archive):
            with open_source(source) as checkpoint:
                fingerprints.add(checkpoint.fingerprint)
        assert len(fingerprints) == 1

    def test_fingerprint_changes_with_the_values(
        self, model: Path, values: dict[str, np.ndarray]
    ) -> None:
        fingerprints = set()
        for _ in range(2):
            with open_source(model) as checkpoint:
                fingerprints.add(checkpoint.fingerprint)
            values["MobilenetV1/Conv2d_0/weights"] += 1
            write(model, values)
        assert len(fingerprints) == 2


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
        with open_source(written(tmp_path, "m.ckpt", variables)) as checkpoint:
            selection = select(checkpoint)
        assert selection.family == "mobilenet_v2"
        assert list(selection.keys) == sorted(variables)
        assert not selection.quantized

    RANGES = (
        "MobilenetV1/Logits/Conv2d_1c_1x1/act_quant/max",
        "MobilenetV1/MobilenetV1/Conv2d_0/weights_quant/min",
    )

    def test_ranges_keep_their_doubled_scope(self, tmp_path: Path) -> None:
        averages = [name + AVERAGE for name in self.RANGES]
        selection = selected(tmp_path, [*self.V1, *self.RANGES, *averages])
        assert selection.keys == {name: name for name in sorted([*self.V1, *self.RANGES])}
        assert selection.quantized
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
        with open_source(path) as checkpoint, refused("found TensorFlow 2's object names"):
            select(checkpoint)

    @pytest.mark.parametrize("classes", [None, 5, 1001])
    def test_num_classes(self, tmp_path: Path, classes: int | None) -> None:
        variables = network("mobilenet_v1", 0.25, classes)
        with open_source(written(tmp_path, "m.ckpt", variables)) as checkpoint:
            assert num_classes(checkpoint, select(checkpoint)) == classes


class TestIdentify:
    @pytest.mark.parametrize(
        ("place", "name"),
        [
            ("mobilenet_v1_0.25_64.ckpt", "mobilenet_v1_025_64"),
            ("mobilenet_v1_0.25_64.ckpt-1450000", "mobilenet_v1_025_64"),
            ("my_mobilenet_v1_0.25_64_birds.ckpt-7", "mobilenet_v1_025_64"),
            ("mobilenet_v1_0.25_224_2017_06_14/model.ckpt", "mobilenet_v1_025_224"),
            ("mobilenet_v1_025_160/model.ckpt", "mobilenet_v1_025_160"),
            (
                "mobilenet_v1_025_160_feature_vector_2/variables/variables",
                "mobilenet_v1_025_160",
            ),
            ("mobilenet_v1_025_160/classification/3/variables/variables", "mobilenet_v1_025_160"),
            ("mobilenet_v1_0.25_128/mobilenet_v1_0.25_192.ckpt", "mobilenet_v1_025_192"),
        ],
    )
    @pytest.mark.parametrize("ending", ["prefix", "index", "folder"])
    def test_by_name(self, tmp_path: Path, place: str, name: str, ending: str) -> None:
        prefix = written((tmp_path / place).parent, Path(place).name, V1_QUARTER)
        source = {"prefix": prefix, "index": Path(f"{prefix}{INDEX}"), "folder": prefix.parent}
        assert identified(source[ending]).name == name
        if prefix.name == "variables":
            assert identified(prefix.parents[1]).name == name

    def test_by_the_name_of_the_archive(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", V1_QUARTER)
        archive = packed(
            tmp_path / "mobilenet_v1_0.25_96.tgz", Path(f"{prefix}{INDEX}"), Path(f"{prefix}{DATA}")
        )
        assert identified(archive).name == "mobilenet_v1_025_96"

    @pytest.mark.parametrize(
        "place",
        [
            "mobilenet_v1_0.25_128_quant/model.ckpt",
            "mobilenet_v1_0.25_128_quant.ckpt",
            "mobilenet_v1_025_128/quantops/feature_vector/3/variables/variables",
            "mobilenet_v1_025_128_quantops_feature_vector_3/variables/variables",
        ],
    )
    def test_quantized_by_name(self, tmp_path: Path, place: str) -> None:
        variables = network("mobilenet_v1", 0.25, quantized=True)
        prefix = written((tmp_path / place).parent, Path(place).name, variables)
        assert identified(prefix).name == "mobilenet_v1_025_128/quantops"

    @pytest.mark.parametrize(
        "place", ["mobilenet_v1_0.25_64/run/model.ckpt", "mobilenet_v1_2018_08_02/model.ckpt"]
    )
    def test_other_folders_names_do_not_count(self, tmp_path: Path, place: str) -> None:
        prefix = written((tmp_path / place).parent, "model.ckpt", V1_QUARTER)
        for source in (prefix, prefix.parent):
            with refused("nothing says which image size .* give that, or the variant"):
                identified(source)

    @pytest.mark.parametrize(
        ("family", "multiplier"),
        [
            *(("mobilenet_v1", m) for m in (0.25, 0.5, 0.75, 1.0, 0.1, 0.4, 0.65, 0.33, 1.5)),
            *(("mobilenet_v2", m) for m in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 0.1, 0.4, 0.63, 2.0)),
        ],
    )
    @pytest.mark.parametrize("averaged", [False, True], ids=["raw", "averages"])
    def test_by_shape(self, tmp_path: Path, family: str, multiplier: float, averaged: bool) -> None:
        shapes = {
            name + AVERAGE * averaged * (family == "mobilenet_v2"): np.zeros(value.shape, np.int8)
            for name, value in network(family, multiplier).items()
        }
        found = identified(written(tmp_path, "model.ckpt", shapes), image_size=96)
        assert found == Variant(family, multiplier, 96)

    def test_round_multipliers_come_first(self, tmp_path: Path) -> None:
        variables = network("mobilenet_v2", 0.36)
        assert {k: v.shape for k, v in variables.items()} == {
            k: v.shape for k, v in network("mobilenet_v2", 0.35).items()
        }
        prefix = written(tmp_path, "model.ckpt", variables)
        assert identified(prefix, image_size=96).depth_multiplier == 0.35
        assert identified(prefix, variant="mobilenet_v2_036_96").depth_multiplier == 0.36

    def test_ambiguous_widths(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", network("mobilenet_v2", 0.07))
        with refused("depth multiplier 0.06 or 0.07 or 0.08: .*give the variant"):
            identified(prefix, image_size=96)
        assert identified(prefix, variant="mobilenet_v2_007_96").depth_multiplier == 0.07

    def test_quantized_by_shape(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", network("mobilenet_v1", 0.5, quantized=True))
        assert identified(prefix, image_size=160).name == "mobilenet_v1_050_160/quantops"

    def test_no_multiplier_has_these_widths(self, tmp_path: Path) -> None:
        key = "MobilenetV1/Conv2d_7_pointwise/weights"
        variables = {**V1_QUARTER, key: np.zeros((1, 1, 128, 100), np.float32)}
        prefix = written(tmp_path, "model.ckpt", variables)
        with refused(
            r"no depth multiplier gives MobileNet V1 these widths; the nearest, 0\.25, differs in "
            rf"1 of 27 convolutions \({key}: expected \[1, 1, 128, 128\], found \[1, 1, 128, 100\]"
        ):
            identified(prefix, image_size=64)
        # Which variables do not fit is for the mapping to say, once it is known what they should.
        assert identified(prefix, variant="mobilenet_v1_025_64").name == "mobilenet_v1_025_64"

    def test_a_missing_layer_does_not_hide_the_multiplier(self, tmp_path: Path) -> None:
        variables = dict(V1_QUARTER)
        del variables["MobilenetV1/Conv2d_7_pointwise/weights"]
        prefix = written(tmp_path, "model.ckpt", variables)
        assert identified(prefix, image_size=64).name == "mobilenet_v1_025_64"

    def test_no_value_is_read(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", V1_QUARTER)
        Path(f"{prefix}{DATA}").write_bytes(b"")
        assert identified(prefix, image_size=64).name == "mobilenet_v1_025_64"

    def test_nothing_but_logits(self, tmp_path: Path) -> None:
        keys = constants(["MobilenetV1/Logits/Conv2d_1c_1x1/weights"])
        with refused("holds none of MobileNet V1's convolutions"):
            identified(written(tmp_path, "model.ckpt", keys), image_size=64)

    def test_what_is_said_outright_counts(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "mobilenet_v1_0.5_192.ckpt", V1_QUARTER)
        said = Variant("mobilenet_v1", 0.25, 128)
        assert identified(prefix, variant=said) == said
        assert identified(prefix, variant=said.slim_name, image_size=128) == said
        prefix = written(tmp_path, "mobilenet_v1_0.25_192.ckpt", V1_QUARTER)
        assert identified(prefix, image_size=128) == said

    def test_two_image_sizes(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", V1_QUARTER)
        with refused("mobilenet_v1_025_64 says 64 pixels, the image size 96: give one"):
            identified(prefix, variant="mobilenet_v1_025_64", image_size=96)

    @pytest.mark.parametrize("size", [16, 0, -1])
    def test_impossible_image_size(self, tmp_path: Path, size: int) -> None:
        prefix = written(tmp_path, "model.ckpt", V1_QUARTER)
        with refused(f"image_size must be .*; got {size}"):
            identified(prefix, image_size=size)

    def test_unknown_variant(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", V1_QUARTER)
        with refused("no MobileNet variant is called 'mobilenet_v3'"):
            identified(prefix, variant="mobilenet_v3")

    @pytest.mark.parametrize("how", ["variant", "name"])
    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ("mobilenet_v2_0.35_96", r"expected MobileNet V2, found MobileNet V1 .*MobilenetV1/"),
            (
                "mobilenet_v1_0.5_160",
                r"expected depth multiplier 0\.5, found 0\.25 \(MobilenetV1/Conv2d_0/weights: "
                r"expected \[3, 3, 3, 16\], found \[3, 3, 3, 8\]\)",
            ),
            ("mobilenet_v1_0.25_160_quant", "expected ranges .*weights_quant/min.*, found none"),
        ],
        ids=["family", "multiplier", "quantized"],
    )
    def test_disagreement(self, tmp_path: Path, said: str, message: str, how: str) -> None:
        name = f"{said}.ckpt" if how == "name" else "model.ckpt"
        prefix = written(tmp_path, name, V1_QUARTER)
        advice = {"variant": "correct the variant", "name": "give the variant"}[how]
        with refused(f"is not {Variant.parse(said)}: {message}.*{advice}"):
            identified(prefix, **({"variant": said} if how == "variant" else {}))

    def test_quantized_but_not_said_to_be(self, tmp_path: Path) -> None:
        variables = network("mobilenet_v1", 0.25, quantized=True)
        prefix = written(tmp_path, "mobilenet_v1_0.25_160.ckpt", variables)
        with refused("expected no ranges of simulated quantization, found MobilenetV1/.*_quant/m"):
            identified(prefix)


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
        with open_source(reference_data / folder) as checkpoint:
            selection = select(checkpoint)
            assert identify(checkpoint, selection).name == name
            assert num_classes(checkpoint, selection) == classes
            assert (len(selection.keys), selection.averaged) == (exported, averaged)
            assert {k: len(keys) for k, keys in selection.leftovers.items()} == leftovers
            assert selection.unknown == []
            accounted = [*selection.keys.values(), *itertools.chain(*selection.leftovers.values())]
            assert sorted(accounted) == list(checkpoint.shapes)
            values = checkpoint.read(selection.keys.values())
        for name, key in selection.keys.items():
            assert key.removesuffix(AVERAGE) == name
            assert values[key].shape == checkpoint.shapes[key]
            assert values[key].dtype == np.float32
            assert np.isfinite(values[key]).all()

    @pytest.mark.parametrize("folder", REFERENCE)
    def test_shapes_alone_tell_the_network(self, reference_data: Path, folder: str) -> None:
        expected = Variant.parse(REFERENCE[folder][0])
        with open_source(reference_data / folder) as checkpoint:
            checkpoint.prefix = Path("unnamed/model.ckpt")
            checkpoint.source = "unnamed/model.ckpt"
            found = identify(checkpoint, select(checkpoint), image_size=expected.image_size)
        assert found == expected

    def test_v2_exports_other_values_than_the_raw_ones(self, reference_data: Path) -> None:
        with open_source(reference_data / "slim_random/mobilenet_v2_0.35_96") as checkpoint:
            selection = select(checkpoint)
            name = "MobilenetV2/expanded_conv_3/depthwise/BatchNorm/moving_variance"
            average = selection.keys[name]
            values = checkpoint.read([name, average])
        assert average == name + AVERAGE
        assert not np.array_equal(values[name], values[average])

    def test_unreadable_slots_of_the_original(self, reference_data: Path) -> None:
        folder = reference_data / "checkpoints_2018/mobilenet_v1_0.25_224"
        with open_source(folder) as checkpoint:
            slot = "MobilenetV1/Conv2d_0/weights/RMSProp"
            assert slot in select(checkpoint).leftovers["optimizer slots"]
            with refused(f"cannot read {slot}: "):
                checkpoint.read([slot])

    def test_what_is_copied_is_the_same(self, reference_data: Path, tmp_path: Path) -> None:
        with open_source(reference_data / "checkpoints/mobilenet_v1_0.25_128") as checkpoint:
            values = checkpoint.read(checkpoint.shapes)
        with open_source(written(tmp_path, "copy.ckpt", values)) as copy:
            found = copy.read(values)
        assert all(found[key].tobytes() == value.tobytes() for key, value in values.items())
