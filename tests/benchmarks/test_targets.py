from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness import missing_line, sample_line
from benchmarks.results import Results
from benchmarks.targets import Target, outcome, targets

CASE = {"batch": 1}


def _results(**samples: list[float]) -> Results:
    return Results(
        sample_line("append", CASE, name, taken, mode="kernel") for name, taken in samples.items()
    )


def _target(**changes: Any) -> Target:
    plain = Target("a", "b", "append", CASE, "segstore", ("slow", "fast"), "speed", 4, 2)
    return plain._replace(**changes)


def test_a_speed_is_taken_against_the_fastest_control() -> None:
    found = _results(segstore=[1.0] * 5, slow=[9.0] * 5, fast=[3.0, 3.0, 5.0, 6.0, 6.0])
    one = outcome(_target(), found, "kernel")
    assert one.against == "fast"
    assert one.measured == pytest.approx((5.0, 3.0, 6.0))
    assert one.reached is True


@pytest.mark.parametrize(("asked", "reached"), [(5.0, True), (5.1, False)])
def test_a_speed_has_to_be_at_least_what_is_asked(asked: float, reached: bool) -> None:
    found = _results(segstore=[1.0] * 5, fast=[5.0] * 5)
    assert outcome(_target(kernel=asked), found, "kernel").reached is reached


@pytest.mark.parametrize(("asked", "reached"), [(1.25, True), (1.2, False)])
def test_a_time_has_to_be_at_most_what_is_asked(asked: float, reached: bool) -> None:
    found = _results(segstore=[5.0] * 5, fast=[4.0] * 5)
    assert outcome(_target(figure="time", kernel=asked), found, "kernel").reached is reached


def test_a_value_may_count_from_its_control_on() -> None:
    found = _results(segstore=[0.06] * 5, fast=[0.02] * 5)
    target = _target(
        figure="value", controls=("fast",), scale=1e-3, unit="ms", minus_control=True, kernel=50
    )
    one = outcome(target, found, "kernel")
    assert one.measured == pytest.approx((40.0, 40.0, 40.0))
    assert one.reached is True


def test_each_mode_has_its_own_figure() -> None:
    found = _results(segstore=[1.0] * 5, fast=[3.0] * 5)
    assert outcome(_target(), found, "kernel").reached is False
    missing = outcome(_target(), found, "pure")
    assert (missing.reached, missing.asked, missing.note) == (None, 2, "not measured")


def test_a_figure_that_was_not_taken_says_why() -> None:
    found = Results([missing_line("append", CASE, "segstore", "no such method")])
    one = outcome(_target(), found, "kernel")
    assert one.reached is None
    assert one.note == "no such method"


def test_every_target_names_an_experiment_and_can_be_reached() -> None:
    from benchmarks.experiments import NAMES

    run = {"kind": "run", "options": {"growth_bytes": 2 << 30, "memory_bytes": 1 << 30}}
    declared = targets(Results([run]))
    assert {target.experiment for target in declared} <= set(NAMES)
    for target in declared:
        assert target.kernel > 0
        assert target.figure == "value" or target.controls
