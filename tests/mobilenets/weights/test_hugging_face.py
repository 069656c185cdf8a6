"""Folders of Hugging Face's transformers: names, layout, configuration, safetensors files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from closeness import equal, values_of
from refusals import refused
from slim_checkpoints import network, packed
from weight_formats import hugging_face, plausible, safetensors, transformers_tensors

import mobilenets
from mobilenets import images, weights
from mobilenets.variants import Variant
from mobilenets.weights import WeightsError

V1 = Variant("mobilenet_v1", 0.25, 96)
SPECIAL = "model.safetensors"


class TestTransformers:
    @pytest.mark.parametrize(
        ("family", "multiplier", "classes"),
        [("mobilenet_v1", 0.25, 5), ("mobilenet_v1", 0.5, None), ("mobilenet_v2", 0.35, 1001)],
    )
    def test_every_variable(
        self, tmp_path: Path, family: str, multiplier: float, classes: int | None
    ) -> None:
        values = network(family, multiplier, classes)
        folder = hugging_face(tmp_path / "model", values, image_size=96)
        with weights.open(folder) as found:
            assert found.variant() == Variant(family, multiplier, 96)
            assert found.num_classes == classes
            assert found.class_names == (images.class_names() if classes == 1001 else None)
            assert equal(found.values(found.variant()), values)
            (counters,) = found.leftovers.values()
            assert len(counters) == {"mobilenet_v1": 27, "mobilenet_v2": 52}[family]
            assert found.unknown == {}
            assert found.entries == len(values) + len(counters)
            content = (folder / SPECIAL).read_bytes()
            assert found.fingerprint == hashlib.sha256(content).hexdigest()

    def test_the_file_in_the_folder(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25)
        folder = hugging_face(tmp_path / "model", values, image_size=96)
        with weights.open(folder / SPECIAL) as found:
            assert equal(found.values(V1), values)
        (folder / SPECIAL).rename(folder / "weights")
        with weights.open(folder / "weights") as found:
            assert equal(found.values(V1), values)

    def test_in_an_archive(self, tmp_path: Path) -> None:
        folder = hugging_face(tmp_path / "model", network("mobilenet_v1", 0.25), image_size=96)
        with weights.open(packed(tmp_path / "model.tgz", folder)) as found:
            assert (found.file, found.variant()) == (SPECIAL, V1)

    def test_a_network_without_a_head_has_no_prefix(self, tmp_path: Path) -> None:
        values = network("mobilenet_v2", 0.35)
        folder = hugging_face(tmp_path / "model", values, image_size=96)
        tensors = transformers_tensors(values)
        safetensors(
            folder / SPECIAL,
            {name.removeprefix("mobilenet_v2."): value for name, value in tensors.items()},
        )
        with weights.open(folder) as found:
            assert equal(found.values(found.variant()), values)

    def test_layers_outside_the_network(self, tmp_path: Path) -> None:
        values = network("mobilenet_v2", 0.35)
        folder = hugging_face(tmp_path / "model", values, image_size=96)
        head = {"segmentation_head.classifier.convolution.bias": np.zeros(21, np.float32)}
        safetensors(folder / SPECIAL, {**transformers_tensors(values), **head})
        with weights.open(folder) as found:
            assert found.leftovers["layers outside the network"] == list(head)
            assert equal(found.values(found.variant()), values)

    @pytest.mark.parametrize(("dtype", "bits"), [("F16", 13), ("BF16", 16)])
    def test_halves_are_widened_exactly(self, tmp_path: Path, dtype: str, bits: int) -> None:
        values = {
            # What the shorter dtype holds; float16 has no normal numbers as small as some here.
            name: (
                np.where(np.abs(value) < 1e-3, 0, value).astype(np.float32).view(np.uint32)
                & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
            ).view(np.float32)
            for name, value in network("mobilenet_v1", 0.25, 3).items()
        }
        folder = hugging_face(tmp_path / "model", values, dtype)
        with weights.open(folder) as found:
            assert equal(found.values(V1), values)

    def test_class_names(self, tmp_path: Path) -> None:
        values = network("mobilenet_v1", 0.25, 3)
        # JSON objects have no order, and "10" comes before "2".
        labels = {"2": "c", "0": "background", "1": "b"}
        with weights.open(hugging_face(tmp_path / "named", values, id2label=labels)) as found:
            assert found.class_names == ("background", "b", "c")
        labels = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
        with weights.open(hugging_face(tmp_path / "unnamed", values, id2label=labels)) as found:
            assert found.class_names is None

    def test_nothing_says_the_size(self, tmp_path: Path) -> None:
        folder = hugging_face(tmp_path / "model", network("mobilenet_v1", 0.25))
        with weights.open(folder) as found, refused("its image size is unknown"):
            found.variant()


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("hf_mobilenet_v1_0.25_128", "mobilenet_v1_025_128"),
        ("hf_mobilenet_v2_0.35_96", "mobilenet_v2_035_96"),
    ],
)
def test_logits_as_transformers_computes_them(
    reference_data: Path, name: str, variant: str
) -> None:
    folder = reference_data / "real/other_formats" / name
    model = mobilenets.load(folder)
    assert model.variant.name == variant
    with np.load(folder / "expected.npz") as expected:
        found = model(expected["images"]).numpy()
        np.testing.assert_allclose(found, expected["logits"], atol=1e-4)
        # The logits differ by much more than that.
        assert np.std(expected["logits"]) > 0.01


class TestConfiguration:
    @pytest.mark.parametrize(
        ("family", "config", "message"),
        [
            ("mobilenet_v1", {"tf_padding": False}, "tf_padding false instead of true"),
            ("mobilenet_v1", {"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05 instead of 0.001"),
            ("mobilenet_v1", {"hidden_act": "relu"}, 'hidden_act "relu" instead of "relu6"'),
            ("mobilenet_v1", {"num_channels": 1}, "num_channels 1 instead of 3"),
            ("mobilenet_v1", {"min_depth": 4}, "min_depth 4 instead of 8"),
            ("mobilenet_v2", {"output_stride": 16}, "output_stride 16 instead of 32"),
            ("mobilenet_v2", {"first_layer_is_expansion": False}, "is_expansion false instead of"),
            ("mobilenet_v2", {"finegrained_output": False}, "finegrained_output false instead of"),
            ("mobilenet_v2", {"expand_ratio": 4}, "expand_ratio 4 instead of 6"),
            ("mobilenet_v2", {"depth_divisible_by": 4}, "depth_divisible_by 4 instead of 8"),
        ],
    )
    def test_another_network(
        self, tmp_path: Path, family: str, config: dict[str, Any], message: str
    ) -> None:
        values = network(family, 0.25 if family == "mobilenet_v1" else 0.35)
        with refused(f"another network than TF-Slim's MobileNet V[12]: .*{message}"):
            weights.open(hugging_face(tmp_path / "model", values, **config)).__enter__()

    def test_what_one_family_alone_knows(self, tmp_path: Path) -> None:
        folder = hugging_face(tmp_path / "m", network("mobilenet_v1", 0.25), output_stride=8)
        with weights.open(folder) as found:
            found.values(V1)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"model_type": "resnet"}, "model_type of config.json is 'resnet': expected"),
            ({"model_type": None}, "model_type of config.json is not given: expected"),
            ({"model_type": "mobilenet_v3"}, "this is MobileNet V3; only V1 and V2 are supported"),
            (
                {"model_type": None, "architecture": "mobilenetv3_large_100"},
                "this is MobileNet V3; only V1 and V2 are supported",
            ),
            ({"image_size": 16}, "image_size of config.json is 16"),
            ({"image_size": "96"}, 'image_size of config.json is "96"'),
            (
                {"id2label": {"0": "a", "1": "b"}},
                "names 2 classes in id2label, but the classifier has",
            ),
            ({"id2label": ["a", "b", "c"]}, "names no classes in id2label"),
        ],
    )
    def test_what_cannot_be_used(
        self, tmp_path: Path, config: dict[str, Any], message: str
    ) -> None:
        values = network("mobilenet_v1", 0.25, 3)
        with refused(message):
            weights.open(hugging_face(tmp_path / "model", values, **config)).__enter__()

    @pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\udcff"])
    def test_no_json(self, tmp_path: Path, content: str) -> None:
        folder = hugging_face(tmp_path / "model", network("mobilenet_v1", 0.25))
        (folder / "config.json").write_text(content, errors="surrogateescape")
        with refused(r"config\.json (is not a JSON file|holds no JSON object)"):
            weights.open(folder).__enter__()

    def test_no_configuration(self, tmp_path: Path) -> None:
        path = safetensors(tmp_path / SPECIAL, network("mobilenet_v1", 0.25))
        with refused(r"config\.json is missing beside model\.safetensors"):
            weights.open(path).__enter__()

    def test_a_pickle(self, tmp_path: Path) -> None:
        folder = hugging_face(tmp_path / "model", network("mobilenet_v1", 0.25))
        (folder / SPECIAL).rename(folder / "pytorch_model.bin")
        with refused(r"a pickle \(pytorch_model\.bin\), .*: convert it to safetensors"):
            weights.open(folder).__enter__()

    def test_several_files(self, tmp_path: Path) -> None:
        folder = hugging_face(tmp_path / "model", network("mobilenet_v1", 0.25))
        (folder / SPECIAL).rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text("{}")
        with refused(r"in several files .*: save them as one .*max_shard_size"):
            weights.open(folder).__enter__()

    @pytest.mark.parametrize(
        ("config", "fits"),
        [
            ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, True),
            ({"do_resize": True}, True),
            ({"image_mean": [0.485, 0.456, 0.406]}, False),
            ({"image_std": 0.25}, False),
        ],
    )
    def test_images_in_another_range(
        self, tmp_path: Path, config: dict[str, Any], fits: bool
    ) -> None:
        folder = hugging_face(tmp_path / "model", network("mobilenet_v1", 0.25))
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
        if fits:
            weights.open(folder).__enter__()
        else:
            with refused(r"takes other images than TF-Slim's MobileNets: .* instead of 0\.5"):
                weights.open(folder).__enter__()

    def test_averages_cannot_be_given(self, tmp_path: Path) -> None:
        folder = hugging_face(tmp_path / "model", network("mobilenet_v2", 0.35))
        with refused("holds no moving averages of variables; take the raw"):
            weights.open(folder, "averages").__enter__()


def test_every_fault_is_listed(tmp_path: Path) -> None:
    values = network("mobilenet_v1", 0.25, 3)
    folder = hugging_face(tmp_path / "model", values)
    tensors = transformers_tensors(values)
    del tensors["mobilenet_v1.conv_stem.convolution.weight"]
    tensors["mobilenet_v1.layer.0.normalization.bias"] = np.zeros(9, np.float32)
    tensors["mobilenet_v1.layer.0.convolution.weight"] = np.zeros((8, 9), np.float32)
    tensors["mobilenet_v1.layer.26.convolution.weight"] = np.zeros(2, np.float32)
    tensors["layer.0.normalization.bias"] = np.zeros(8, np.float32)
    tensors["classifier.extra"] = np.zeros(1, np.float32)
    safetensors(folder / SPECIAL, tensors)
    with weights.open(folder) as found, pytest.raises(WeightsError) as error:
        found.values(V1)
    assert str(error.value).splitlines()[1:] == [
        "  MobilenetV1/Conv2d_0/weights: missing, expected [3, 3, 3, 8]",
        "  mobilenet_v1.layer.26.convolution.weight: left over, found [2]",
        "  layer.0.normalization.bias: left over, found [8]",
        "  classifier.extra: left over, found [1]",
        "  MobilenetV1/Conv2d_1_depthwise/depthwise_weights: expected [3, 3, 8, 1], found [8, 9]",
        "  MobilenetV1/Conv2d_1_depthwise/BatchNorm/beta: expected [8], found [9]",
    ]


def test_values_that_are_not_finite_float32(tmp_path: Path) -> None:
    values = network("mobilenet_v1", 0.25)
    values["MobilenetV1/Conv2d_0/weights"][0, 0, 0, :2] = np.nan
    with (
        weights.open(hugging_face(tmp_path / "nan", values)) as found,
        pytest.raises(WeightsError, match="2 of 216 values NaN or infinite"),
    ):
        found.values(V1)
    with (
        weights.open(hugging_face(tmp_path / "wide", values, "F64")) as found,
        pytest.raises(WeightsError, match=r"135 variables(.|\n)*found float64"),
    ):
        found.values(V1)


class TestForgedFiles:
    """A safetensors file says where its tensors lie, which is not to be believed."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return hugging_face(tmp_path / "model", network("mobilenet_v1", 0.25), image_size=96)

    def forge(self, folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
        content = (folder / SPECIAL).read_bytes()
        length = int.from_bytes(content[:8], "little")
        change(header := json.loads(content[8 : 8 + length]))
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + content[8 + length :]
        (folder / SPECIAL).write_bytes(content)

    def test_unchanged(self, folder: Path) -> None:
        self.forge(folder, lambda header: None)
        with weights.open(folder) as found:
            found.values(V1)

    FIRST = "mobilenet_v1.conv_stem.convolution.weight"
    LATER = "mobilenet_v1.conv_stem.normalization.bias"

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("data_offsets", [0, 1 << 60], "ends after the end of the file"),
            ("data_offsets", [-8, 856], "has no data_offsets"),
            ("data_offsets", [864, 0], "has no data_offsets"),
            ("data_offsets", [0], "has no data_offsets"),
            ("data_offsets", [0, 864.0], "has no data_offsets"),
            ("data_offsets", None, "has no data_offsets"),
            ("data_offsets", [4, 868], "leaves a gap before it|overlaps another tensor"),
            ("shape", [8, 3, 3, 4], r"has 864 bytes, but its shape is \[8, 3, 3, 4\] of F32"),
            ("shape", [1 << 62, 1 << 62], "has 864 bytes, but its shape is"),
            ("shape", [1] * 999, r"its shape is \[(1, ){8}… of 999\] of F32"),
            ("shape", [-8, -27], "has no shape"),
            ("shape", "8", "has no shape"),
            ("shape", [True], "has no shape"),
            ("dtype", "F4", "has no known dtype"),
            ("dtype", ["F32"], "has no known dtype"),
            ("dtype", "F16", "has 864 bytes, but its shape is"),
        ],
    )
    def test_a_tensors_entry(self, folder: Path, key: str, value: object, message: str) -> None:
        self.forge(folder, lambda header: header[self.FIRST].__setitem__(key, value))
        with refused(rf"model\.safetensors is damaged or not a safetensors file: .*({message})"):
            weights.open(folder).__enter__()

    def test_two_tensors_of_the_same_bytes(self, folder: Path) -> None:
        self.forge(folder, lambda header: header.update(second=header[self.FIRST]))
        with refused('"second" overlaps another tensor'):
            weights.open(folder).__enter__()

    def test_a_gap(self, folder: Path) -> None:
        self.forge(folder, lambda header: header.pop(self.FIRST))
        with refused("leaves a gap before it"):
            weights.open(folder).__enter__()

    def test_a_name_without_end(self, folder: Path) -> None:
        self.forge(folder, lambda header: header.update({"x" * 10_000: [1]}))
        with refused('"x{100}" has no known dtype'):
            weights.open(folder).__enter__()

    def test_an_entry_of_another_kind(self, folder: Path) -> None:
        self.forge(folder, lambda header: header.update(second=[1]))
        with refused('"second" has no known dtype'):
            weights.open(folder).__enter__()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "its header is longer than the file"),
            (b"\x02\0\0\0", "its header is longer than the file"),
            (b"\xff" * 8 + b"{}", "its header is longer than the file"),
            (b"\x03\0\0\0\0\0\0\0{}", "its header is longer than the file"),
            (b"\x02\0\0\0\0\0\0\0{a", "its header is not JSON"),
            (b"\x02\0\0\0\0\0\0\0[]", "its header is not a JSON object"),
            (b"\x02\0\0\0\0\0\0\0{}more", "bytes follow the last tensor"),
            ((100_000).to_bytes(8, "little") + b"[" * 100_000, "its header is not JSON"),
        ],
    )
    def test_the_header(self, folder: Path, content: bytes, message: str) -> None:
        (folder / SPECIAL).write_bytes(content)
        with refused(rf"model\.safetensors is damaged or not a safetensors file: {message}"):
            weights.open(folder).__enter__()

    def test_truncated(self, folder: Path) -> None:
        content = (folder / SPECIAL).read_bytes()
        (folder / SPECIAL).write_bytes(content[:-4])
        with refused("ends after the end of the file"):
            weights.open(folder).__enter__()

    def test_truncated_while_it_is_open(self, folder: Path) -> None:
        with weights.open(folder) as found:
            content = (folder / SPECIAL).read_bytes()
            (folder / SPECIAL).write_bytes(content[:-4])
            with refused("was shortened while it was read"):
                found.values(V1)


class TestCommand:
    @pytest.mark.slow
    def test_inspect_and_checkpoint(
        self, tmp_path: Path, converted: Callable[..., mobilenets.MobileNet]
    ) -> None:
        values = plausible(network("mobilenet_v2", 0.35, 3))
        labels = {"0": "a", "1": "b", "2": "c"}
        folder = hugging_face(tmp_path / "model", values, image_size=64, id2label=labels)
        model = converted(folder, "mobilenet_v2_035_64")
        assert model.class_names == ("a", "b", "c")
        assert equal(values_of(model), values)

    def test_one_line_and_exit_2(
        self, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
    ) -> None:
        folder = hugging_face(tmp_path / "m", network("mobilenet_v1", 0.25), tf_padding=False)
        code, _, errors = command("inspect", folder)
        assert code == 2
        assert len(errors.strip().splitlines()) == 1
