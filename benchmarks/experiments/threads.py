"""Appending 100 B records one at a time from 1, 4 and 16 threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import records, stores
from benchmarks.experiments import Options, append, places
from benchmarks.harness import Contestant, lines, missing_line

EXPERIMENT = "threads"
COUNTS = (1, 4, 16)


def run(options: Options) -> Iterator[dict[str, Any]]:
    """All thread counts of a store are contestants of one case, so that rates pair up."""
    values = records.records("100 B")
    names = ["segstore", "lmdb", "rocksdict", "sqlite", "plyvel", "diskcache", "logging"]
    if options.targets_only:
        names = ["segstore", "sqlite"]
    for level in ("written", "durable"):
        case = {"records": "100 B", "level": level, "batch": 1}
        found, absent = stores.available(names)
        for name, why in absent.items():
            yield missing_line(EXPERIMENT, case, name, why)
        contestants = [
            Contestant(
                f"{name}, {count} threads",
                append.threaded_writer(options.scratch, kind_of, level, values, count),
                kind_of.settings(level),
                count_first=16 * (4 if level == "durable" else 50),
                count_max=2_000_000,
            )
            for name, kind_of in found.items()
            if level in kind_of.levels
            for count in COUNTS
        ]
        places.settle()
        yield from lines(
            EXPERIMENT, case, contestants, rounds=options.rounds, round_s=options.round_s * 2
        )
