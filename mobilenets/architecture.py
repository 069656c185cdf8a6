"""The networks as tables of rows; the rows decide everything that is built.

`rows` scales a family's table to a variant: which blocks, in which order, how wide, under which
Slim scope. `convolutions` lists the convolutions of a network with their shapes, parameters and
multiply-adds.

Sources: MobileNet V1, https://arxiv.org/abs/1704.04861, table 1, and Slim's
`mobilenet_v1.MOBILENETV1_CONV_DEFS`; MobileNet V2, https://arxiv.org/abs/1801.04381, table 2, and
Slim's `mobilenet_v2.V2_DEF`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mobilenets.variants import Variant

__all__ = [
    "POOL_QUANT",
    "SUM_QUANT",
    "Convolution",
    "ConvolutionRow",
    "InvertedResidualRow",
    "Line",
    "Row",
    "SeparableRow",
    "averages",
    "convolutions",
    "dropout_rate",
    "num_features",
    "paper",
    "range_scope",
    "rows",
    "scope",
    "title",
    "variables",
]

_Activation = TypeVar("_Activation")


@dataclass(frozen=True)
class Convolution:
    """One convolution of a row, with batch norm.

    Attributes:
      name: Name within the row; empty if the row is a single convolution.
      scope: Slim scope within the network's, e.g. `expanded_conv_3/depthwise`.
      filters: Output channels; None for a depthwise convolution, which keeps its input channels.
      kernel_size: Height and width of the kernel, in pixels.
      strides: Step in both directions, in pixels.
      activation: Whether ReLU6 follows.
      endpoint: Name of the output among its block's endpoints.
    """

    name: str
    scope: str
    filters: int | None
    kernel_size: int = 1
    strides: int = 1
    activation: bool = True
    endpoint: str = ""


class Row(Protocol):
    """A block of a network: its name, width and convolutions.

    Attributes:
      name: Slim scope within the network's.
      filters: Output channels.
      strides: Step in both directions, in pixels.
    """

    @property
    def name(self) -> str: ...
    @property
    def filters(self) -> int: ...
    @property
    def strides(self) -> int: ...

    def convolutions(self, channels: int) -> tuple[Convolution, ...]:
        """The convolutions in order, for an input with this number of channels."""

    def adds_input(self, channels: int) -> bool:
        """Whether an input with this number of channels is added to the output."""

    def endpoints(self, activations: Mapping[str, _Activation]) -> dict[str, _Activation]:
        """A block's activations, under their names among the network's endpoints."""


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

    def convolutions(self, channels: int) -> tuple[Convolution, ...]:
        return (Convolution("", self.name, self.filters, self.kernel_size, self.strides),)

    def adds_input(self, channels: int) -> bool:
        return False

    def endpoints(self, activations: Mapping[str, _Activation]) -> dict[str, _Activation]:
        (output,) = activations.values()
        return {self.endpoint: output}


@dataclass(frozen=True)
class SeparableRow:
    """V1's block: 3x3 depthwise, then 1x1 pointwise; each with batch norm and ReLU6.

    Slim has no scope for the pair; the two are `<name>_depthwise` and `<name>_pointwise`, as
    scopes and as endpoints.
    """

    name: str
    filters: int
    strides: int = 1

    def convolutions(self, channels: int) -> tuple[Convolution, ...]:
        depthwise, pointwise = (f"{self.name}_{part}" for part in ("depthwise", "pointwise"))
        return (
            Convolution("depthwise", depthwise, None, 3, self.strides, endpoint=depthwise),
            Convolution("pointwise", pointwise, self.filters, endpoint=pointwise),
        )

    def adds_input(self, channels: int) -> bool:
        return False

    def endpoints(self, activations: Mapping[str, _Activation]) -> dict[str, _Activation]:
        return dict(activations)


@dataclass(frozen=True)
class InvertedResidualRow:
    """V2's block: 1x1 expansion, 3x3 depthwise, linear 1x1 projection; a residual if shapes match.

    Attributes:
      name: Slim scope within the network's; the convolutions are `expand`, `depthwise` and
        `project` in it.
      expansion: Factor from input channels to expanded channels; 1 builds no expansion.
      filters: Output channels of the projection.
      strides: Step of the depthwise convolution, in pixels.
      endpoint: Name of the output among the endpoints; the block's others are `<endpoint>/…`.
    """

    name: str
    expansion: int
    filters: int
    strides: int = 1
    endpoint: str = ""

    def convolutions(self, channels: int) -> tuple[Convolution, ...]:
        def convolution(name: str, filters: int | None, endpoint: str, **kwargs) -> Convolution:
            return Convolution(name, f"{self.name}/{name}", filters, endpoint=endpoint, **kwargs)

        depthwise = {"kernel_size": 3, "strides": self.strides}
        expanded = channels * self.expansion
        return (
            *([convolution("expand", expanded, "expansion_output")] if self.expansion != 1 else []),
            convolution("depthwise", None, "depthwise_output", **depthwise),
            convolution("project", self.filters, "output", activation=False),
        )

    def adds_input(self, channels: int) -> bool:
        return self.strides == 1 and channels == self.filters

    def endpoints(self, activations: Mapping[str, _Activation]) -> dict[str, _Activation]:
        *_, output = activations.values()
        inner = {f"{self.endpoint}/{name}": value for name, value in activations.items()}
        return {self.endpoint: output, **inner}


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


@dataclass(frozen=True)
class _Family:
    """Properties of all networks of a family."""

    scope: str
    dropout_rate: float
    repeats_scope: bool
    averages: bool
    rows: Callable[[float], Iterator[Row]]
    title: str
    paper: tuple[str, str]


def title(family: str) -> str:
    """A family's name for people: `MobileNet V1`."""
    return _FAMILIES[family].title


def paper(family: str) -> tuple[str, str]:
    """Title and arXiv number of the paper that describes a family."""
    return _FAMILIES[family].paper


def scope(family: str) -> str:
    """Slim's variable scope of a family: `MobilenetV1` or `MobilenetV2`."""
    return _FAMILIES[family].scope


def dropout_rate(family: str) -> float:
    """Share of features that Slim drops before the logits in training (1 - keep probability)."""
    return _FAMILIES[family].dropout_rate


def range_scope(scope: str) -> str:
    """Scope of a convolution's quantization ranges, as `tf.contrib.quantize` names them.

    It names them after operations. Slim's V1 opens the network's scope twice, and names of
    operations repeat it, unlike names of variables; the logits lie outside of the second scope.

    Args:
      scope: Slim scope of the convolution, with the network's.
    """
    network = scope.partition("/")[0]
    repeated = any(each.scope == network and each.repeats_scope for each in _FAMILIES.values())
    return f"{network}/{scope}" if repeated else scope


def averages(family: str) -> bool:
    """Whether the published modules hold the moving averages of a family's checkpoints."""
    return _FAMILIES[family].averages


def num_features(variant: Variant) -> int:
    """Length of the feature vector."""
    last = rows(variant)[-1]
    return last.filters


def rows(variant: Variant) -> tuple[Row, ...]:
    """The variant's blocks from the image to the last feature map."""
    return tuple(_FAMILIES[variant.family].rows(variant.depth_multiplier))


def _v1_rows(multiplier: float) -> Iterator[Row]:
    yield ConvolutionRow("Conv2d_0", _v1_width(32, multiplier), 3, 2, "Conv2d_0")
    for i, (filters, strides) in enumerate(_V1, start=1):
        yield SeparableRow(f"Conv2d_{i}", _v1_width(filters, multiplier), strides)


def _v2_rows(multiplier: float) -> Iterator[Row]:
    yield ConvolutionRow("Conv", _v2_width(32 * multiplier), 3, 2, "layer_1")
    block = 0
    for expansion, filters, repeats, first_strides in _V2:
        for repeat in range(repeats):
            yield InvertedResidualRow(
                name=f"expanded_conv_{block}" if block else "expanded_conv",
                expansion=expansion,
                filters=_v2_width(filters * multiplier),
                strides=1 if repeat else first_strides,
                endpoint=f"layer_{block + 2}",
            )
            block += 1
    # Slim's finegrain_classification_mode: thin networks keep a wide last layer.
    last = _v2_width(1280 * max(multiplier, 1.0))
    yield ConvolutionRow("Conv_1", last, 1, 1, f"layer_{block + 2}")


def _v1_width(filters: int, multiplier: float) -> int:
    """Slim's mobilenet_v1: `max(int(depth * depth_multiplier), min_depth)`."""
    return max(int(filters * multiplier), 8)


def _v2_width(exact: float) -> int:
    """Slim's mobilenet `_make_divisible`: the nearest multiple of 8 that loses at most 10 %."""
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


SUM_QUANT = "post_activation_bypass_quant"
"""`tf.contrib.quantize`'s name of the rounding of a residual's sum."""
POOL_QUANT = "global_pool_quant"
"""The rounding of the pooled features in int8; `tf.contrib.quantize` has none there."""
# In the order in which Slim creates them.
_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

_FAMILIES = {
    "mobilenet_v1": _Family(
        "MobilenetV1",
        0.001,
        repeats_scope=True,
        averages=False,
        rows=_v1_rows,
        title="MobileNet V1",
        paper=(
            "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
            "1704.04861",
        ),
    ),
    "mobilenet_v2": _Family(
        "MobilenetV2",
        0.2,
        repeats_scope=False,
        averages=True,
        rows=_v2_rows,
        title="MobileNet V2",
        paper=("MobileNetV2: Inverted Residuals and Linear Bottlenecks", "1801.04381"),
    ),
}


@dataclass(frozen=True)
class Line:
    """One convolution of a network, with its cost.

    Attributes:
      scope: Slim scope under the network's, e.g. `expanded_conv_3/depthwise`.
      kind: `"convolution"`, `"depthwise"` or `"logits"`.
      kernel_size: Height and width of the kernel, in pixels.
      strides: Step, in pixels.
      output_size: Height and width of the output, in pixels.
      filters: Output channels.
      parameters: Number of trainable values: weights, gamma, beta (biases for the logits).
      statistics: Number of values in the moving mean and variance.
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
        for each in row.convolutions(channels):
            kind = "depthwise" if each.filters is None else "convolution"
            yield line(each.scope, kind, each.kernel_size, each.strides, each.filters or channels)
    if num_classes is not None:
        size = 1
        yield line("Logits/Conv2d_1c_1x1", "logits", 1, 1, num_classes)


def variables(variant: Variant, num_classes: int | None = None) -> dict[str, tuple[int, ...]]:
    """Shape of every variable by Slim name, in the order in which Slim creates them.

    Ranges of simulated quantization have `tf.contrib.quantize`'s names and come after the variables
    of their layer. In int8 the range of weights has an entry for each output channel.

    Args:
      variant: The network.
      num_classes: Length of the logits; None leaves them out.
    """
    network = scope(variant.family)
    int8 = variant.quantized == "int8"
    shapes: dict[str, tuple[int, ...]] = {}

    def range_of(quantizer: str, shape: tuple[int, ...] = ()) -> None:
        if variant.quantized:
            shapes.update({f"{quantizer}/{end}": shape for end in ("min", "max")})

    def ranges(scope: str, filters: int) -> None:
        range_of(f"{scope}/weights_quant", (filters,) if int8 else ())
        range_of(f"{scope}/act_quant")

    channels = 3
    for row in rows(variant):
        residual = row.adds_input(channels)
        for each in row.convolutions(channels):
            name, size = f"{network}/{each.scope}", (each.kernel_size, each.kernel_size)
            if each.filters is None:
                shapes[f"{name}/depthwise_weights"] = (*size, channels, 1)
            else:
                shapes[f"{name}/weights"] = (*size, channels, each.filters)
                channels = each.filters
            shapes.update(
                {f"{name}/BatchNorm/{statistic}": (channels,) for statistic in _BATCH_NORM}
            )
            ranges(range_scope(name), channels)
        if residual:
            range_of(f"{network}/{row.name}/{SUM_QUANT}")
    if int8:
        range_of(f"{network}/{POOL_QUANT}")
    if num_classes is not None:
        name = f"{network}/Logits/Conv2d_1c_1x1"
        shapes[f"{name}/weights"] = (1, 1, channels, num_classes)
        shapes[f"{name}/biases"] = (num_classes,)
        ranges(name, num_classes)
    return shapes
