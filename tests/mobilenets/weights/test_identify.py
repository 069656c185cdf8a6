"""Which network weights are of: by what is said, by names and by shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from slim_checkpoints import AVERAGE, DATA, INDEX, constants, network, packed, written
from tiers import first_fast

from mobilenets import architecture, weights
from mobilenets.variants import FAMILIES, VARIANTS, Variant
from mobilenets.weights import identify

V1_QUARTER = network("mobilenet_v1", 0.25)


def identified(source: Path, **arguments) -> Variant:
    with weights.open(source) as found:
        return found.variant(arguments.pop("variant", None), **arguments)


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
    @pytest.mark.parametrize("form", ["quantops", "int8"])
    def test_quantized_by_name(self, tmp_path: Path, place: str, form: str) -> None:
        place = place.replace("quantops", form).replace("quant", form)
        variables = network("mobilenet_v1", 0.25, quantized=form == "quantops" or form)
        prefix = written((tmp_path / place).parent, Path(place).name, variables)
        assert identified(prefix).name == f"mobilenet_v1_025_128/{form}"

    @pytest.mark.parametrize(
        "place", ["mobilenet_v1_0.25_64/run/model.ckpt", "mobilenet_v1_2018_08_02/model.ckpt"]
    )
    def test_other_folders_names_do_not_count(self, tmp_path: Path, place: str) -> None:
        prefix = written((tmp_path / place).parent, "model.ckpt", V1_QUARTER)
        for source in (prefix, prefix.parent):
            with refused("its image size is unknown: give the image size or the variant"):
                identified(source)

    @pytest.mark.parametrize(
        ("family", "multiplier"),
        [
            *(("mobilenet_v1", m) for m in (0.25, 0.5, 0.75, 1.0, 0.1, 0.4, 0.65, 0.33, 1.5)),
            *(("mobilenet_v2", m) for m in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 0.1, 0.4, 0.65, 2.0)),
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

    def test_any_of_several_fitting_multipliers_is_the_same_network(self, tmp_path: Path) -> None:
        prefix = written(tmp_path, "model.ckpt", network("mobilenet_v2", 0.07))
        assert identified(prefix, image_size=96).depth_multiplier == 0.075
        assert identified(prefix, variant="mobilenet_v2_007_96").depth_multiplier == 0.07

    @pytest.mark.parametrize(("quantized", "form"), [(True, "quantops"), ("int8", "int8")])
    def test_quantized_by_shape(self, tmp_path: Path, quantized: bool | str, form: str) -> None:
        prefix = written(tmp_path, "model.ckpt", network("mobilenet_v1", 0.5, quantized=quantized))
        assert identified(prefix, image_size=160).name == f"mobilenet_v1_050_160/{form}"

    @pytest.mark.parametrize(
        ("quantized", "said", "message"),
        [
            (True, "int8", "expected a range for each channel .*, found one range for all"),
            ("int8", "quant", "expected one range for all .*, found a range for each channel"),
        ],
        ids=["uint8-as-int8", "int8-as-uint8"],
    )
    def test_another_scheme(
        self, tmp_path: Path, quantized: bool | str, said: str, message: str
    ) -> None:
        prefix = written(tmp_path, "model.ckpt", network("mobilenet_v1", 0.25, quantized=quantized))
        with refused(f"{message}.*correct the variant"):
            identified(prefix, variant=f"mobilenet_v1_0.25_64_{said}")

    def test_no_multiplier_has_these_widths(self, tmp_path: Path) -> None:
        key = "MobilenetV1/Conv2d_7_pointwise/weights"
        variables = {**V1_QUARTER, key: np.zeros((1, 1, 128, 100), np.float32)}
        prefix = written(tmp_path, "model.ckpt", variables)
        with refused(
            r"no depth multiplier gives MobileNet V1 these widths; the nearest published one, "
            rf"0\.25, differs in 1 of 27 convolutions \({key}: expected \[1, 1, 128, 128\], found "
            r"\[1, 1, 128, 100\]"
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
        with refused("mobilenet_v1_025_64 has 64 pixels, but the image size is 96: give only one"):
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


SWEEP = [*(round(0.05 + 0.005 * i, 3) for i in range(391)), 0.125, 1 / 3, 0.375, 1.1234]


def kernels(family: str, multiplier: float) -> dict[str, tuple[int, ...]]:
    scope, channels = architecture.scope(family), 3
    shapes: dict[str, tuple[int, ...]] = {}
    for line in architecture.convolutions(Variant(family, multiplier, 224)):
        size = (line.kernel_size, line.kernel_size)
        if line.kind == "depthwise":
            shapes[f"{scope}/{line.scope}/depthwise_weights"] = (*size, channels, 1)
        else:
            shapes[f"{scope}/{line.scope}/weights"] = (*size, channels, line.filters)
        channels = line.filters
    return shapes


class TestMultiplierOf:
    @pytest.mark.parametrize("multipliers", first_fast([SWEEP[::20], SWEEP]), ids=["some", "all"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_what_is_inferred_is_the_same_network(
        self, family: str, multipliers: list[float]
    ) -> None:
        for multiplier in multipliers:
            shapes = kernels(family, multiplier)
            found = identify.multiplier_of(family, shapes)
            assert found is not None, multiplier
            assert kernels(family, found) == shapes, (multiplier, found)

    @pytest.mark.parametrize(
        ("family", "multiplier"),
        [
            *sorted({(v.family, v.depth_multiplier) for v in VARIANTS}),
            ("mobilenet_v1", 0.125),
            ("mobilenet_v1", 0.375),
            ("mobilenet_v2", 0.125),
        ],
    )
    def test_published_and_round_ones_are_inferred_exactly(
        self, family: str, multiplier: float
    ) -> None:
        assert identify.multiplier_of(family, kernels(family, multiplier)) == multiplier

    @pytest.mark.parametrize(
        ("family", "multiplier", "roundest"),
        [
            ("mobilenet_v2", 0.36, 0.35),  # published
            ("mobilenet_v2", 0.63, 0.625),
            ("mobilenet_v2", 0.07, 0.075),
            ("mobilenet_v1", 1 / 3, 0.3335),
            ("mobilenet_v1", 0.001, 0.005),  # 8 channels everywhere
            ("mobilenet_v1", 9.999, 9.999),
        ],
    )
    def test_of_several_the_roundest(self, family: str, multiplier: float, roundest: float) -> None:
        assert identify.multiplier_of(family, kernels(family, multiplier)) == roundest

    @pytest.mark.parametrize("shape", [(3, 3, 3, 33), (3, 3, 3), (5, 5, 3, 32)])
    def test_none_fits(self, shape: tuple[int, ...]) -> None:
        shapes = kernels("mobilenet_v1", 1.0) | {"MobilenetV1/Conv2d_0/weights": shape}
        assert identify.multiplier_of("mobilenet_v1", shapes) is None
