"""The networks as tables of rows; the rows decide everything that is built.

`rows` scales a family's table to a variant: which blocks, in which order, how wide, under which
Slim scope. `convolutions` spells a table out, one line a convolution, with the shapes, parameters
and multiply-adds.

Sources: MobileNet V1, https://arxiv.org/abs/1704.04861, table 1, and Slim's
`mobilenet_v1.MOBILENETV1_CONV_DEFS`; MobileNet V2, https://arxiv.org/abs/1801.04381, table 2, and
Slim's `mobilenet_v2.V2_DEF`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mobilenets.variants import Variant

__all__ = [
    "ConvolutionRow",
    "InvertedResidualRow",
    "Line",
    "Row",
    "SeparableRow",
    "convolutions",
    "dropout_rate",
    "num_features",
    "rows",
    "scope",
]


@dataclass(frozen=True)
class ConvolutionRow:
    """A full convolution with batch norm and ReLU6.

    Attributes:
      name: Slim scope within the network's.
      filters: Output channels.
      kernel_size: Height and width of the kernel, in pixels.
      strides: Step in both directions, in pixels.
      endpoint: Name of the output among the endpoints.
    """

    name: str
    filters: int
    kernel_size: int
    strides: int
    endpoint: str


@dataclass(frozen=True)
class SeparableRow:
    """V1's block: 3x3 depthwise, then 1x1 pointwise; each with batch norm and ReLU6.

    Slim has no scope for the pair; the two are `<name>_depthwise` and `<name>_pointwise`, as
    scopes and as endpoints.
    """

    name: str
    filters: int
    strides: int


@dataclass(frozen=True)
class InvertedResidualRow:
    """V2's block: 1x1 expansion, 3x3 depthwise, linear 1x1 projection; a residual where it fits.

    Attributes:
      name: Slim scope within the network's; the convolutions are `expand`, `depthwise` and
        `project` in it.
      expansion: Factor from input channels to expanded channels; 1 builds no expansion.
      filters: Output channels of the projection.
      strides: Step of the depthwise convolution, in pixels.
      endpoint: Name of the output among the endpoints.
    """

    name: str
    expansion: int
    filters: int
    strides: int
    endpoint: str


Row = ConvolutionRow | SeparableRow | InvertedResidualRow

# filters, strides of the depthwise-separable blocks after the 32-channel first convolution.
_V1 = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *5 * ((512, 1),),
    (1024, 2),
    (1024, 1),
)

# expansion, filters, repeats, strides of the first repeat: the paper's t, c, n, s.
_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def scope(family: str) -> str:
    """Slim's variable scope of a family: `MobilenetV1` or `MobilenetV2`."""
    return {"mobilenet_v1": "MobilenetV1", "mobilenet_v2": "MobilenetV2"}[family]


def dropout_rate(family: str) -> float:
    """Share of features that Slim drops before the logits in training (1 - keep probability)."""
    return {"mobilenet_v1": 0.001, "mobilenet_v2": 0.2}[family]


def num_features(variant: Variant) -> int:
    """Length of the feature vector."""
    last = rows(variant)[-1]
    return last.filters


def rows(variant: Variant) -> tuple[Row, ...]:
    """The variant's blocks from the image to the last feature map."""
    multiplier = variant.depth_multiplier
    if variant.family == "mobilenet_v1":
        return (
            ConvolutionRow("Conv2d_0", _v1_width(32, multiplier), 3, 2, "Conv2d_0"),
            *(
                SeparableRow(f"Conv2d_{i}", _v1_width(filters, multiplier), strides)
                for i, (filters, strides) in enumerate(_V1, start=1)
            ),
        )
    table: list[Row] = [
        ConvolutionRow("Conv", _v2_width(32 * multiplier), 3, 2, "layer_1"),
    ]
    for expansion, filters, repeats, first_strides in _V2:
        for repeat in range(repeats):
            block = len(table) - 1
            table.append(
                InvertedResidualRow(
                    name=f"expanded_conv_{block}" if block else "expanded_conv",
                    expansion=expansion,
                    filters=_v2_width(filters * multiplier),
                    strides=1 if repeat else first_strides,
                    endpoint=f"layer_{len(table) + 1}",
                )
            )
    # Slim's finegrain_classification_mode: thin networks keep a wide last layer.
    last = _v2_width(1280 * max(multiplier, 1.0))
    table.append(ConvolutionRow("Conv_1", last, 1, 1, f"layer_{len(table) + 1}"))
    return tuple(table)


def _v1_width(filters: int, multiplier: float) -> int:
    """Slim's mobilenet_v1: `max(int(depth * depth_multiplier), min_depth)`."""
    return max(int(filters * multiplier), 8)


def _v2_width(exact: float) -> int:
    """Slim's mobilenet `_make_divisible`: the nearest multiple of 8 that loses at most 10 %."""
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


@dataclass(frozen=True)
class Line:
    """One convolution of a network, measured.

    Attributes:
      scope: Slim scope under the network's, e.g. `expanded_conv_3/depthwise`.
      kind: `"convolution"`, `"depthwise"` or `"logits"`.
      kernel_size: Height and width of the kernel, in pixels.
      strides: Step, in pixels.
      output_size: Height and width of the output, in pixels.
      filters: Output channels.
      parameters: Trainable variables' elements: weights, gamma, beta (biases for the logits).
      statistics: Elements of the moving mean and variance.
      multiply_adds: For one image; batch norm is folded and the bias is not counted.
    """

    scope: str
    kind: str
    kernel_size: int
    strides: int
    output_size: int
    filters: int
    parameters: int
    statistics: int
    multiply_adds: int


def convolutions(variant: Variant, num_classes: int | None = None) -> tuple[Line, ...]:
    """Every convolution in order, with its cost at the variant's image size.

    Args:
      variant: The network. Ranges of simulated quantization are not counted.
      num_classes: Length of the logits; None leaves them out.
    """
    return tuple(_lines(variant, num_classes))


def _lines(variant: Variant, num_classes: int | None) -> Iterator[Line]:
    size, channels = variant.image_size, 3

    def line(scope: str, kind: str, kernel: int, strides: int, filters: int) -> Line:
        nonlocal size, channels
        size = -(-size // strides)
        weights = kernel * kernel * filters * (1 if kind == "depthwise" else channels)
        channels = filters
        logits = kind == "logits"
        return Line(
            scope=scope,
            kind=kind,
            kernel_size=kernel,
            strides=strides,
            output_size=size,
            filters=filters,
            parameters=weights + filters * (1 if logits else 2),
            statistics=0 if logits else 2 * filters,
            multiply_adds=weights * size * size,
        )

    for row in rows(variant):
        if isinstance(row, ConvolutionRow):
            yield line(row.name, "convolution", row.kernel_size, row.strides, row.filters)
        elif isinstance(row, SeparableRow):
            yield line(f"{row.name}_depthwise", "depthwise", 3, row.strides, channels)
            yield line(f"{row.name}_pointwise", "convolution", 1, 1, row.filters)
        else:
            if row.expansion != 1:
                filters = channels * row.expansion
                yield line(f"{row.name}/expand", "convolution", 1, 1, filters)
            yield line(f"{row.name}/depthwise", "depthwise", 3, row.strides, channels)
            yield line(f"{row.name}/project", "convolution", 1, 1, row.filters)
    if num_classes is not None:
        size = 1
        yield line("Logits/Conv2d_1c_1x1", "logits", 1, 1, num_classes)
