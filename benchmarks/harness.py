"""Paired measuring: contestants take turns (A B A B ...), and a figure is a ratio within one run.

A contestant is a function that does its work `count` times and returns the seconds of the part
that counts; what it needs before and after is its own business and is not timed. The first round
is thrown away: it warms caches and tells how often the work fits into the time of a round.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

ROUND_COUNT_MIN = 5


class Contestant(NamedTuple):
    """Somebody who does the work.

    Attributes:
        name: who.
        run: does the work so many times, and returns seconds.
        settings: what it was told, as its own documentation words it.
        count: do it so many times, or as often as fits into a round.
        count_first: how often in the round that is thrown away.
        count_max: never more often than this, for the disk's and the memory's sake.
        items: how many records one time has; the samples are for each record.
    """

    name: str
    run: Callable[[int], float]
    settings: str = ""
    count: int | None = None
    count_first: int = 50
    count_max: int = 10**9
    items: int = 1


class Ratio(NamedTuple):
    """How two lists of samples from the same rounds compare.

    Attributes:
        median: the ratio of the two medians.
        low, high: the smallest and the largest ratio within one round.
    """

    median: float
    low: float
    high: float

    def inverse(self) -> Ratio:
        """The same, seen from the other side."""
        return Ratio(1 / self.median, 1 / self.high, 1 / self.low)


def ratio(samples: Sequence[float], control: Sequence[float]) -> Ratio:
    """`samples` over `control`, which were taken in the same rounds.

    Raises:
        ValueError: they were not.
    """
    if len(samples) != len(control) or not samples:
        raise ValueError(f"{len(samples)} samples can't be paired with {len(control)}")
    paired = [one / other for one, other in zip(samples, control, strict=True)]
    return Ratio(median(samples) / median(control), min(paired), max(paired))


def interleave(
    contestants: Sequence[Contestant], *, rounds: int = ROUND_COUNT_MIN, round_s: float = 0.15
) -> dict[str, list[float]]:
    """Seconds for each record, one sample a round, by contestant.

    Raises:
        ValueError: there are fewer rounds than a median should have.
    """
    if rounds < ROUND_COUNT_MIN:
        raise ValueError(f"{rounds} rounds are too few; take at least {ROUND_COUNT_MIN}")
    counts: dict[str, int] = {}
    for one in contestants:
        if one.count is not None:
            one.run(one.count)
            counts[one.name] = one.count
        else:
            first = min(one.count_first, one.count_max)
            seconds = one.run(first)
            fitting = int(round_s / max(seconds / first, 1e-9))
            counts[one.name] = max(1, min(fitting, one.count_max))
    samples: dict[str, list[float]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            gc.collect()
            count = counts[one.name]
            samples[one.name].append(one.run(count) / (count * one.items))
    return samples


def lines(
    experiment: str,
    case: dict[str, Any],
    contestants: Sequence[Contestant],
    *,
    rounds: int = ROUND_COUNT_MIN,
    round_s: float = 0.15,
    unit: str = "s",
) -> list[dict[str, Any]]:
    """Measure, and give one result line for each contestant."""
    measured = interleave(contestants, rounds=rounds, round_s=round_s)
    return [
        sample_line(experiment, case, one.name, measured[one.name], unit, one.settings)
        for one in contestants
    ]


def sample_line(
    experiment: str,
    case: dict[str, Any],
    contestant: str,
    samples: Sequence[float],
    unit: str = "s",
    settings: str = "",
    **more: Any,
) -> dict[str, Any]:
    """One result line."""
    return {
        "kind": "samples",
        "experiment": experiment,
        "case": case,
        "contestant": contestant,
        "unit": unit,
        "samples": list(samples),
        "settings": settings,
        **more,
    }


def missing_line(experiment: str, case: dict[str, Any], who: str, why: str) -> dict[str, Any]:
    """A figure that was not taken, and why."""
    return {
        "kind": "missing",
        "experiment": experiment,
        "case": case,
        "contestant": who,
        "reason": why,
    }
