"""T10: a snapshot taken while threads and another process write, roll, compress, sweep and trim
holds everything acknowledged before the call; a plain copy made meanwhile opens, and every record
in it is right, or reported as missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

import segstore
from segstore.errors import SegstoreError
from tests.torture.campaign import BrokenError, Run

SNAPSHOTS = 300
COPIES = 300
OPTIONS = {
    "segment_size": 32768,
    "batch_size": 2048,
    "sync_interval": 0.01,
    "segment_age": 0.2,
    "retention_records": 3_000,
}

# What a record holds follows from its offset, so that whoever reads one can tell if it is right.
# There is one appending thread in each writer, which knows the offset that comes next.
_WRITER = """
import os, sys
import segstore
from tests.torture.t10_copies import OPTIONS, append_some
log = segstore.open(sys.argv[1], **OPTIONS)
acknowledged = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
turn = 0
while os.getppid() == int(sys.argv[3]):
    turn += 1
    end = append_some(log, turn)
    os.pwrite(acknowledged, end.to_bytes(8, "little"), 0)
"""


def value_of(offset: int) -> bytes:
    return b"record %d " % offset + bytes([offset % 251]) * (offset * 7919 % 400)


def key_of(offset: int) -> bytes | None:
    return b"key %d" % (offset % 13) if offset % 5 == 0 else None


def append_some(log: segstore.Log, turn: int) -> int:
    """One append of some kind; the end offset acknowledged."""
    time.sleep(0.0005)  # or reading the copies would take longer than making them
    end = log.end_offset
    if turn % 64 == 0:  # to the middle of what the tail holds, more often than not
        log.trim(max(log.start_offset, end - turn % 30))
    if turn % 4 == 0:
        offsets = range(end, end + turn % 40 + 1)
        log.append_many([value_of(o) for o in offsets], keys=[key_of(o) for o in offsets])
        return offsets.stop
    log.append(value_of(end), key=key_of(end), durability="durable" if turn % 50 == 1 else None)
    return end + 1


def run(run: Run) -> None:
    snapshots, copies = run.wanted(SNAPSHOTS), run.wanted(COPIES)
    while not run.is_over:
        left = max(snapshots - run.counts["snapshots"], copies - run.counts["plain copies"])
        if left <= 0:
            return
        with tempfile.TemporaryDirectory(prefix="segstore-") as path:
            if run.counts["writers in threads"] <= run.counts["writers in processes"]:
                _beside_a_thread(run, path, min(left, 15))
                run.count("writers in threads")
            else:
                _beside_a_process(run, path, min(left, 15))
                run.count("writers in processes")


def _beside_a_thread(run: Run, path: str, count: int) -> None:
    log = segstore.open(os.path.join(path, "log"), **OPTIONS)  # type: ignore[arg-type]
    stop = threading.Event()
    failed: list[Exception] = []
    reached = 0

    def write() -> None:
        nonlocal reached
        turn = 0
        try:
            while not stop.is_set():
                turn += 1
                reached = append_some(log, turn)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        _take(run, log, path, count, lambda: reached)
    finally:
        stop.set()
        thread.join(60)
        log.close()
    if failed:
        raise BrokenError(f"the writer failed: {failed[0]!r}") from failed[0]


def _beside_a_process(run: Run, path: str, count: int) -> None:
    told = os.path.join(path, "acknowledged")
    arguments = [os.path.join(path, "log"), told, str(os.getpid())]
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, *arguments])

    def reached() -> int:
        with open(told, "rb") as file:
            return int.from_bytes(file.read(8), "little")

    try:
        for _ in range(3000):
            if writer.poll() is not None:
                raise BrokenError(f"the writer ended with {writer.returncode}")
            if os.path.exists(told) and reached() > 100:
                break
            threading.Event().wait(0.01)
        log = segstore.open(os.path.join(path, "log"), "r")
        _take(run, log, path, count, reached)
        log.close()
        if writer.poll() is not None:
            raise BrokenError(f"the writer ended with {writer.returncode}")
    finally:
        writer.kill()
        writer.wait()


def _take(run: Run, log: segstore.Log, path: str, count: int, reached: Callable[[], int]) -> None:
    for number in range(count):
        if run.is_over:
            return
        threading.Event().wait(run.random.random() * 0.05)
        target = os.path.join(path, f"copy{number}")
        acknowledged = reached()
        report = log.snapshot(target)
        _check_snapshot(run, target, acknowledged, report)
        shutil.rmtree(target)
        _copy(os.path.join(path, "log"), target, run.random)
        _check_copy(run, target)
        shutil.rmtree(target, ignore_errors=True)


def _check_snapshot(
    run: Run, path: str, acknowledged: int, report: segstore.SnapshotReport
) -> None:
    for mode in ("r", "a"):
        with segstore.open(path, mode, background=False) as log:  # type: ignore[arg-type]
            recovery = log.recovery
            if recovery.lost or recovery.cut or recovery.removed:
                raise BrokenError(f"a snapshot does not open clean: {recovery}")
            if (log.start_offset, log.end_offset) != (report.start_offset, report.end_offset):
                raise BrokenError(f"{log!r} is not what was reported: {report}")
            if log.end_offset < acknowledged:
                raise BrokenError(f"I1: {acknowledged} were acknowledged, {log.end_offset} copied")
            seen = _check_right(log)
            if len(seen) != log.end_offset - log.start_offset:
                raise BrokenError(f"I1: {len(seen)} records in {log!r}")
            run.count("records in snapshots", len(seen))
            if mode == "a":
                end = log.end_offset
                if log.append(value_of(end), key=key_of(end)) != end:
                    raise BrokenError("I4: an append to a snapshot got another offset")
    run.count("snapshots")


def _copy(path: str, target: str, random: Random) -> None:
    """Copy as ``cp -r`` does, name after name, and without those that go meanwhile."""
    os.mkdir(target)
    names = os.listdir(path)
    random.shuffle(names)
    pause_s = random.choice((0.0, 0.001, 0.005))
    for name in names:
        time.sleep(pause_s)
        with suppress(FileNotFoundError):
            shutil.copyfile(os.path.join(path, name), os.path.join(target, name))


def _check_copy(run: Run, path: str) -> None:
    """A copy is of many moments: what is missing is reported, and nothing else is wrong."""
    for mode in ("r", "a"):
        try:
            log = segstore.open(path, mode, background=False)  # type: ignore[arg-type]
        except segstore.LogNotFoundError:
            continue
        except (SegstoreError, OSError) as error:
            raise BrokenError(f"a plain copy does not open: {error!r}") from error
        with log:
            seen = _check_right(log)
            missing = set(range(log.start_offset, log.end_offset)).difference(seen)
            reported = {o for lost in log.verify().lost for o in lost.offsets}
            if not missing <= reported:
                raise BrokenError(f"I1: {len(missing - reported)} records are missing unreported")
            run.count("records in copies", len(seen))
            run.count("records reported missing in copies", len(missing))
    run.count("plain copies")


def _check_right(log: segstore.Log) -> list[int]:
    """The offsets of the records that can be read; every one of them is right."""
    seen: list[int] = []
    for record in log.read(errors="skip"):
        if seen and record.offset <= seen[-1]:
            raise BrokenError(f"I4: offset {record.offset} follows {seen[-1]}")
        seen.append(record.offset)
        if record.value != value_of(seen[-1]) or record.key != key_of(seen[-1]):
            raise BrokenError(f"I2: offset {seen[-1]} is {record.key!r}: {record.value[:60]!r}")
    return seen
