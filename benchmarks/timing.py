"""Interleaved timing: contenders take turns, so that disturbances affect all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Ratio", "Times", "interleave", "interleave_with_cpu", "median", "ratio"]

Times: TypeAlias = dict[str, list[float]]
"""The seconds of each contender in each round."""


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> Times:
    """Seconds that each contender took in each round."""
    return interleave_with_cpu(contenders, rounds, warmup)[0]


def interleave_with_cpu(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> tuple[Times, Times]:
    """The same, and the seconds that the process had of all cores."""
    times: Times = {name: [] for name in contenders}
    cpu: Times = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name, run in contenders.items():
            used, start = time.process_time(), time.perf_counter()
            run()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - used)
    return times, cpu


def median(seconds: list[float]) -> float:
    """The median of one contender's rounds, in milliseconds."""
    return 1e3 * statistics.median(seconds)


@dataclass(frozen=True)
class Ratio:
    """One contender's time as a multiple of another's, round by round.

    Attributes:
      middle: The median of the rounds.
      low: Their first quartile.
      high: Their third.
    """

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(theirs: list[float], ours: list[float]) -> Ratio:
    """How many times as long theirs takes as ours."""
    rounds = [a / b for a, b in zip(theirs, ours, strict=True)]
    low, middle, high = statistics.quantiles(rounds, n=4, method="inclusive")
    return Ratio(middle, low, high)
