"""Does an append or a read cost more in a big log than in a small one?

Both logs are open at once and take turns: the small one stays at 20 MB (a fresh one for each
round), the big one really grows to its size, and is measured at steps on the way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import segstore
from benchmarks import machine, records
from benchmarks.experiments import Options, places
from benchmarks.harness import Contestant, lines

EXPERIMENT = "growth"
SMALL_BYTES = 20 * 10**6
STEPS = 4
KIND = "1 KiB"
SINGLE_COUNT = 100_000
READ_COUNT = 20_000
POINT = "log[offset]"
# A new log first fills its tail a few times: the first stores into each page are slower.
WARMING_COUNT = 30_000


def run(options: Options) -> Iterator[dict[str, Any]]:
    places.check_room(options.scratch, options.growth_bytes)
    values = records.records(KIND)[:1_000]
    batch_bytes = sum(map(len, values))
    machine.touch_memory(options.touched_bytes)
    singles = (records.records("100 B") * 10)[:SINGLE_COUNT]
    assert len(singles) == SINGLE_COUNT
    # Compression off: what is asked is whether a log that really has that size costs more.
    with (
        places.place(options.scratch) as path,
        segstore.open(path, compression=None) as log,
    ):
        size = 0
        for step in range(1, STEPS + 1):
            goal = options.growth_bytes * step // STEPS
            while size < goal:
                log.append_many(values)
                size += batch_bytes
            places.settle()
            final = step == STEPS
            kinds: tuple[tuple[str, list[Any], int], ...] = (
                ("append", singles, 1),
                ("append_many", [values] * 10, len(values)),
                (POINT, [None] * READ_COUNT, 1),
            )
            for what, work, records_each in kinds:
                case = {"what": what, "gigabytes": round(goal / 1e9, 2), "final": final}
                contestants = [
                    Contestant("small log", _fresh(options.scratch, what, work), count=1),
                    Contestant("big log", _existing(log, what, work), count=1),
                ]
                note = "compression=None, everything else as it comes"
                yield from lines(
                    EXPERIMENT,
                    case,
                    [
                        one._replace(
                            items=len(work) * records_each,
                            settings=note,
                        )
                        for one in contestants
                    ],
                    rounds=max(options.rounds, 9),
                )


def _fresh(scratch: str, what: str, work: list[Any]) -> Callable[[int], float]:
    filler = records.records(KIND)[:1_000]

    def run_once(_: int) -> float:
        with places.place(scratch) as path, segstore.open(path, compression=None) as log:
            for _each in range(SMALL_BYTES // sum(map(len, filler))):
                log.append_many(filler)
            for value in (records.records("100 B") * 3)[:WARMING_COUNT]:
                log.append(value)
            log.sync()
            return _timed(log, what, work)

    return run_once


def _existing(log: segstore.Log, what: str, work: list[Any]) -> Callable[[int], float]:
    def run_once(_: int) -> float:
        log.sync()
        return _timed(log, what, work)

    return run_once


def _timed(log: segstore.Log, what: str, work: list[Any]) -> float:
    call = getattr(log, what) if what != POINT else log.__getitem__
    if what == POINT:
        chance = random.Random(4)
        work = [chance.randrange(log.end_offset) for _ in work]
        for offset in work:  # as they come when they come again: the first look opens the segments
            call(offset)
    started = time.perf_counter()
    for one in work:
        call(one)
    return time.perf_counter() - started
