"""Where the chart puts its marks."""

from __future__ import annotations

import dataclasses

import pytest

from convert.publish.chart import HEIGHT, WIDTH, Mark, chart


def mark(macs: float, top1: float, line: str = "1.0", series: int = 0) -> Mark:
    name = f"{series}-{line}-{macs}"
    return Mark(macs, top1, series, line, name, f"{name}/index.html", name)


def test_no_marks_no_chart() -> None:
    assert chart([]) is None


def test_costs_are_logarithmic_and_accuracies_linear() -> None:
    drawn = chart([mark(10, 40), mark(100, 50), mark(1000, 70)])
    assert drawn is not None
    first, second, third = drawn.marks
    assert third.x - second.x == pytest.approx(second.x - first.x, abs=0.2)
    assert second.y - third.y == pytest.approx(2 * (first.y - second.y), abs=0.2)
    assert first.x < second.x
    assert first.y > third.y


def test_marks_lie_on_their_ticks() -> None:
    drawn = chart([mark(20, 45), mark(500, 70)])
    assert drawn is not None
    across = {tick.label: tick.at for tick in drawn.across}
    up = {tick.label: tick.at for tick in drawn.up}
    assert [(each.x, each.y) for each in drawn.marks] == [
        (across["20"], up["45"]),
        (across["500"], up["70"]),
    ]
    assert list(across) == ["20", "50", "100", "200", "500"]


@pytest.mark.parametrize(
    "values", [[(11, 45.5), (582, 75.0)], [(14, 41.5)], [(0.3, 0.1), (9000, 99.9)]],
    ids=["published", "one", "far apart"],
)  # fmt: skip
def test_everything_is_inside(values: list[tuple[float, float]]) -> None:
    drawn = chart([mark(*each) for each in values])
    assert drawn is not None
    for each in drawn.marks:
        assert drawn.left < each.x < drawn.right <= WIDTH
        assert drawn.top <= each.y <= drawn.bottom <= HEIGHT
    assert len(drawn.up) > 1


def test_lines_join_one_multiplier_of_one_series() -> None:
    drawn = chart(
        [mark(50, 60), mark(20, 50), mark(30, 40, "0.5"), mark(30, 45, "0.5", 1), mark(60, 65)]
    )
    assert drawn is not None
    assert [(series, len(points.split())) for series, points in drawn.lines] == [
        (0, 1),
        (0, 3),
        (1, 1),
    ]
    x = [float(point.split(",")[0]) for point in drawn.lines[1][1].split()]
    assert x == sorted(x)


def test_marks_keep_what_they_say() -> None:
    given = mark(50, 60)
    drawn = chart([given])
    assert drawn is not None
    (placed,) = drawn.marks
    assert dataclasses.replace(placed, x=0.0, y=0.0) == given
