"""Following a log in the same process and from others."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import segstore
from segstore import Log, LogClosedError, OffsetOutOfRangeError
from segstore.config import LogConfig
from segstore.format.names import segment_file
from tests.log.test_interrupt import interrupted

from .records import lines, two_segments

SMALL: dict[str, Any] = {"segment_size": "8KiB", "batch_size": 1024}


def spawn(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FOLLOW = """
    import sys, time, hashlib, segstore
    log = segstore.open(sys.argv[1], "r")
    count = int(sys.argv[2])
    print("ready", flush=True)
    digest, late = hashlib.sha256(), []
    for n, record in enumerate(log.follow("start", timeout=30), 1):
        assert record.offset == n - 1, (record.offset, n)
        late.append(time.time_ns() - record.timestamp)
        digest.update(record.value)
        if n == count:
            break
    late.sort()
    print(n, digest.hexdigest(), late[len(late) // 2] / 1e6)
"""


def test_followers_in_other_processes_see_all_in_order_across_rolls_and_swaps(path: str) -> None:
    import hashlib

    values = lines(4000)
    with segstore.open(path, sync_interval=0.02, **SMALL) as log:
        followers = [spawn(FOLLOW, path, str(len(values))) for _ in range(2)]
        for follower in followers:
            assert follower.stdout is not None
            assert follower.stdout.readline() == "ready\n"
        for start in range(0, len(values), 10):
            for value in values[start : start + 10]:
                log.append(value)
            if start % 1000 == 0:
                time.sleep(0.02)
        expected = hashlib.sha256(b"".join(values)).hexdigest()
        for follower in followers:
            out, err = follower.communicate(timeout=60)
            assert out.split()[:2] == [str(len(values)), expected], err[-2000:]
        assert any(s.state == "compressed" for s in log.segments())


def test_a_follower_wakes_soon_and_costs_next_to_nothing_when_idle(path: str) -> None:
    code = """
        import sys, time, segstore
        log = segstore.open(sys.argv[1], "r")
        follower = log.follow("end", timeout=3)
        before = time.process_time()
        list(follower)
        print((time.process_time() - before) / 3)
        print("ready", flush=True)
        late = sorted(-next(follower).timestamp + time.time_ns() for _ in range(50))
        print(late[25] / 1e6)
    """
    with segstore.open(path, background=False) as log:
        log.append(b"x")
        follower = spawn(code, path)
        assert follower.stdout is not None
        share = float(follower.stdout.readline())
        follower.stdout.readline()
        time.sleep(0.1)
        for _ in range(50):
            log.append(b"y")
            time.sleep(0.005)
        out, err = follower.communicate(timeout=60)
        print(f"idle: {share:.2%} of a core, median latency {out.strip()} ms")
        assert share < 0.01
        assert float(out) < 1000, err


def test_a_timeout_ends_it_and_it_can_go_on(path: str) -> None:
    with segstore.open(path, background=False) as log:
        follower = log.follow("start", timeout=0.05)
        assert list(follower) == []
        log.append(b"x")
        assert [r.value for r in follower] == [b"x"]


@pytest.mark.parametrize("mode", ["a", "r"])
def test_retention_that_overtakes_raises_or_is_counted(path: str, mode: Any) -> None:
    with segstore.open(path, background=False, retention_records=10, **SMALL) as log:
        log.append_many([b"x"] * 5)
        reader = log if mode == "a" else segstore.open(path, mode)
        strict = reader.follow("start", timeout=0)
        lax = reader.follow("start", timeout=0, on_lost="continue")
        assert next(strict).offset == next(lax).offset == 0
        list(strict), list(lax)
        for _ in range(8):
            log.append_many([b"x"] * 5)
            log.roll()
        log.sweep()
        start = log.start_offset
        assert start > 5
        with pytest.raises(OffsetOutOfRangeError) as caught:
            next(strict)
        assert caught.value.start == start
        assert [r.offset for r in lax] == list(range(start, 45))
        assert lax.lost_count == start - 5


@pytest.mark.parametrize("on_lost", ["raise", "continue"])
def test_retention_in_the_middle_of_a_run_raises_or_is_counted(path: str, on_lost: Any) -> None:
    disk = two_segments(path)
    writer = segstore.open(path, background=False, compression=None)
    writer.roll()

    def trim(kind: str, name: str) -> None:
        if kind == "open" and name == segment_file(100, ".log"):
            disk.before = None
            writer.trim(200)

    with writer, Log(disk, "r", LogConfig.of({}, environment={})) as log:
        disk.before = trim
        follower = log.follow("start", timeout=0, on_lost=on_lost)
        assert [next(follower).offset for _ in range(100)] == list(range(100))
        if on_lost == "raise":
            with pytest.raises(OffsetOutOfRangeError):
                next(follower)
        else:
            assert list(follower) == []
            assert follower.lost_count == 100


def test_closing_the_log_ends_a_follower(path: str) -> None:
    log = segstore.open(path, background=False)
    ended: list[BaseException] = []

    def follow() -> None:
        try:
            next(log.follow("end"))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    time.sleep(0.2)
    log.close()
    thread.join(10)
    assert isinstance(ended[0], LogClosedError)


def test_without_write_permission_it_looks_every_so_often(path: str) -> None:
    if os.getuid() != 0:
        pytest.skip("needs to give its privileges up")
    code = """
        import os, sys, segstore
        os.chdir(sys.argv[1])
        # Loads every module while the interpreter's own files can be read.
        for record in segstore.open(".", "r").follow("start", timeout=0):
            pass
        os.setuid(65534)
        log = segstore.open(".", "r")
        assert log._bell._mapping is None
        print("ready", flush=True)
        print(next(log.follow("end", timeout=20)).value.decode())
    """
    with segstore.open(path, background=False) as log:
        log.append(b"x")
        for name in os.listdir(path):
            os.chmod(os.path.join(path, name), 0o644)
        os.chmod(path, 0o755)
        follower = spawn(code, path)
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n", follower.communicate()[1]
        time.sleep(0.1)
        log.append(b"seen")
        assert follower.communicate(timeout=30)[0] == "seen\n"


def test_a_follower_outlives_a_killed_writer(path: str) -> None:
    write = """
        import os, signal, sys, time, segstore
        log = segstore.open(sys.argv[1], background=False)
        for n in range(100):
            log.append(b"%d" % log.end_offset)
        print("ready", flush=True)
        time.sleep(60)
    """
    writers = [spawn(write, path)]
    assert writers[0].stdout is not None
    writers[0].stdout.readline()
    follower = segstore.open(path, "r").follow("start", timeout=30)
    got = [next(follower).value for _ in range(100)]
    for _ in range(2):
        os.kill(writers[-1].pid, signal.SIGKILL)
        writers[-1].communicate()
        writers.append(spawn(write, path))
        got += [next(follower).value for _ in range(100)]
    os.kill(writers[-1].pid, signal.SIGKILL)
    writers[-1].communicate()
    assert got == [b"%d" % n for n in range(300)]


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_a_follower_that_is_left_behind_holds_no_file_of_a_closed_log(path: str) -> None:
    with segstore.open(path, background=False) as log:
        log.append_many([b"value"] * 100)
    before = os.listdir("/proc/self/fd")
    gc.disable()
    try:
        for _ in range(5):
            with segstore.open(path, "r") as log:
                follower = log.follow("start")
                assert next(follower).offset == 0
            del follower
        assert len(os.listdir("/proc/self/fd")) == len(before)
    finally:
        gc.enable()


def test_a_follower_goes_on_where_it_is_told_to(path: str) -> None:
    with segstore.open(path, background=False) as log:
        log.append_many(lines(100))
        follower = log.follow("end", timeout=0)
        follower.position = 10
        assert [next(follower).offset, next(follower).offset] == [10, 11]
        follower.position = 90
        assert follower.position == 90
        assert [next(follower).offset, next(follower).offset] == [90, 91]
        follower.position = 20
        assert [record.offset for record in follower] == list(range(20, 100))
        assert follower.is_caught_up
        assert follower.lost_count == 0
        for outside in (-1, 101):
            with pytest.raises(OffsetOutOfRangeError):
                follower.position = outside
        wrong: Any
        for wrong in ("end", 1.0, None):
            with pytest.raises(TypeError, match="an offset is an int"):
                follower.position = wrong
        assert follower.position == 100


@pytest.mark.parametrize("wrong", ["5s", b"5", timedelta(seconds=5), [5]])
def test_a_timeout_is_a_number_of_seconds(path: str, wrong: Any) -> None:
    with segstore.open(path, background=False) as log, log.consumer("c") as consumer:
        with pytest.raises(TypeError, match="number of seconds"):
            log.follow(timeout=wrong)
        with pytest.raises(TypeError, match="number of seconds"):
            consumer.poll(timeout=wrong)


def test_a_follower_that_skips_waits_behind_damage_at_the_end(path: str) -> None:
    with segstore.open(path, background=False) as log:
        for value in lines(10):
            log.append(value)
            log.sync()  # a frame of its own
        name = next(Path(path).glob("*.log"))
        name.write_bytes(name.read_bytes().replace(lines(10)[9], b"x" * len(lines(10)[9])))
        follower = log.follow("start", timeout=0, errors="skip")
        assert [record.offset for record in follower] == list(range(9))
        assert follower.is_caught_up
        assert (follower.position, follower.lost_count) == (10, 1)
        log.append(b"next")
        assert [record.offset for record in follower] == [10]
        assert follower.lost_count == 1


@pytest.mark.parametrize("on_lost", ["raise", "continue"])
def test_lost_records_are_counted_once_after_an_error(path: str, on_lost: Any) -> None:
    with segstore.open(path, background=False, batch_size=64) as log:
        for number in range(40):
            log.append_many([b"%d" % number * 10] * 2)
        log.roll()
        log.append_many([b"end"] * 10)
        log.sync()
        name = next(Path(path).glob("*.log"))
        data = bytearray(name.read_bytes())
        data[len(data) // 2] ^= 1
        name.write_bytes(data)
        follower = log.follow("start", timeout=0, on_lost=on_lost)
        seen = []
        with pytest.raises(segstore.CorruptionError) as caught:
            seen.extend(record.offset for record in iter(follower.__next__, None))
        lost = caught.value.offsets
        assert follower.position == lost.start
        assert follower.lost_count == 0
        with pytest.raises(segstore.CorruptionError):  # and again, until it is told to go on
            next(follower)
        assert follower.position == lost.start
        follower.position = lost.stop
        assert [record.offset for record in follower] == list(range(lost.stop, 90))
        assert follower.lost_count == 0
        skipping = log.follow("start", timeout=0, errors="skip")
        assert len(list(skipping)) == 90 - len(lost)
        assert skipping.lost_count == len(lost)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a destructor
@pytest.mark.parametrize("moved_to", [None, 3])
def test_an_interrupted_follower_passes_nothing_over(path: str, moved_to: int | None) -> None:
    """Not even the record that it was about to give, and it counts once what it skipped."""
    with segstore.open(path, background=False) as log:
        for value in lines(10):
            log.append(value)
            log.sync()  # a frame of its own
        name = next(Path(path).glob("*.log"))
        data = name.read_bytes()
        for offset in (6, 9):
            data = data.replace(lines(10)[offset], b"x" * len(lines(10)[offset]))
        name.write_bytes(data)
        given: list[int] = []
        follower = log.follow("start")

        def go_on() -> None:
            if moved_to is not None:
                follower.position = moved_to
            given.extend(record.offset for record in follower)

        step = 0
        was_interrupted = True
        while was_interrupted:
            follower = log.follow("start", timeout=0, errors="skip")
            given[:] = [next(follower).offset for _ in range(5)]
            was_interrupted = interrupted(go_on, step)
            position = follower.position
            assert position == moved_to or {*range(given[-1] + 1, position)} <= {6, 9}
            assert [record.offset for record in follower] == [
                offset for offset in range(position, 10) if offset not in (6, 9)
            ]
            assert (follower.position, follower.lost_count) == (10, 2)
            step += 1
        assert step > 20
