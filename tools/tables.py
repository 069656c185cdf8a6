"""The tables of README.md and docs/architectures.md, from the rows that build the networks.

    python -m tools.tables

rewrites them; a test checks that they are current.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mobilenets import architecture
from mobilenets.published import archives
from mobilenets.variants import VARIANTS, Variant

__all__ = ["layer_page", "readme"]

_ROOT = Path(__file__).resolve().parents[1]
_CLASSES = 1001
_SIZES = (224, 192, 160, 128, 96)


def _markdown(header: list[str], rows: list[list[str]], right_from: int) -> str:
    rule = ["---"] * right_from + ["---:"] * (len(header) - right_from)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def variant_table() -> str:
    """A row for each family and depth multiplier, a column for each image size."""
    header = ["", "parameters", "features", *(f"{size} px" for size in _SIZES)]
    rows = []
    for variant in VARIANTS:
        if variant.image_size != _SIZES[0]:
            continue
        lines = architecture.convolutions(variant, _CLASSES)
        parameters = sum(line.parameters for line in lines)
        stem, _, quantops = variant.name.partition("_224")
        rows.append(
            [
                f"`{stem}_*{quantops}`",
                f"{parameters / 1e6:.2f} M",
                str(architecture.num_features(variant)),
                *(_cell(variant, size) for size in _SIZES),
            ]
        )
    return _markdown(header, rows, right_from=1)


def _cell(variant: Variant, size: int) -> str:
    sized = Variant(variant.family, variant.depth_multiplier, size, variant.quantized)
    if sized not in VARIANTS:
        return ""
    macs = sum(line.multiply_adds for line in architecture.convolutions(sized, _CLASSES))
    return f"{archives()[sized.name].top1:.1f} % · {macs / 1e6:.0f} M"


def readme(text: str) -> str:
    """The README with a new table of variants.

    Raises:
      ValueError: The README has no place for the table.
    """
    fresh, count = re.subn(
        r"(?s)(<!-- variants: .*? -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{variant_table()}\n{match[2]}",
        text,
    )
    if count != 1:
        raise ValueError("README.md has no place for the table of variants")
    return fresh


def layer_page() -> str:
    """The page that spells out the layers of both families."""
    return "\n".join(_layer_page())


def _layer_page() -> Iterator[str]:
    yield "# Layers, parameters and multiply-adds"
    yield ""
    yield "Made by `python -m tools.tables` from the rows that build the networks. A line is one"
    yield "convolution with its batch norm; parameters are weights, gamma and beta (for the logits"
    yield "weights and biases), statistics the moving mean and variance. Multiply-adds are those of"
    yield "one image with the batch norm folded."
    for name in ("mobilenet_v1_100_224", "mobilenet_v2_100_224"):
        lines = architecture.convolutions(Variant.parse(name), _CLASSES)
        total = [
            f"{sum(getattr(line, what) for line in lines):,}"
            for what in ("parameters", "statistics", "multiply_adds")
        ]
        yield f"\n## {name}, {_CLASSES} classes\n"
        yield _markdown(
            [
                "scope",
                "kind",
                "kernel",
                "strides",
                "output",
                "parameters",
                "statistics",
                "multiply-adds",
            ],
            [
                *(
                    [
                        f"`{line.scope}`",
                        line.kind,
                        f"{line.kernel_size} x {line.kernel_size}",
                        str(line.strides),
                        f"{line.output_size} x {line.output_size} x {line.filters}",
                        f"{line.parameters:,}",
                        f"{line.statistics:,}",
                        f"{line.multiply_adds:,}",
                    ]
                    for line in lines
                ),
                ["in all", "", "", "", "", *total],
            ],
            right_from=2,
        )
    yield "\n## Every published variant\n"
    yield "With 1001 classes. Published figures in brackets, from Slim's tables (in millions); they"
    yield "differ by a few percent for V1 at 0.75 and for 0.25 at 192 pixels, where Slim's"
    yield "multiply-adds do not follow from its own layers.\n"
    yield _markdown(
        ["variant", "features", "parameters", "statistics", "multiply-adds"],
        [
            [
                f"`{variant.name}`",
                str(architecture.num_features(variant)),
                f"{sum(line.parameters for line in lines):,} "
                f"({archives()[variant.name].million_parameters:.2f})",
                f"{sum(line.statistics for line in lines):,}",
                f"{sum(line.multiply_adds for line in lines):,} "
                f"({archives()[variant.name].million_macs})",
            ]
            for variant in VARIANTS
            if not variant.quantized
            for lines in [architecture.convolutions(variant, _CLASSES)]
        ],
        right_from=1,
    )
    yield ""


def main() -> None:
    path = _ROOT / "README.md"
    path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
    page = _ROOT / "docs" / "architectures.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(layer_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
