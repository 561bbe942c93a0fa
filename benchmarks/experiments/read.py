"""Reading everything from the first record to the last, from the page cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks import records, stores
from benchmarks.experiments import Options, places
from benchmarks.harness import Contestant, lines, missing_line
from benchmarks.stores.segstore_log import SegstoreLog, can_compress

EXPERIMENT = "read"
BATCH = 1_000
LOG_BYTES = 48 << 20
# The chunk of the control: of 64 KiB to 4 MiB, what is fastest where the cache of a core holds it.
PREAD_BYTES = 256 << 10
SLOW_RECORD_COUNT = 20_000


def run(options: Options) -> Iterator[dict[str, Any]]:
    for kind in ("100 B",) if options.targets_only else records.KINDS:
        yield from one_case(options, kind)


def one_case(options: Options, kind: str) -> Iterator[dict[str, Any]]:
    case = {"records": kind}
    values = records.records(kind)[:10_000]
    batch = values * (BATCH // len(values) + 1)
    mean_bytes = sum(map(len, values)) / len(values)
    count = max(BATCH, int(LOG_BYTES / mean_bytes) // BATCH * BATCH)
    names = ["segstore", "lmdb", "rocksdict", "sqlite", "plyvel", "diskcache", "file"]
    if options.targets_only:
        names = ["segstore", "lmdb"]
    found, absent = stores.available(names)
    for name, why in absent.items():
        yield missing_line(EXPERIMENT, case, name, why)
    contestants: list[Contestant] = []
    with ExitStack() as stack:

        def fill(kind_of: Any, total: int, **more: Any) -> Any:
            path = stack.enter_context(places.place(options.scratch))
            store = kind_of(path, "written", **more)
            stack.callback(store.close)
            for start in range(0, total, BATCH):
                first = start % len(values)
                store.append_many((values + batch)[first : first + BATCH])
            store.pack()
            return store

        def compete(name: str, scan: Callable[[], Iterable[Any]], total: int, note: str) -> None:
            def run_once(_: int) -> float:
                started = time.perf_counter()
                for _each in scan():
                    pass
                return time.perf_counter() - started

            contestants.append(Contestant(name, run_once, note, count=total))

        for name, kind_of in found.items():
            total = SLOW_RECORD_COUNT if name == "diskcache" else count
            total = min(total, count)
            store = fill(kind_of, total)
            note = kind_of.settings("written")
            compete(f"{name} values", store.values, total, note)
            if hasattr(store, "records"):
                compete(f"{name} records", store.records, total, note)
            if name == "segstore":
                _compete_with_batches(store, "raw", total, contestants)
                paths = [segment.path for segment in store.log.segments()]
                control = _pread_all(paths)
                note = f"os.pread of the same segment files in chunks of {PREAD_BYTES} bytes"
                contestants.append(Contestant("os.pread", control, note, count=total))
        if can_compress():
            store = fill(SegstoreLog, count, compressed=True)
            note = "compression=lz4, all segments compressed"
            compete("segstore compressed values", store.values, count, note)
            compete("segstore compressed records", store.records, count, note)
            _compete_with_batches(store, "compressed", count, contestants)
        else:
            why = "this segstore has no Log.compress"
            yield missing_line(EXPERIMENT, case, "segstore compressed values", why)
        yield from lines(EXPERIMENT, case, contestants, rounds=options.rounds)


def _compete_with_batches(store: Any, how: str, total: int, contestants: list[Contestant]) -> None:
    def run_once(_: int) -> float:
        started = time.perf_counter()
        for _each in store.log.batches():
            pass
        return time.perf_counter() - started

    name = "segstore batches" if how == "raw" else "segstore compressed batches"
    contestants.append(Contestant(name, run_once, "checksums verified", count=total))


def _pread_all(paths: list[str]) -> Callable[[int], float]:
    def run_once(_: int) -> float:
        started = time.perf_counter()
        for path in paths:
            number = os.open(path, os.O_RDONLY)
            try:
                position = 0
                while chunk := os.pread(number, PREAD_BYTES, position):
                    position += len(chunk)
            finally:
                os.close(number)
        return time.perf_counter() - started

    return run_once
