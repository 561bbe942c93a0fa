"""Appending, one at a time and in batches of 1,000 and 10, at both levels, by everybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import machine, records, stores
from benchmarks.experiments import Options, places
from benchmarks.harness import Contestant, lines, missing_line

BATCH = 1_000
# What a parser hands over that has read a few lines.
SMALL_BATCH = 10
EXPERIMENT = "append"
# Bytes that one contestant may write in one round.
ROUND_BYTES_MAX = 256 << 20
SLOW_FIRST = {"durable": 5, "written": 200}


def run(options: Options) -> Iterator[dict[str, Any]]:
    machine.touch_memory(options.touched_bytes)
    kinds = ("100 B",) if options.targets_only else records.KINDS
    for kind in kinds:
        for level in ("written", "durable"):
            for batch in (1, BATCH):
                yield from one_case(options, kind, level, batch)
        if kind == "100 B":
            yield from one_case(options, kind, "written", SMALL_BATCH)


def one_case(options: Options, kind: str, level: str, batch: int) -> Iterator[dict[str, Any]]:
    case = {"records": kind, "level": level, "batch": batch, "threads": 1}
    values = records.records(kind)
    work = [values[start : start + batch] for start in range(0, len(values) - batch + 1, batch)]
    overhead = frame_overhead_bytes(options.scratch, work[0]) if batch > 1 else 0
    controls = {
        "written": ["buffered file.write", "os.write"],
        "durable": ["os.write + fdatasync"],
    }[level]
    peers = list(stores.STORES)
    if options.targets_only:
        peers = ["segstore", "lmdb", "lmdb-put", "rocksdict", "sqlite", "plyvel"]
    found, absent = stores.available([*controls, *peers])
    for name, why in absent.items():
        yield missing_line(EXPERIMENT, case, name, why)
    contestants = []
    bytes_each = sum(map(len, work[0]))
    for name, kind_of in found.items():
        if level not in kind_of.levels or (name == "lmdb-put" and batch == 1):
            continue
        contestants.append(
            Contestant(
                name,
                writer(options.scratch, kind_of, level, work, overhead),
                kind_of.settings(level),
                count_first=SLOW_FIRST[level] if batch == 1 else 3,
                count_max=max(1, ROUND_BYTES_MAX // max(bytes_each, 1)),
                items=batch,
            )
        )
    places.settle()
    yield from lines(EXPERIMENT, case, contestants, rounds=options.rounds, round_s=options.round_s)


def writer(
    scratch: str, kind_of: Any, level: str, work: list[list[bytes]], overhead_bytes: int
) -> Callable[[int], float]:
    """A contestant's work: into a fresh directory, the appends alone are timed."""
    batch = len(work[0])

    def run_once(count: int) -> float:
        with places.place(scratch) as path:
            store = kind_of(path, level)
            if hasattr(store, "prepare"):
                store.prepare(work[0], overhead_bytes)
            try:
                if batch == 1:
                    singles = [value for (value,) in work]
                    return timed(store.append, _repeated(singles, count))
                return timed(store.append_many, _repeated(work, count))
            finally:
                store.close()

    return run_once


def threaded_writer(
    scratch: str, kind_of: Any, level: str, values: list[bytes], thread_count: int
) -> Callable[[int], float]:
    """The same by several threads, from the moment all are ready to the end of the last."""

    def run_once(count: int) -> float:
        with places.place(scratch) as path:
            store = kind_of(path, level)
            try:
                share = _repeated(values, max(1, count // thread_count))
                barrier = threading.Barrier(thread_count + 1)
                errors: list[BaseException] = []

                def work(append: Callable[[bytes], object]) -> None:
                    barrier.wait()
                    try:
                        for value in share:
                            append(value)
                    except BaseException as error:
                        errors.append(error)

                threads = [
                    threading.Thread(target=work, args=(store.appender(),))
                    for _ in range(thread_count)
                ]
                for thread in threads:
                    thread.start()
                barrier.wait()
                started = time.perf_counter()
                for thread in threads:
                    thread.join()
                elapsed = time.perf_counter() - started
                if errors:
                    raise errors[0]
                return elapsed * count / (len(share) * thread_count)
            finally:
                store.close()

    return run_once


def timed(append: Callable[[Any], object], work: list[Any]) -> float:
    """Seconds that appending all of `work` takes."""
    started = time.perf_counter()
    for one in work:
        append(one)
    return time.perf_counter() - started


def frame_overhead_bytes(scratch: str, batch: list[bytes]) -> int:
    """What the frames of a batch add to its values, seen in the size of the segment files."""
    import segstore

    count = 8
    with places.place(scratch) as path, segstore.open(path) as log:
        log.append_many(batch)
        log.sync()
        before = sum(segment.size_bytes for segment in log.segments())
        for _ in range(count):
            log.append_many(batch)
        log.sync()
        after = sum(segment.size_bytes for segment in log.segments())
    return (after - before) // count - sum(map(len, batch))


def _repeated(work: list[Any], count: int) -> list[Any]:
    return (work * (count // len(work) + 1))[:count]
