"""How long single appends take, one by one: percentiles, with and without background work."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import segstore
from benchmarks import records, stores
from benchmarks.experiments import Options, places
from benchmarks.harness import missing_line, sample_line

EXPERIMENT = "latency"
PERCENTILES = (50.0, 99.0, 99.9)
# For the picture: enough points for a distribution, few enough for a line of JSON.
QUANTILE_COUNT = 200
SEGMENT_SIZE = 8 << 20
WORK = {
    "segstore": {"compression": None, "segment_size": SEGMENT_SIZE},
    "segstore, compressing and sweeping": {
        "compression": "lz4",
        "segment_size": SEGMENT_SIZE,
        "retention_size": 8 * SEGMENT_SIZE,
    },
}
APPEND_COUNT = 1_000_000
APPEND_COUNT_PEERS = 50_000


def run(options: Options) -> Iterator[dict[str, Any]]:
    has_work = hasattr(segstore.Log, "compress") and hasattr(segstore.Log, "sweep")
    case = {"records": "lines", "level": "written"}
    contestants: dict[str, tuple[int, Callable[[str], Any], str]] = {}
    for name, settings in WORK.items():
        if "compressing" in name and not has_work:
            why = "this segstore has no Log.compress and Log.sweep"
            yield missing_line(EXPERIMENT, case, name, why)
            continue
        contestants[name] = (
            APPEND_COUNT,
            lambda path, settings=settings: segstore.open(path, **settings),
            ", ".join(f"{key}={value}" for key, value in settings.items()),
        )
    if not options.targets_only:
        names = ["buffered file.write", "lmdb", "rocksdict", "sqlite", "plyvel"]
        found, absent = stores.available(names)
        for name, why in absent.items():
            yield missing_line(EXPERIMENT, case, name, why)
        for name, kind_of in found.items():
            contestants[name] = (
                APPEND_COUNT_PEERS,
                lambda path, kind_of=kind_of: kind_of(path, "written"),
                kind_of.settings("written"),
            )
    by_percentile: dict[tuple[str, float], list[float]] = {}
    pooled: dict[str, list[int]] = {name: [] for name in contestants}
    values = records.records("lines")
    for round_number in range(options.rounds + 1):
        for name, (count, make, _) in contestants.items():
            gc.collect()
            with places.place(options.scratch) as path:
                store = make(path)
                try:
                    taken = _latencies(store.append, values, count)
                finally:
                    store.close()
            if round_number == 0:
                continue  # warms up
            taken.sort()
            pooled[name] += taken[:: max(1, len(taken) // 20_000)] + taken[-20:]
            for percentile in PERCENTILES:
                at = min(len(taken) - 1, int(len(taken) * percentile / 100))
                by_percentile.setdefault((name, percentile), []).append(taken[at] / 1e9)
    for (name, percentile), samples in by_percentile.items():
        yield sample_line(
            EXPERIMENT,
            {**case, "percentile": percentile},
            name,
            samples,
            settings=contestants[name][2],
        )
    for name, taken in pooled.items():
        taken.sort()
        # Denser to the end, which is what the picture is about.
        shares = [1 - 10 ** (-5 * number / QUANTILE_COUNT) for number in range(QUANTILE_COUNT)]
        quantiles = [taken[int(share * (len(taken) - 1))] / 1e9 for share in shares]
        yield sample_line(
            EXPERIMENT, {**case, "distribution": True}, name, quantiles, shares=shares
        )


def _latencies(append: Callable[[bytes], object], values: list[bytes], count: int) -> list[int]:
    clock = time.perf_counter_ns
    taken = [0] * count
    value_count = len(values)
    for number in range(count):
        value = values[number % value_count]
        started = clock()
        append(value)
        taken[number] = clock() - started
    return taken
