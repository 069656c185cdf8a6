"""Checkpoints are written whole, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from slim_checkpoints import DATA, INDEX, opened, some_values, written

from convert.errors import ConvertError
from convert.export.bundle import write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The prefix of a small checkpoint, alone in its folder."""
    return written(tmp_path / "run", "model.ckpt-20", some_values())


class TestWrite:
    def test_round_trip_is_exact(self, tmp_path: Path) -> None:
        special = np.array([np.nan, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
        variables: dict[str, np.ndarray] = {
            "MobilenetV1/Conv2d_0/weights": special.reshape(1, 5),
            "MobilenetV1/MobilenetV1/Conv2d_0/act_quant/max": np.float32(6).reshape(()),
            "global_step": np.asarray(1450000, np.int64),
            "half": np.arange(3, dtype=np.float16),
        }
        with opened(written(tmp_path, "model.ckpt", variables)) as checkpoint:
            found = checkpoint.read(variables)
            assert checkpoint.shapes == {key: value.shape for key, value in variables.items()}
            assert checkpoint.dtypes == {key: str(value.dtype) for key, value in variables.items()}
        for key, value in variables.items():
            assert found[key].dtype == value.dtype
            assert found[key].tobytes() == value.tobytes()

    def test_tensorflow_reads_it_by_name(self, model: Path) -> None:
        for key, value in some_values().items():
            restored = tf.raw_ops.RestoreV2(
                prefix=str(model), tensor_names=[key], shape_and_slices=[""], dtypes=[tf.float32]
            )
            np.testing.assert_array_equal(restored[0], value)

    def test_leaves_an_index_and_one_data_file(self, model: Path) -> None:
        assert sorted(os.listdir(model.parent)) == [model.name + DATA, model.name + INDEX]

    def test_replaces_an_older_checkpoint(self, model: Path) -> None:
        write(model, {"a/b": np.ones(3, np.float32)})
        with opened(model.parent) as checkpoint:
            assert list(checkpoint.shapes) == ["a/b"]
            np.testing.assert_array_equal(checkpoint.read(["a/b"])["a/b"], [1, 1, 1])

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with refused("cannot write .*file/model.ckpt: .*choose a writable folder", ConvertError):
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
        with refused("cannot write .*No space left", ConvertError):
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
        with refused("cannot write .*model.ckpt: No space left on device; ", ConvertError):
            write(tmp_path / "model.ckpt", {"a": np.zeros(1)})
        assert os.listdir(tmp_path) == []
