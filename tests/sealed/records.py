"""Records to fill logs with, and the check that a log equals the plain list of them."""

from __future__ import annotations

import random
from typing import Any

import segstore
from segstore import Log, Record
from segstore.disk import OsDisk
from segstore.testing.faulty import FaultyDisk

T0 = 1_700_000_000_000_000_000

LINES = [
    b"081109 203518 143 INFO dfs.DataNode$DataXceiver: Receiving block blk_%d src: /10.250.19.102",
    b"2015-10-18 18:01:47,978 INFO [main] org.apache.hadoop.mapreduce.v2.app.MRAppMaster: task %d",
    b"Jun 14 15:16:01 combo sshd(pam_unix)[19939]: authentication failure; logname= uid=%d",
    b"- 1117838570 2005.06.03 R02-M1-N0-C:J12-U11 RAS KERNEL INFO cache parity error %d corrected",
]


def line(number: int) -> bytes:
    return LINES[number % len(LINES)] % (number * 7919 % 1_000_003)


def lines(count: int) -> list[bytes]:
    return [line(number) for number in range(count)]


def append_mix(log: Log, count: int, seed: int = 0) -> list[Record]:
    """Single records and batches, with and without keys, with times that step back, and nulls."""
    rng = random.Random(seed)
    made: list[Record] = []
    base = log.end_offset
    while len(made) < count:
        number = len(made)
        time = T0 + number * 1000 + rng.randrange(-5000, 5000)
        kind = rng.randrange(5)
        value = b"" if rng.random() < 0.05 else line(number)
        if kind < 2:
            key = None if kind else b"key%d" % rng.randrange(40)
            log.append(value, key=key, timestamp=time)
            made.append(Record(base + number, time, key, value))
            continue
        size = rng.randrange(1, 60)
        values = [line(number + n) for n in range(size)]
        keys: list[Any] | None = None
        if kind == 3:
            keys = [rng.choice([None, b"", b"key%d" % rng.randrange(40)]) for _ in range(size)]
        times = [time] * size if kind == 4 else [time + rng.randrange(-9, 9) for _ in range(size)]
        log.append_many(values, keys=keys, timestamps=times)
        made += [
            Record(base + number + n, times[n], keys[n] if keys else None, values[n])
            for n in range(size)
        ]
    return made


def assert_equal(log: Log, records: list[Record], seed: int = 0) -> None:
    """By every way of reading, the log is the list."""
    rng = random.Random(seed)
    assert list(log.read()) == records
    assert list(log.values()) == [record.value for record in records]
    assert [r for batch in log.batches() for r in batch.records()] == records
    assert len(log) == len(records)
    if not records:
        return
    first = records[0].offset
    assert log.start_offset == first
    assert log.end_offset == first + len(records)
    for _ in range(60):
        record = rng.choice(records)
        assert log[record.offset] == record
        start = rng.randrange(len(records))
        stop = min(len(records), start + rng.randrange(30))
        assert list(log.read(first + start, first + stop)) == records[start:stop]
    times = [r.timestamp for r in records]
    wanted = [min(times) - 1, max(times), max(times) + 1, *rng.sample(times, min(20, len(times)))]
    for time in wanted:
        expected = next((r.offset for r in records if r.timestamp >= time), None)
        assert log.offset_for_time(time) == expected, time
    for key in {rng.choice(records).key for _ in range(10)} - {None}:
        assert list(log.find(key)) == [r for r in records if r.key == key]
    assert list(log.find(b"in no record")) == []


def two_segments(path: str) -> FaultyDisk:
    """A log with the records 0 to 100 and 100 to 200, on a disk that a test may watch."""
    large = [bytes(1000)] * 100  # more than the tail takes
    with segstore.open(path, background=False, compression=None) as log:
        log.append_many(large)
        log.roll()
        log.append_many(large)
    return FaultyDisk(OsDisk(path))
