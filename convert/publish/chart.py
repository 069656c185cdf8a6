"""The chart of accuracy against multiply-adds: where its marks and lines lie, in SVG's units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["SHAPES", "Chart", "Mark", "Tick", "chart"]

WIDTH, HEIGHT = 720, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 64
# Paths around the origin, of about the same area; told apart without colour too.
SHAPES = (
    "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0z",
    "M-5.3,-5.3h10.6v10.6h-10.6z",
    "M0,-7.2L7,5.2H-7z",
    "M0,-7.6L7.6,0L0,7.6L-7.6,0z",
)


@dataclass(frozen=True)
class Mark:
    """A point to draw.

    Attributes:
      million_macs: Multiply-accumulates in millions, above 0.
      top1: Top-1 accuracy in percent.
      series: Position of its group in the legend.
      line: Marks of the same line are joined.
      name: Name of the module.
      href: Where the mark leads.
      title: What it says when one points at it.
      x: Set by `chart`.
      y: Set by `chart`.
    """

    million_macs: float
    top1: float
    series: int
    line: str
    name: str
    href: str
    title: str
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Tick:
    """A line of the grid: its place and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart to draw: `WIDTH` by `HEIGHT` units, the area of the data inside of it."""

    marks: Sequence[Mark]
    lines: Sequence[tuple[int, str]]
    across: Sequence[Tick]
    up: Sequence[Tick]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def chart(marks: Iterable[Mark]) -> Chart | None:
    """Places marks: the horizontal axis is logarithmic, the vertical one linear.

    Returns:
      The chart; its lines are pairs of a series and the points of an SVG polyline. None without
      marks.
    """
    ordered = sorted(marks, key=lambda mark: (mark.series, mark.line, mark.million_macs, mark.name))
    if not ordered:
        return None
    costs = [mark.million_macs for mark in ordered]
    lowest = min(costs) / 1.15
    horizontal = _scale(
        math.log(lowest), math.log(max(costs) * 1.15), _LEFT, WIDTH - _RIGHT, math.log
    )
    values = [mark.top1 for mark in ordered]
    floor = 5 * math.floor(min(values) / 5)
    ceiling = max(5 * math.ceil(max(values) / 5), floor + 5)
    vertical = _scale(floor, ceiling, HEIGHT - _BOTTOM, _TOP)
    placed = [
        dataclasses.replace(mark, x=horizontal(mark.million_macs), y=vertical(mark.top1))
        for mark in ordered
    ]
    lines: dict[tuple[int, str], list[str]] = {}
    for mark in placed:
        lines.setdefault((mark.series, mark.line), []).append(f"{mark.x},{mark.y}")
    return Chart(
        marks=placed,
        lines=[(series, " ".join(points)) for (series, _), points in lines.items()],
        across=[Tick(horizontal(cost), f"{cost:g}") for cost in _round(lowest, max(costs) * 1.15)],
        up=[Tick(vertical(value), str(value)) for value in range(floor, ceiling + 1, 5)],
    )


def _scale(
    low: float,
    high: float,
    start: float,
    end: float,
    transform: Callable[[float], float] = lambda value: value,
) -> Callable[[float], float]:
    """Maps values linearly, after a transform, to places with one decimal."""
    return lambda value: round(start + (transform(value) - low) / (high - low) * (end - start), 1)


def _round(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in a range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return [value for value in found if low <= value <= high]
