"""One writer per log, across handles, processes and forks."""

import errno
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

import segstore
from segstore import LogClosedError, LogLockedError, StorageError
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.format.names import LOCK
from segstore.log import lock as lock_module
from segstore.log import log as log_module
from segstore.log.lock import is_writer_there
from segstore.log.log import Log
from segstore.segment import checkpointfile
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk
from tests.directories import contents

HOLDER = """
import sys, time, segstore
log = segstore.open(sys.argv[1])
log.append(b"by the other process")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"open\n"
    yield child
    child.kill()
    child.communicate()


def test_a_second_writer_in_the_same_process_is_refused(path):
    segstore.open(path).close()  # the file is there, and says nothing of its next holder
    with segstore.open(path):
        with pytest.raises(LogLockedError, match=f"process {os.getpid()} since"):
            segstore.open(path)
    segstore.open(path).close()


def test_a_second_writer_in_another_process_is_refused_and_told_who_holds_the_log(path, holder):
    with pytest.raises(LogLockedError) as caught:
        segstore.open(path)
    assert f"process {holder.pid}" in caught.value.holder
    assert "mode='r'" in str(caught.value)


def test_a_writer_that_can_not_lock_does_not_open_the_log():
    disk = MemoryDisk()
    faulty = FaultyDisk(disk, [Fault("lock", 1, errno.ENOLCK)])
    with pytest.raises(OSError, match="No locks available"):
        Log(faulty, "a", LogConfig())
    assert set(disk.names()) == {LOCK}
    Log(disk, "a", LogConfig()).close()


def test_a_writer_that_was_abandoned_in_a_circle_does_not_keep_its_lock(path):
    gc.disable()
    try:
        circle = [segstore.open(path)]
        circle.append(circle)
        del circle
        segstore.open(path).close()
    finally:
        gc.enable()


def test_a_lock_that_is_no_writers_and_stays_is_not_waited_for_for_ever(path, monkeypatch):
    segstore.open(path).close()
    monkeypatch.setattr(lock_module, "_LOOK_S_MAX", 0.01)
    disk = OsDisk(path)
    file = disk.open(LOCK)
    file.lock(shared=True)
    with pytest.raises(LogLockedError):
        segstore.open(path)
    file.close()
    disk.close()
    segstore.open(path).close()


def test_a_killed_writer_leaves_no_lock(path, holder):
    holder.kill()
    holder.wait()
    with segstore.open(path) as log:
        assert list(log.values()) == [b"by the other process"]


def test_readers_that_look_for_a_writer_keep_none_from_opening_the_log(path):
    segstore.open(path).close()
    looks = []
    for _ in range(2):
        looks.append(OsDisk(path).open("lock"))
        looks[-1].lock(shared=True)
    timer = threading.Timer(0.2, lambda: [look.close() for look in looks])
    timer.start()
    with segstore.open(path) as log:
        assert log.append(b"x") == 0
        assert is_writer_there(OsDisk(path))
    timer.join()
    assert not is_writer_there(OsDisk(path))


def test_who_waits_for_a_look_to_end_keeps_nobody_else_from_the_log(path, monkeypatch):
    segstore.open(path).close()
    look = OsDisk(path).open("lock")
    look.lock(shared=True)
    other = OsDisk(path).open("lock")
    has_locked = []

    def sleep(_: float) -> None:
        look.close()
        other.lock()
        has_locked.append(True)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(LogLockedError):
        segstore.open(path)
    assert has_locked
    other.close()


def test_a_stopped_writer_keeps_its_lock(path, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LogLockedError):
            segstore.open(path)
        with segstore.open(path, "r") as log:
            assert list(log.values()) == [b"by the other process"]
    finally:
        os.kill(holder.pid, signal.SIGCONT)


def test_what_the_lock_file_says_is_never_relied_on(path):
    os.makedirs(path)
    with open(os.path.join(path, "lock"), "wb") as file:
        file.write(b"process 1 since for ever\n\xff\x00" * 100)
    with segstore.open(path) as log:
        log.append(b"x")


@pytest.mark.parametrize("is_directory_kept", [True, False])
@pytest.mark.parametrize("is_made_anew", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.roll(),
        lambda log: log._writer.seal_rolled(),
        lambda log: log.append_many([bytes(1000)] * 10),
        lambda log: log.compress(),
        lambda log: log.sweep(),
        lambda log: log.trim(5),
        lambda log: log.truncate(5),
        lambda log: log.repair(),
        lambda log: log.maintain(),
        lambda log: log.close(),
    ],
)
def test_a_writer_whose_log_was_deleted_says_so_and_changes_no_other(
    path, call, is_made_anew, is_directory_kept
):
    options = {"background": False, "segment_size": 4096, "batch_size": 512, "compression": None}
    log = segstore.open(path, retention_records=5, **options)
    log.append_many([b"old"] * 100)
    log.roll()
    log.append_many([b"old"] * 100)
    log._writer.roll()
    log.append(b"old")
    if is_directory_kept:
        for name in os.listdir(path):
            os.remove(os.path.join(path, name))
    else:
        shutil.rmtree(path)
    if is_made_anew:
        with segstore.open(path, **options) as other:
            other.append_many([b"new"] * 100)
            other.roll()
            other.append_many([b"new"] * 50)
    before = contents(path) if os.path.exists(path) else None
    with pytest.raises(StorageError, match=f"{re.escape(path)}: .*the log was deleted") as caught:
        call(log)
    assert caught.value.errno == errno.ESTALE
    with pytest.raises((StorageError, LogClosedError)):
        log.maintain()
    for durability in ("written", "durable"):
        with pytest.raises((StorageError, LogClosedError)):
            log.append(b"old", durability=durability)
    with suppress(StorageError):
        log.close()
    assert (contents(path) if os.path.exists(path) else None) == before


def in_a_child(work):
    """Run `work` in a forked child; its exit status, or "hangs"."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs dies of it
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_forked_child_can_not_write_and_its_close_changes_nothing(path):
    with segstore.open(path, background=False) as log:
        log.append(b"parent")
        append = log.append

        def work():
            for attempt in (log.append, append):
                with pytest.raises(LogClosedError, match="parent"):
                    attempt(b"child")
            with pytest.raises(LogClosedError):
                log.append_many([b"child"])
            with pytest.raises(LogClosedError):
                log.sync()
            with pytest.raises(LogClosedError, match="open it here with mode='r'"):
                log[0]
            with segstore.open(path, "r") as reader:
                assert list(reader.values()) == [b"parent"]
            log.close()
            log.close()

        assert in_a_child(work) == 0
        assert log.append(b"parent again") == 1
        with pytest.raises(LogLockedError):
            segstore.open(path)
    with segstore.open(path, "r") as log:
        assert list(log.values()) == [b"parent", b"parent again"]


def test_a_forked_child_that_lives_on_does_not_keep_the_lock(path):
    log = segstore.open(path)
    log.append(b"x")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    try:
        log.close()
        with segstore.open(path) as again:
            assert again.append(b"y") == 1
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(child, 0)


def test_closing_lets_go_beside_a_process_that_is_being_started(path):
    """Which has every descriptor of this one, until it runs its program."""
    log = segstore.open(path)
    consumer = log.consumer("c")
    own = [int(number) for number in os.listdir("/proc/self/fd")]
    copies = [os.dup(number) for number in own if os.path.exists(f"/proc/self/fd/{number}")]
    try:
        consumer.close()
        log.consumer("c").close()
        log.close()
        segstore.open(path).close()
    finally:
        for number in copies:
            os.close(number)


def test_a_fork_while_a_thread_appends_leaves_no_child_hanging(path):
    with segstore.open(path, background=False) as log:
        append = log.append

        def work():
            for attempt in (append, log.append):
                with pytest.raises(LogClosedError):
                    attempt(b"child")
            log.close()

        codes = []
        # As another thread has it at the moment of the fork.
        log._writer.exclusively(lambda: codes.append(in_a_child(work)))
        assert codes == [0]


def test_many_openers_at_once_give_one_writer(path):
    opened, refused = [], []
    barrier = threading.Barrier(8)

    def race():
        barrier.wait()
        try:
            opened.append(segstore.open(path))
        except LogLockedError:
            refused.append(1)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), len(refused)) == (1, 7)
    opened[0].close()


@pytest.fixture
def fork_at(monkeypatch):
    """Have a child that lives on forked just before a function is called the first time."""
    children = []

    def arrange(module, name):
        real = getattr(module, name)

        def fork_first(*args, **options):
            monkeypatch.setattr(module, name, real)
            reading, writing = os.pipe()
            children.append(os.fork())
            if children[0] == 0:
                os.write(writing, b"!")
                time.sleep(60)
                os._exit(0)
            os.read(reading, 1)  # it has begun, and let go of what it has to
            return real(*args, **options)

        monkeypatch.setattr(module, name, fork_first)

    yield arrange
    assert len(children) == 1
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)


def test_a_fork_while_another_thread_opens_the_log_does_not_keep_it(path, fork_at):
    fork_at(log_module, "start_writer")
    with segstore.open(path) as log:
        log.append(b"x")
    segstore.open(path).close()


def test_a_fork_while_another_thread_registers_a_consumer_does_not_keep_its_name(path, fork_at):
    with segstore.open(path) as log:
        fork_at(checkpointfile, "decode_slots")
        log.consumer("one").close()
        log.consumer("one").close()
