"""Everything at once: lines go in, segments are compressed behind them, and three processes read.

``LOG_LINES_DIR`` names a directory of ``*.log`` files whose lines go in as well.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import segstore
from segstore import Log
from tests.sealed.records import lines

LINE_COUNT = 12_000
STEP_COUNT = 12
OPTIONS: dict[str, Any] = {
    "segment_size": "32KiB",
    "batch_size": 2048,
    "index_interval": 512,
    "sync_interval": 0.05,
    "compression": "lz4",
}
# Tells how many records it has and the hash of all of them, whenever it has got to an offset that
# it was asked for.
FOLLOWER = """
import hashlib, sys, segstore
digest, count = hashlib.sha256(), 0
with segstore.open(sys.argv[1], "r") as log:
    records = log.follow("start", timeout=60)
    for asked in sys.stdin:
        while count < int(asked):
            record = next(records)
            assert record.offset == count, (record.offset, count)
            digest.update(len(record.value).to_bytes(4, "little") + record.value)
            count += 1
        print(count, digest.hexdigest(), flush=True)
"""
# Reads at offsets and ranges that it is told, and prints a hash of what it got.
SEEKER = """
import hashlib, sys, segstore
with segstore.open(sys.argv[1], "r") as log:
    for asked in sys.stdin:
        start, stop = map(int, asked.split())
        if stop == start + 1:
            values = [log[start].value]
        else:
            values = [record.value for record in log.read(start, stop)]
        assert len(values) == stop - start, (start, stop, len(values))
        print(hashlib.sha256(b"\\n".join(values)).hexdigest(), flush=True)
"""


class Reader:
    """A process that answers a line with a line."""

    def __init__(self, code: str, path: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(60)
        self._process.stdout.close()
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def real_lines() -> list[bytes]:
    directory = os.environ.get("LOG_LINES_DIR")
    if not directory:
        return []
    files = sorted(Path(directory).glob("*.log"))
    assert files, f"{directory} has no *.log"
    return [line for file in files for line in file.read_bytes().split(b"\n")]


def append(log: Log, values: list[bytes], rng: random.Random) -> None:
    """In single appends and in batches of any size, small ones often."""
    at = 0
    while at < len(values):
        size = rng.choice([1, 1, 1, 2, 10, 300])
        if size == 1:
            log.append(values[at])
        else:
            log.append_many(values[at : at + size])
        at += size


def check_here(log: Log, expected: list[bytes], rng: random.Random) -> None:
    assert log.end_offset == len(expected)
    start = rng.randrange(len(expected))
    stop = min(len(expected), start + 700)
    assert list(log.values(start, stop)) == expected[start:stop]
    for _ in range(20):
        offset = rng.randrange(len(expected))
        assert log[offset].value == expected[offset]


def wait_for_more_compressed(log: Log, counts: list[int]) -> None:
    """The background has compressed some since the last time, however busy the machine is."""
    deadline = time.monotonic() + 30
    before = counts[-1] if counts else 0
    while True:
        count = [segment.state for segment in log.segments()].count("compressed")
        if count > before:
            counts.append(count)
            return
        assert time.monotonic() < deadline, f"{count} segments are compressed, as before"
        time.sleep(0.01)


def digests(expected: list[bytes]) -> list[str]:
    """After each record, the hash that a follower has by then."""
    digest = hashlib.sha256()
    found = [digest.hexdigest()]
    for value in expected:
        digest.update(len(value).to_bytes(4, "little") + value)
        found.append(digest.hexdigest())
    return found


def test_three_processes_read_the_plain_list_while_segments_are_compressed(path: str) -> None:
    everything = lines(LINE_COUNT) + real_lines()
    expected_digests = digests(everything)
    rng = random.Random(8)
    readers: list[Reader] = []
    compressed_counts: list[int] = []
    try:
        with segstore.open(path, **OPTIONS) as log:
            followers = [Reader(FOLLOWER, path) for _ in range(2)]
            seeker = Reader(SEEKER, path)
            readers = [*followers, seeker]
            done = 0
            for step in range(STEP_COUNT):
                end = len(everything) * (step + 1) // STEP_COUNT
                for follower in followers:  # which read while this goes on
                    follower.ask(str(end))
                spans = []
                for part in range(8):
                    if done:
                        start = rng.randrange(done)
                        stop = start + 1 if part % 2 else min(done, start + rng.randrange(2, 400))
                        stop = max(stop, start + 1)
                        spans.append((start, stop))
                        seeker.ask(f"{start} {stop}")
                    upto = done + (end - done) * (part + 1) // 8
                    append(log, everything[log.end_offset : upto], rng)
                done = end
                for follower in followers:
                    assert follower.answer() == f"{end} {expected_digests[end]}"
                for start, stop in spans:
                    wanted = hashlib.sha256(b"\n".join(everything[start:stop])).hexdigest()
                    assert seeker.answer() == wanted, (start, stop)
                check_here(log, everything[:end], rng)
                if step % 4 == 3:
                    wait_for_more_compressed(log, compressed_counts)
                assert log.stats().background_error is None
            log.compress()
            assert list(log.values()) == everything
            for reader in readers:
                assert reader.end() == 0
    finally:
        for reader in readers:
            reader.kill()
    assert len(compressed_counts) == STEP_COUNT // 4
    with segstore.open(path, "r") as log:
        assert list(log.values()) == everything
        assert log.verify().is_intact


@pytest.mark.skipif(shutil.which("lz4") is None, reason="the lz4 command is not installed")
def test_lz4_d_turns_a_compressed_log_back_into_one_that_opens(path: str, tmp_path: Path) -> None:
    everything = lines(LINE_COUNT // 2) + real_lines()
    rng = random.Random(9)
    with segstore.open(path, **{**OPTIONS, "background": False}) as log:
        append(log, everything, rng)
        log.roll()
        log.compress()
        assert {segment.state for segment in log.segments()} == {"compressed", "active"}
    plain = tmp_path / "plain"
    plain.mkdir()
    compressed = sorted(Path(path).glob("*.log.lz4"))
    assert len(compressed) > 5
    for file in compressed:
        target = plain / file.name.removesuffix(".lz4")
        subprocess.run(["lz4", "-d", "-q", str(file), str(target)], check=True)
    with segstore.open(plain, "r") as log:  # no index, no tail, no checkpoint
        assert list(log.values()) == everything
    with segstore.open(plain, background=False) as log:
        assert log.recovery.lost == log.recovery.cut == ()
        assert list(log.values()) == everything
        assert log.append(b"one more") == len(everything)
        assert log.verify().is_intact
