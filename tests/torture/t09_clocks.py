"""T9: whatever the wall clock does while a log rolls, seals, compresses and sweeps, nothing is
deleted before its time, nothing is kept for ever, and no roll or sync is held up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from unittest.mock import patch

from segstore.log import starting
from segstore.log.clock import EngineClock
from segstore.log.log import Log
from segstore.log.manager import SegmentManager
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import Expected, Sent, check_records
from tests.torture.workload import small_config

RUNS = 400
STEPS = 60
TEN_YEARS_NS = 10 * 365 * 86_400 * 10**9
NS_PER_S = 10**9
START_NS = 1_700_000_000 * NS_PER_S
# The wall jitters by a second either way, and each opening takes it as it is.
SLACK_NS = 2 * NS_PER_S
SEGMENT_AGE_S = 60.0
RETENTION_AGE_S = 600.0


class Clocks:
    """The wall, which jumps, and the monotonic clock, which tells how much time really passed."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.elapsed_ns = 10**12
        self.wall_offset_ns = START_NS

    def wall_ns(self) -> int:
        jitter = self.random.randrange(-NS_PER_S, NS_PER_S)
        return max(0, self.elapsed_ns + self.wall_offset_ns + jitter)

    def monotonic_ns(self) -> int:
        return self.elapsed_ns

    def monotonic(self) -> float:
        return self.elapsed_ns / NS_PER_S

    def jump(self) -> None:
        self.wall_offset_ns = START_NS + self.random.choice(
            (TEN_YEARS_NS, -TEN_YEARS_NS, 3600 * NS_PER_S, -3600 * NS_PER_S, 0)
        )

    def wait(self, seconds: float) -> None:
        self.elapsed_ns += int(seconds * NS_PER_S)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        def make(last_append_time: int) -> EngineClock:
            return EngineClock(
                last_append_time, wall_ns=self.wall_ns, monotonic_ns=self.monotonic_ns
            )

        with (
            patch.object(time, "time_ns", self.wall_ns),
            patch.object(time, "monotonic", self.monotonic),
            patch.object(time, "monotonic_ns", self.monotonic_ns),
            patch.object(starting, "EngineClock", make),
            patch.object(
                starting,
                "SegmentManager",
                partial(SegmentManager, wall_ns=self.wall_ns),
            ),
        ):
            yield


def run(run: Run) -> None:
    wanted = run.wanted(RUNS)
    while run.counts["runs"] < wanted and not run.is_over:
        seed = run.random.getrandbits(32)
        try:
            run_one(run, seed)
        except Exception as error:
            raise BrokenError(f"{error!r} (clock seed {seed})") from error
        run.count("runs")


def run_one(run: Run, seed: int) -> None:
    random = Random(seed)
    clocks = Clocks(random)
    with clocks.in_force():
        _steps(run, random, clocks)


def _steps(run: Run, random: Random, clocks: Clocks) -> None:
    config = small_config(random, segment_age=SEGMENT_AGE_S, retention_age=RETENTION_AGE_S)
    disk = MemoryDisk()
    log = Log(disk, "a", config)
    ages = _Ages(clocks)
    for _ in range(STEPS):
        step = random.choice(("append", "append", "append", "jump", "wait", "maintain", "roll"))
        if step == "append":
            for _ in range(random.choice((1, 3, 20))):
                mark = b"record %d " % len(ages.appended_at)
                ages.append(log, Sent(b"k", mark + bytes(random.choice((0, 200))), None))
        elif step == "jump":
            clocks.jump()
            run.count("jumps")
        elif step == "wait":
            clocks.wait(random.choice((1, 30, 61, 200, 599)))
        elif step == "roll":
            log.roll()
        else:
            _maintain(run, log, ages)
        ages.check_kept(log)
        if random.random() < 0.03:
            # An opening believes the wall, because nothing else tells how long a log was closed.
            # One that is behind makes all look younger, for as long as it stays behind; whether
            # one that comes forward was wrong before or is wrong now, nobody can tell.
            ages.is_exact = ages.is_exact and random.random() < 0.7
            clocks.wall_offset_ns = START_NS - (0 if ages.is_exact else TEN_YEARS_NS)
            log.close()
            log = Log(disk, "a", config)
            ages.settle(log)
            run.count("reopenings")
    run.count("records", len(ages.appended_at))
    # Once all that is left is too old, all of it goes, wherever the wall is.
    for _ in range(2):
        clocks.jump()
        clocks.wait(RETENTION_AGE_S + SEGMENT_AGE_S)
        _maintain(run, log, ages)
        ages.check_kept(log)
    if log.start_offset != log.end_offset:
        raise BrokenError(f"offset {log.start_offset} is kept for ever")
    log.close()


class _Ages:
    """The model of a log, and when each record was appended in time that really passed."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.expected = Expected()
        self.appended_at: list[int] = []
        self.settled_at: list[int] = []  # when it stood in a segment at the latest
        self.is_exact = True

    def append(self, log: Log, sent: Sent) -> None:
        log.append(sent.value, key=sent.key)
        self.expected.acknowledge([sent], durable=False)
        self.appended_at.append(self.clocks.elapsed_ns)

    def settle(self, log: Log) -> None:
        missing = log.end_offset - len(self.settled_at)
        self.settled_at += [self.clocks.elapsed_ns] * missing

    def check_kept(self, log: Log) -> None:
        start = log.start_offset
        if start:
            age_ns = self.clocks.elapsed_ns - self.appended_at[start - 1]
            if age_ns < RETENTION_AGE_S * NS_PER_S - SLACK_NS:
                raise BrokenError(f"offset {start - 1} was deleted {age_ns / NS_PER_S} s old")
        self.expected.start = self.expected.start_max = start
        check_records(log, self.expected, len(self.expected.records), random=None)

    def check_due(self, log: Log) -> None:
        """Right after maintenance, no segment is over its time."""
        segments = log.segments()
        active = segments[-1]
        if active.base_offset < log.end_offset:
            age_ns = self.clocks.elapsed_ns - self.settled_at[active.base_offset]
            if age_ns > SEGMENT_AGE_S * NS_PER_S + SLACK_NS:
                raise BrokenError(f"a roll is stuck: the segment is {age_ns / NS_PER_S} s old")
        for segment in segments[:-1]:
            age_ns = self.clocks.elapsed_ns - self.settled_at[segment.end_offset - 1]
            if age_ns > RETENTION_AGE_S * NS_PER_S + SLACK_NS:
                raise BrokenError(f"{segment.path} is kept {age_ns / NS_PER_S} s")


def _maintain(run: Run, log: Log, ages: _Ages) -> None:
    rolls, start = log.stats().rolls, log.start_offset
    log.maintain()
    run.count("rolls", log.stats().rolls - rolls)
    run.count("records deleted", log.start_offset - start)
    if log.durable_offset != log.end_offset:
        raise BrokenError("a sync was held up")
    ages.settle(log)
    if ages.is_exact:
        ages.check_due(log)
