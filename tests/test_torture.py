"""A bounded part of every campaign, with a fresh seed each time; `make torture` runs them whole."""

from __future__ import annotations

import os
from random import Random, SystemRandom
from typing import Any

import pytest

from tests.torture.campaign import BrokenError, Budget, Run, SkippedError
from tests.torture.registry import CAMPAIGNS, campaign
from tests.torture.schedule import Schedule, ScheduledLock
from tests.torture.t00_seeded_bugs import check_finding
from tests.torture.t15_threads import run_log

SEED = int(os.environ.get("SEGSTORE_SEED") or SystemRandom().getrandbits(32))
# Of each but T0, which has to find those of its bugs: a slow machine does less, and not longer.
SECONDS_MAX = 8.0
SCALES = {
    "T0": 0.01,
    "T1": 0.005,
    "T2": 0.02,
    "T3": 0.01,
    "T4": 0.005,
    "T5": 0.03,
    "T6": 0.05,
    "T7": 0.007,
    "T8": 0.06,
    "T9": 0.03,
    "T10": 0.03,
    "T11": 0.0005,
    "T12": 1.0,
    "T13": 0.04,
    "T14": 0.03,
    "T15": 0.04,
    "T16": 0.03,
    "T17": 0.03,
}


# T0 hunts for each of its bugs, and as long without it.
LONG = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[LONG] if name == "T0" else []) for name in CAMPAIGNS]
)
def test_campaign_finds_nothing(name: str) -> None:
    print(f"SEGSTORE_SEED={SEED}")  # shown when it fails
    run = Run(name, SEED, Budget(SCALES[name], 60.0 if name == "T0" else SECONDS_MAX))
    try:
        campaign(name)(run)
    except SkippedError as reason:
        pytest.skip(str(reason))
    assert run.counts


def test_a_seeded_bug_that_does_not_run_is_no_finding() -> None:
    check_finding("a bug", BrokenError("I1"))
    broken = BrokenError("as T5 wraps it")
    broken.__cause__ = TypeError("events() takes 3 positional arguments but 4 were given")
    with pytest.raises(BrokenError, match="does not run"):
        check_finding("a bug", broken)


def test_a_seed_brings_back_every_step_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    go_on_with = Schedule._go_on_with

    def noted(schedule: Schedule, thread: Any) -> None:
        order.append(f"{schedule.steps} {thread.name}")
        go_on_with(schedule, thread)

    monkeypatch.setattr(Schedule, "_go_on_with", noted)
    orders = []
    for seed in (SEED, SEED, SEED + 1):
        order = []
        run_log(Run("T15", seed, Budget(1.0, 60.0)), seed)
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) > 50


def test_threads_that_wait_for_one_another_are_found_out() -> None:
    def found(seed: int) -> bool:
        schedule = Schedule(Random(seed))
        locks = [ScheduledLock(schedule), ScheduledLock(schedule)]

        def take(first: ScheduledLock, second: ScheduledLock) -> None:
            with first, second:
                pass

        def main() -> None:
            schedule.thread(lambda: take(*locks), "one").start()
            schedule.thread(lambda: take(*reversed(locks)), "other").start()

        try:
            schedule.run(main)
        except BrokenError as error:
            return "wait for one another" in str(error)
        return False

    assert {found(seed) for seed in range(30)} == {True, False}
