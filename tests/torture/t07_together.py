"""T7: eight producers, four reader processes, compression and retention at once, for as long as the
budget says: no reader ever sees a wrong record, and descriptors and memory stay flat.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque

import segstore
from segstore import Log
from tests.torture.campaign import BrokenError, Run

SECONDS = 600
PRODUCERS = 8
READERS = 4
# The caches fill at first; from there on nothing may grow by more than this.
WARM_UP_SHARE = 0.3
DESCRIPTORS_GROWTH_MAX = 8
LOOKS = 10
ROLLED_DESCRIPTORS = 3
MEMORY_GROWTH_MAX = 96 << 20

# A reader follows, reads at random and opens again, and says how many records it saw. Each record
# says who wrote it and as which one, so that a reader knows a wrong one, and that none is missing.
_READER = """
import sys
from tests.torture.t07_together import read_on
read_on(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
"""


def value_of(producer: int, number: int) -> bytes:
    return b"%d %d " % (producer, number) + bytes([number % 251]) * (number * 7919 % 300)


def run(run: Run) -> None:
    seconds = min(run.wanted(SECONDS), run.budget.seconds)
    with tempfile.TemporaryDirectory(prefix="segstore-") as path:
        _run_in(run, os.path.join(path, "log"), max(4.0, seconds))


def _run_in(run: Run, path: str, seconds: float) -> None:
    log = segstore.open(
        path,
        segment_size=1 << 20,
        batch_size=16384,
        sync_interval=0.05,
        segment_age=1.0,
        retention_size=16 << 20,
    )
    stop = threading.Event()
    failed: list[BaseException] = []
    sent = [0] * PRODUCERS

    def produce(producer: int) -> None:
        try:
            while not stop.is_set():
                number = sent[producer]
                if number % 10 == 0:
                    batch = [value_of(producer, number + more) for more in range(10)]
                    log.append_many(batch)
                    sent[producer] += len(batch)
                else:
                    durability = "durable" if number % 500 == 1 else None
                    log.append(value_of(producer, number), durability=durability)  # type: ignore[arg-type]
                    sent[producer] += 1
                if number % 20 == 0:
                    time.sleep(0.001)
        except BaseException as error:
            failed.append(error)

    log.append(b"first")
    threads = [threading.Thread(target=produce, args=(n,)) for n in range(PRODUCERS)]
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READER, path, str(seconds), str(n)], stdout=subprocess.PIPE
        )
        for n in range(READERS)
    ]
    try:
        for thread in threads:
            thread.start()
        _watch(run, log, seconds, failed)
        stop.set()
        for thread in threads:
            thread.join(60)
        for reader in readers:
            said, _ = reader.communicate(timeout=120)
            if reader.returncode != 0:
                raise BrokenError(f"a reader ended with {reader.returncode}")
            run.count("records read", int(said))
        stats = log.stats()
        if stats.background_error is not None:
            raise BrokenError(f"maintenance failed: {stats.background_error}")
        run.count("rolls", stats.rolls)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        for reader in readers:
            reader.kill()
            reader.wait()
        log.close()
    if failed:
        raise BrokenError(f"a producer failed: {failed[0]!r}") from failed[0]
    run.count("records written", sum(sent))
    with segstore.open(path, background=False) as again:
        if again.recovery.lost or again.end_offset != sum(sent) + 1:
            raise BrokenError(f"I1: {again!r} after {sum(sent) + 1} records")
        run.count("records at the end", _check(again.read(), {}))


def _watch(run: Run, log: Log, seconds: float, failed: list[BaseException]) -> None:
    started = time.monotonic()
    base: tuple[int, int] | None = None
    # Of the last looks the lowest, as some are open for a moment only. Segments that wait for their
    # seal do not count: on a busy machine several may for longer than that.
    counts: deque[int] = deque(maxlen=LOOKS)
    while (elapsed := time.monotonic() - started) < seconds and not failed:
        time.sleep(0.2)
        waiting = sum(segment.state == "rolled" for segment in log.segments())
        counts.append(_descriptor_count() - ROLLED_DESCRIPTORS * waiting)
        now = min(counts), _memory_bytes()
        if elapsed < seconds * WARM_UP_SHARE or len(counts) < LOOKS:
            continue
        base = base or now
        if now[0] - base[0] > DESCRIPTORS_GROWTH_MAX:
            raise BrokenError(f"I6: {now[0]} descriptors are open, {base[0]} were")
        if now[1] - base[1] > MEMORY_GROWTH_MAX:
            raise BrokenError(f"I7: memory grew from {base[1]} to {now[1]} bytes")
        run.count("looks at descriptors and memory")


def read_on(path: str, seconds: float, seed: int) -> None:
    """What a reader process does; it fails at the first wrong record."""
    deadline = time.monotonic() + seconds
    count, turn = 0, seed
    base: tuple[int, int] | None = None
    while time.monotonic() < deadline:
        turn += 1
        with segstore.open(path, "r") as log:
            last: dict[int, int] = {}
            follower = log.follow("start", timeout=0.3, on_lost="continue")
            lost = 0
            expected = None
            for record in follower:
                if follower.lost_count != lost:
                    lost, last, expected = follower.lost_count, {}, None
                if expected is not None and record.offset != expected:
                    raise BrokenError(f"I4: offset {record.offset} instead of {expected}")
                expected = record.offset + 1
                count += _check([record], last)
                if time.monotonic() > deadline or count % 20_000 == 0:
                    break
            for _ in range(5):
                start, end = log.start_offset, log.end_offset
                try:
                    _check([log[start + (end - start) * (turn * 37 % 97) // 97]], {})
                except segstore.OffsetOutOfRangeError:
                    pass  # retention was faster
        now = _descriptor_count(), _memory_bytes()
        if time.monotonic() > deadline - seconds * (1 - WARM_UP_SHARE):
            base = base or now
            if now[0] - base[0] > DESCRIPTORS_GROWTH_MAX or now[1] - base[1] > MEMORY_GROWTH_MAX:
                raise BrokenError(f"I6: a reader grew from {base} to {now}")
    print(count)


def _check(records: object, last: dict[int, int]) -> int:
    """Every record is right, and each producer's are in order; how many there were."""
    count = 0
    for record in records:  # type: ignore[attr-defined]
        count += 1
        if record.offset == 0:
            continue
        producer, number = map(int, record.value.split(b" ", 2)[:2])
        if record.value != value_of(producer, number):
            raise BrokenError(f"I2: offset {record.offset} is {record.value[:60]!r}")
        if last.setdefault(producer, number - 1) != number - 1:
            raise BrokenError(f"I4: producer {producer}: {number} follows {last[producer]}")
        last[producer] = number
    return count


def _descriptor_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def _memory_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
