"""A source is found, recognised and opened, whatever form it has."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from slim_checkpoints import DATA, INDEX, constants, network, packed, written

import mobilenets
from convert.conversion import convert
from mobilenets import images, weights
from mobilenets.variants import Variant
from mobilenets.weights import Weights, readers


class TestOpenSource:
    @pytest.mark.parametrize("suffix", ["", INDEX, DATA, ".meta"])
    def test_prefix_or_one_of_its_files(
        self, model: Path, values: dict[str, np.ndarray], suffix: str
    ) -> None:
        Path(f"{model}.meta").write_bytes(b"a graph")
        with weights.open(f"{model}{suffix}") as found:
            assert found.file == model.name
            assert found.source == f"{model}{suffix}"
            assert list(found.keys) == sorted(values)

    def test_folder_with_one_checkpoint(self, model: Path) -> None:
        (model.parent / "model.tflite").write_bytes(b"something else")
        with weights.open(model.parent) as found:
            assert found.file == model.name
            assert found.source == str(model.parent)

    def test_a_prefix_beside_a_folder_of_the_same_name(
        self, tmp_path: Path, model: Path, values: dict[str, np.ndarray]
    ) -> None:
        written(model, "another", constants(["MobilenetV2/Conv/weights"]))
        with weights.open(f"{model}{INDEX}") as found:
            assert list(found.keys) == sorted(values)

    def test_folder_with_two_checkpoints_names_them(self, model: Path) -> None:
        written(model.parent, "model.ckpt-100", constants(["MobilenetV2/Conv/weights"]))
        with (
            refused(r"holds several checkpoints: model\.ckpt-100, model\.ckpt-20; name one"),
            weights.open(model.parent),
        ):
            pass

    @pytest.mark.parametrize("there", ["", "/where/it/was/trained/"], ids=["relative", "moved"])
    def test_state_file_says_which_of_two_is_the_latest(self, model: Path, there: str) -> None:
        written(model.parent, "model.ckpt-100", constants(["MobilenetV2/Conv/weights"]))
        (model.parent / "checkpoint").write_text(
            f'model_checkpoint_path: "{there}{model.name}"\n'
            f'all_model_checkpoint_paths: "{there}model.ckpt-100"\n'
        )
        with weights.open(model.parent) as found:
            assert found.file == model.name

    def test_state_file_that_names_a_deleted_checkpoint(self, model: Path) -> None:
        (model.parent / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
        with weights.open(model.parent) as found:
            assert found.file == model.name
        written(model.parent, "model.ckpt-100", constants(["MobilenetV2/Conv/weights"]))
        with refused("holds several checkpoints"), weights.open(model.parent):
            pass

    @pytest.mark.parametrize("suffix", [".tgz", ".tar.gz"])
    def test_archive_is_unpacked_and_cleaned_up(
        self,
        tmp_path: Path,
        model: Path,
        values: dict[str, np.ndarray],
        suffix: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        archive = packed(tmp_path / f"archive{suffix}", model.parent)
        (temporary := tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        with weights.open(archive) as found:
            assert found.source == str(archive)
            assert found.file == model.name
            assert len(os.listdir(temporary)) == 1
            key = "MobilenetV1/Conv2d_0/weights"
            np.testing.assert_array_equal(found.read([key])[key], values[key])
        assert os.listdir(temporary) == []

    def test_archive_is_cleaned_up_after_an_error(self, tmp_path: Path, model: Path) -> None:
        Path(f"{model}{INDEX}").write_bytes(b"no index")
        archive = packed(tmp_path / "archive.tgz", *sorted(model.parent.iterdir()))
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(temporary))
            with refused("archive.tgz: .*damaged"), weights.open(archive):
                pass
        assert list(temporary.iterdir()) == []

    def test_archive_without_a_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("nothing")
        archive = packed(tmp_path / "archive.tgz", tmp_path / "notes.txt")
        with refused("archive.tgz holds no checkpoint"), weights.open(archive):
            pass

    @pytest.mark.parametrize("inside", ["", "variables", "variables/variables"])
    def test_saved_model_folder(self, tmp_path: Path, inside: str) -> None:
        folder = tmp_path / "module"
        written(folder / "variables", "variables", constants(["MobilenetV2/Conv/weights"]))
        (folder / "saved_model.pb").write_bytes(b"")
        with weights.open(folder / inside) as found:
            assert found.file == "variables"

    def test_relative_path(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(model.parent)
        for source in (model.name, "."):
            with weights.open(source) as found:
                assert found.keys

    @pytest.mark.parametrize(
        "source", ["model.ckpt", "absent/model.ckpt", "a.tgz", "model.ckpt-20.index/x"]
    )
    def test_no_such_file(self, model: Path, source: str) -> None:
        with refused(f"{source}: no such file; expected"), weights.open(model.parent / source):
            pass

    def test_impossible_file_name(self, tmp_path: Path) -> None:
        with refused("x{300}"), weights.open(tmp_path / ("x" * 300)):
            pass

    def test_folder_without_a_checkpoint(self, tmp_path: Path) -> None:
        with refused("holds no checkpoint"), weights.open(tmp_path):
            pass

    @pytest.mark.parametrize("suffix", ["", DATA, ".meta", "/.."])
    def test_missing_index(self, model: Path, suffix: str) -> None:
        Path(f"{model}.meta").write_bytes(b"a graph")
        Path(f"{model}{INDEX}").unlink()
        source = model.parent if suffix == "/.." else f"{model}{suffix}"
        with refused(r"index model\.ckpt-20\.index is missing"), weights.open(source):
            pass

    def test_missing_data_file(self, model: Path) -> None:
        Path(f"{model}{DATA}").unlink()
        with (
            refused(r"data file model\.ckpt-20\.data-00000-of-00001 is missing"),
            weights.open(model),
        ):
            pass

    def test_missing_shard(self, model: Path) -> None:
        os.rename(f"{model}{DATA}", f"{model}.data-00001-of-00002")
        with (
            refused(r"data file model\.ckpt-20\.data-00000-of-00002 is missing"),
            weights.open(model),
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
        with (
            refused(r"model\.ckpt-20\.index is damaged or not a checkpoint's"),
            weights.open(model),
        ):
            pass

    def test_a_file_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "notes.bin").write_bytes(b"a graph")
        with refused("notes.bin is not a checkpoint"), weights.open(tmp_path / "notes.bin"):
            pass

    @pytest.mark.parametrize("within", [".", "run", "a/b"])
    def test_a_checkpoint_anywhere_in_an_archive(
        self, tmp_path: Path, model: Path, values: dict[str, np.ndarray], within: str
    ) -> None:
        (notes := tmp_path / "notes.txt").write_text("beside it")
        with tarfile.open(tmp_path / "own.tgz", "w:gz") as tar:
            tar.add(notes, arcname="notes.txt")
            tar.add(model.parent, arcname=within)
        with weights.open(tmp_path / "own.tgz") as found:
            assert (found.file, sorted(found.keys)) == (model.name, sorted(values))

    def test_several_checkpoints_in_an_archive(self, tmp_path: Path, model: Path) -> None:
        with tarfile.open(tmp_path / "own.tgz", "w:gz") as tar:
            tar.add(model.parent, arcname="one")
            tar.add(model.parent, arcname="two")
        with (
            refused(r"own\.tgz holds several checkpoints \(one and two\); unpack it and name one"),
            weights.open(tmp_path / "own.tgz"),
        ):
            pass

    def test_folders_within_a_folder_are_not_searched(self, tmp_path: Path, model: Path) -> None:
        with refused("holds no checkpoint"), weights.open(tmp_path):
            pass

    def test_another_file_called_index(self, model: Path, values: dict[str, np.ndarray]) -> None:
        (model.parent / "faces.index").write_bytes(b"of something else")
        with weights.open(model.parent) as found:
            assert found.file == model.name

    def test_an_error_while_it_is_open_is_the_callers(self, model: Path) -> None:
        with pytest.raises(OSError, match=r"^mine$"), weights.open(model):
            raise OSError("mine")


@pytest.mark.parametrize("classes", [None, 5, 1000, 1001])
def test_classes_and_their_names(tmp_path: Path, classes: int | None) -> None:
    variables = network("mobilenet_v1", 0.25, classes)
    with weights.open(written(tmp_path, "m.ckpt", variables)) as found:
        assert found.num_classes == classes
        assert found.class_names == (images.class_names() if classes == 1001 else None)


@pytest.mark.parametrize("quantized", [False, True])
def test_whether_it_is_quantized(tmp_path: Path, quantized: bool) -> None:
    variables = network("mobilenet_v1", 0.25, quantized=quantized)
    with weights.open(written(tmp_path, "m.ckpt", variables)) as found:
        assert found.quantized == quantized


class TestAnotherFormat:
    """What a new reader needs is a module that gives `Weights`, and its place among the others."""

    @pytest.fixture
    def arrays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Arrays:
            """NumPy's archives, recognised as such whatever they are called."""

            EXPECTED = "a file of NumPy arrays"

            @staticmethod
            def recognises(path: Path) -> bool:
                return path.is_file() and path.read_bytes()[:4] == b"PK\x03\x04"

            @staticmethod
            def read(path: Path, source: str, selection: str) -> Weights:
                with np.load(path) as file:
                    values = dict(file)
                return Weights(
                    source=source,
                    file=path.name,
                    family="mobilenet_v1",
                    keys={name: name for name in values},
                    shapes={name: value.shape for name, value in values.items()},
                    entries=len(values),
                    image_size=96,
                    class_names=("a", "b", "c"),
                    read=lambda names: {name: values[name] for name in names},
                    digest=lambda: hashlib.sha256(path.read_bytes()).hexdigest(),
                )

        monkeypatch.setattr(readers, "READERS", (*readers.READERS, Arrays))

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        variables = {
            name: np.abs(value) for name, value in network("mobilenet_v1", 0.25, 3).items()
        }
        path = tmp_path / "mine"
        with path.open("wb") as file:
            np.savez(file, **variables)
        return path

    @pytest.mark.slow
    def test_is_loaded_and_converted_like_any(
        self, quick_conversion: None, arrays: None, file: Path, tmp_path: Path
    ) -> None:
        model = mobilenets.load(file)
        assert model.variant == Variant("mobilenet_v1", 0.25, 96)
        assert model.class_names == ("a", "b", "c")
        (done,) = convert(file, tmp_path / "models", kinds=["classification"])
        assert done.variant == "mobilenet_v1_025_96"
        assert done.parity["class_names"] == ["a", "b", "c"]
        assert done.parity["fingerprint"] == hashlib.sha256(file.read_bytes()).hexdigest()

    def test_what_is_claimed_comes_before_what_the_file_knows(
        self, arrays: None, file: Path
    ) -> None:
        named = file.rename(file.with_name("mobilenet_v1_0.25_160"))
        with weights.open(named) as found:
            assert found.variant().image_size == 96
            assert found.variant(image_size=128).image_size == 128
            assert found.variant("mobilenet_v1_025_192").image_size == 192

    def test_in_an_archive(self, arrays: None, file: Path, tmp_path: Path) -> None:
        with weights.open(packed(tmp_path / "own.tgz", file)) as found:
            assert (found.file, found.variant().image_size) == ("mine", 96)

    def test_errors_name_it_among_what_is_expected(self, arrays: None, tmp_path: Path) -> None:
        with refused("no such file; .*TF1 hub module; a file of NumPy arrays"):
            weights.open(tmp_path / "absent").__enter__()
