"""TensorBundles are read to the bit; what is incomplete or damaged is named."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
from refusals import refused
from slim_checkpoints import DATA, INDEX, constants, opened, packed, written

from convert.export.bundle import write
from mobilenets import weights


class TestRead:
    def test_truncated_data_file_names_the_variables(self, model: Path) -> None:
        data = Path(f"{model}{DATA}")
        data.write_bytes(data.read_bytes()[:-8])
        with opened(model) as checkpoint:
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
        with opened(model) as checkpoint:
            with refused(f"cannot read {first}: .*[Cc]hecksum"):
                checkpoint.read(values)
            np.testing.assert_array_equal(checkpoint.read(others)[others[0]], values[others[0]])

    def test_many_unreadable_variables_are_counted(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", constants(f"a/{i}" for i in range(9)))
        Path(f"{prefix}{DATA}").write_bytes(b"")
        with (
            opened(prefix) as checkpoint,
            refused("cannot read a/0, a/1, a/2, a/3, a/4 and 4 more: "),
        ):
            checkpoint.read(checkpoint.shapes)

    def test_unknown_key(self, model: Path) -> None:
        with opened(model) as checkpoint, refused("holds no variable a/b"):
            checkpoint.read(["a/b"])

    def test_bytes_are_read_to_the_last(self, tmp_path: Path) -> None:
        value = b"a message\0\0"
        prefix = written(tmp_path, "model.ckpt", {"graph": np.array(value, object)})
        with opened(prefix) as checkpoint:
            assert checkpoint.read_bytes("graph") == value
            with refused("holds no variable other"):
                checkpoint.read_bytes("other")
        Path(f"{prefix}{DATA}").write_bytes(b"")
        with opened(prefix) as checkpoint, refused("cannot read graph: the data file is"):
            checkpoint.read_bytes("graph")

    def test_fingerprint_is_of_the_bytes(self, tmp_path: Path, model: Path) -> None:
        content = Path(f"{model}{INDEX}").read_bytes() + Path(f"{model}{DATA}").read_bytes()
        with opened(model) as checkpoint:
            assert checkpoint.fingerprint == hashlib.sha256(content).hexdigest()

    def test_fingerprint_does_not_depend_on_the_place(self, tmp_path: Path, model: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(model.parent, copy)
        archive = packed(tmp_path / "archive.tgz", *sorted(copy.iterdir()))
        fingerprints = set()
        for source in (model, copy, archive):
            with weights.open(source) as found:
                fingerprints.add(found.fingerprint)
        assert len(fingerprints) == 1

    def test_fingerprint_changes_with_the_values(
        self, model: Path, values: dict[str, np.ndarray]
    ) -> None:
        fingerprints = set()
        for _ in range(2):
            with opened(model) as checkpoint:
                fingerprints.add(checkpoint.fingerprint)
            values["MobilenetV1/Conv2d_0/weights"] += 1
            write(model, values)
        assert len(fingerprints) == 2
