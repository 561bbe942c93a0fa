from __future__ import annotations

import pytest

from benchmarks.harness import Contestant, Ratio, interleave, lines, ratio


def test_a_ratio_is_that_of_the_medians_with_the_spread_of_the_rounds() -> None:
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == Ratio(4 / 3, 1.0, 3.0)


def test_a_ratio_seen_from_the_other_side_swaps_low_and_high() -> None:
    assert Ratio(2.0, 1.0, 4.0).inverse() == Ratio(0.5, 0.25, 1.0)


def test_samples_of_other_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be paired"):
        ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="can't be paired"):
        ratio([], [])


def _recording(name: str, log: list[tuple[str, int]], seconds_each: float) -> Contestant:
    def run(count: int) -> float:
        log.append((name, count))
        return count * seconds_each

    return Contestant(name, run, count_first=10, items=4)


def test_contestants_take_turns_after_a_round_that_is_thrown_away() -> None:
    log: list[tuple[str, int]] = []
    samples = interleave([_recording("a", log, 0.001), _recording("b", log, 0.01)], rounds=5)
    assert [name for name, _ in log] == ["a", "b"] * 6
    assert [len(taken) for taken in samples.values()] == [5, 5]


def test_a_contestant_works_as_often_as_fits_into_a_round() -> None:
    log: list[tuple[str, int]] = []
    limited = _recording("limited", log, 0.001)._replace(count_max=20)
    fixed = _recording("fixed", log, 0.001)._replace(count=7)
    samples = interleave([_recording("a", log, 0.001), limited, fixed], rounds=5, round_s=0.1)
    assert log[:3] == [("a", 10), ("limited", 10), ("fixed", 7)]
    assert log[3:6] == [("a", 100), ("limited", 20), ("fixed", 7)]
    # However often: a sample is for one record.
    assert samples["a"] == pytest.approx([0.00025] * 5)
    assert samples["limited"] == pytest.approx([0.00025] * 5)
    assert samples["fixed"] == pytest.approx([0.00025] * 5)


def test_fewer_than_five_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        interleave([], rounds=4)


def test_lines_say_who_what_and_with_which_settings() -> None:
    one = _recording("a", [], 0.001)._replace(settings="as it comes", count=1, items=1)
    (line,) = lines("append", {"batch": 1}, [one])
    assert line == {
        "kind": "samples",
        "experiment": "append",
        "case": {"batch": 1},
        "contestant": "a",
        "unit": "s",
        "samples": [0.001] * 5,
        "settings": "as it comes",
    }
