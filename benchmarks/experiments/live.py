"""Reading records as they come: what was appended since the last look, by a reader of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks import records, stores
from benchmarks.experiments import Options, places
from benchmarks.harness import Contestant, lines, missing_line

EXPERIMENT = "live"
NEW_COUNTS = (1, 10, 100)
NAMES = ["segstore", "lmdb", "sqlite"]


def run(options: Options) -> Iterator[dict[str, Any]]:
    if options.targets_only:
        return
    for new_count in NEW_COUNTS:
        case = {"records": "100 B", "new": new_count}
        found, absent = stores.available(NAMES)
        for name, why in absent.items():
            yield missing_line(EXPERIMENT, case, name, why)
        with ExitStack() as stack:
            contestants = []
            for name, kind_of in found.items():
                store = kind_of(stack.enter_context(places.place(options.scratch)), "written")
                stack.callback(store.close)
                contestants.append(
                    Contestant(
                        name,
                        _looker(store, new_count),
                        f"{kind_of.settings('written')}; only reading is timed",
                        count_first=20 * new_count,
                    )
                )
            # Appending, which is not timed, takes several times as long as that.
            round_s = options.round_s / 4
            yield from lines(EXPERIMENT, case, contestants, rounds=options.rounds, round_s=round_s)


def _looker(store: Any, new_count: int) -> Callable[[int], float]:
    value = records.records("100 B")[0]
    position = 0

    def run_once(count: int) -> float:
        nonlocal position
        elapsed_s = 0.0
        for _ in range(max(1, count // new_count)):
            for _ in range(new_count):
                store.append(value)
            started = time.perf_counter()
            new = list(store.since(position))
            elapsed_s += time.perf_counter() - started
            if len(new) != new_count:
                raise RuntimeError(f"{len(new)} records are new, and not {new_count}")
            position += new_count
        return elapsed_s * count / (max(1, count // new_count) * new_count)

    return run_once
