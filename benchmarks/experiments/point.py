"""Reading single records at random numbers out of 1 GiB in the page cache."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks import records, stores
from benchmarks.experiments import Options, places
from benchmarks.harness import Contestant, lines, missing_line
from benchmarks.stores.segstore_log import can_compress

EXPERIMENT = "point"
BATCH = 1_000


def run(options: Options) -> Iterator[dict[str, Any]]:
    case = {"records": "lines"}
    values = records.records("lines")
    mean_bytes = sum(map(len, values)) / len(values)
    count = int(options.point_bytes / mean_bytes) // BATCH * BATCH
    names = ["segstore", "rocksdict", "lmdb", "sqlite", "plyvel"]
    if options.targets_only:
        names = ["segstore", "rocksdict"]
    places.check_room(options.scratch, 5 * options.point_bytes)
    for compressed in (False, True):
        case = {"records": "lines", "compressed": compressed}
        wanted = ["segstore", "rocksdict"] if compressed else names
        if compressed and not can_compress():
            yield missing_line(EXPERIMENT, case, "segstore", "this segstore has no Log.compress")
            continue
        found, absent = stores.available(wanted)
        for name, why in absent.items():
            yield missing_line(EXPERIMENT, case, name, why)
        with ExitStack() as stack:
            contestants = []
            paths = []
            for name, kind_of in found.items():
                path = stack.enter_context(places.place(options.scratch))
                more = {"compressed": True} if compressed else {}
                store = kind_of(path, "written", **more)
                stack.callback(store.close)
                for start in range(0, count, BATCH):
                    first = start % (len(values) - BATCH)
                    store.append_many(values[first : first + BATCH])
                store.pack()
                contestants.append(
                    Contestant(
                        name, _reader(store, count), kind_of.settings("written"), count_first=2_000
                    )
                )
                paths.append(path)
            places.settle()
            for path in paths:
                places.warm(path)
            yield from lines(
                EXPERIMENT, case, contestants, rounds=options.rounds, round_s=options.round_s * 2
            )


def _reader(store: Any, total: int) -> Callable[[int], float]:
    rng = random.Random(4)

    def run_once(count: int) -> float:
        numbers = [rng.randrange(total) for _ in range(count)]
        point = store.log.__getitem__ if hasattr(store, "log") else store.point
        started = time.perf_counter()
        for number in numbers:
            point(number)
        return time.perf_counter() - started

    return run_once
