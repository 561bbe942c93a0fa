"""The operating system as a disk: what the rules of the seam promise."""

import errno
import mmap
import os
import signal
import threading

import pytest

from segstore.disk import LockHeldError, OsDisk
from segstore.errors import LogClosedError


@pytest.fixture
def disk(path):
    opened = OsDisk(path, create=True)
    yield opened
    opened.close()


def test_what_was_written_is_read_in_any_number_of_parts(disk):
    file = disk.open("f", write=True, create=True)
    file.write([b"ab", b"", bytearray(b"cd"), memoryview(b"ef")], 3)
    assert file.size() == 9
    assert file.read(100, 0) == b"\0\0\0abcdef"
    parts = [b"%05d" % number for number in range(5000)]  # more than one pwritev takes
    file.write(parts, 0)
    assert file.read(30_000, 0) == b"".join(parts)
    assert file.read(10, 25_000) == b""


def test_a_write_that_takes_only_a_part_goes_on_with_the_rest(disk, monkeypatch):
    file = disk.open("f", write=True, create=True)
    whole = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: whole(fd, [parts[0][:2]], at))
    file.write([b"abc", b"def"], 1)
    assert file.read(10, 0) == b"\0abcdef"
    one = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: one(fd, data[:2], at))
    file.write([b"ghijk"], 7)
    assert file.read(20, 0) == b"\0abcdefghijk"


def test_a_write_that_takes_nothing_is_an_error_and_no_loop(disk, monkeypatch):
    file = disk.open("f", write=True, create=True)
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: 0)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError, match="no bytes") as caught:
        file.write([b"abc"], 0)
    assert caught.value.errno == errno.EIO


def test_an_allocation_that_fails_leaves_the_file_as_it_was(disk, monkeypatch):
    file = disk.open("f", write=True, create=True)
    file.write([b"abc"], 0)

    def full(descriptor, offset, size):
        os.ftruncate(descriptor, size // 2)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="full"):
        file.allocate(1 << 20)
    assert file.read(10, 0) == b"abc"


def test_a_mapping_is_the_file_and_never_longer_than_it(disk):
    file = disk.open("f", write=True, create=True)
    with pytest.raises(OSError, match="shorter"):
        file.map(mmap.PAGESIZE)
    file.allocate(mmap.PAGESIZE)
    mapping = file.map(mmap.PAGESIZE)
    mapping.view[5:8] = b"abc"
    assert file.read(3, 5) == b"abc"
    reader = disk.open("f").map(mmap.PAGESIZE)
    assert bytes(reader.view[5:8]) == b"abc"
    assert reader.view.readonly
    file.write([b"xyz"], 5)
    assert bytes(reader.view[5:8]) == b"xyz"
    file.sync()
    mapping.close()
    part = reader.view[:4]
    reader.close()  # something still looks into it: left to the collector
    assert bytes(part) == b"\0" * 4


def test_creating_needs_a_free_name_and_opening_a_taken_one(disk):
    with pytest.raises(FileNotFoundError):
        disk.open("f")
    disk.open("f", write=True, create=True).close()
    with pytest.raises(FileExistsError):
        disk.open("f", write=True, create=True)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_regular_file_is_neither_opened_nor_sized(disk, path, kind):
    target = os.path.join(path, "odd")
    if kind == "link":
        disk.open("real", write=True, create=True).close()
        os.symlink("real", target)
    elif kind == "directory":
        os.mkdir(target)
    else:
        os.mkfifo(target)
    assert disk.size_of("odd") is None
    with pytest.raises(OSError, match=r"."):
        disk.open("odd")


def test_a_lock_is_held_against_every_other_open_until_it_is_closed(disk):
    first = disk.open("lock", write=True, create=True)
    first.write([b"process 7\n"], 0)
    first.lock()
    second = disk.open("lock", write=True)
    with pytest.raises(LockHeldError) as caught:
        second.lock()
    assert caught.value.holder == "process 7"
    first.close()
    first.close()
    second.lock()


@pytest.mark.parametrize("note", [b"", b"\xff\x00\x1b[31m"])
def test_a_note_that_can_not_be_shown_is_left_out(disk, note):
    first = disk.open("lock", write=True, create=True)
    first.write([note], 0)
    first.lock()
    with pytest.raises(LockHeldError, match="a writer"):
        disk.open("lock", write=True).lock()


def test_renaming_replaces_and_unlinking_removes(disk):
    disk.open("a", write=True, create=True).write([b"a"], 0)
    disk.open("b", write=True, create=True).write([b"bb"], 0)
    disk.rename("a", "b")
    assert disk.names() == ["b"]
    assert disk.size_of("b") == 1
    disk.unlink("b")
    disk.sync_directory()
    assert disk.names() == []
    with pytest.raises(FileNotFoundError):
        disk.unlink("b")


def test_a_closed_disk_keeps_its_number_for_calls_under_way(disk):
    held = disk._in_use()  # as a call in another thread does
    number = held.descriptor
    disk.close()
    os.fstat(number)  # not another file's yet
    with pytest.raises(LogClosedError):
        disk.names()
    del held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def list_often(disk, count=4000):
    return {len(disk.names()) for _ in range(count)}


def test_listings_at_the_same_time_do_not_share_their_place(disk):
    for number in range(20):
        disk.open(f"f{number}", write=True, create=True)
    found = []
    threads = [threading.Thread(target=lambda: found.append(list_often(disk))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{20}] * 4


def test_a_forked_child_lists_by_itself(disk):
    for number in range(20):
        disk.open(f"f{number}", write=True, create=True)
    child = os.fork()
    if child == 0:
        os._exit(list_often(disk, 20_000) != {20})
    assert list_often(disk, 20_000) == {20}
    assert os.waitpid(child, 0)[1] == 0


class _Interrupt(BaseException):
    pass


def test_an_interrupt_while_a_file_is_opened_or_dropped_is_not_lost_and_leaves_none_open(tmp_path):
    arrived = []

    def interrupt(*_: object) -> None:
        arrived.append(True)
        raise _Interrupt

    def open_and_drop() -> None:  # of its own: the jump of a loop is in no `try` of Python 3.13
        while not arrived:
            disk.open("file")

    (tmp_path / "file").write_bytes(b"")
    disk = OsDisk(tmp_path)
    open_count = len(os.listdir("/proc/self/fd"))
    before = signal.signal(signal.SIGALRM, interrupt)
    caught = 0
    try:
        for microseconds in range(100, 400):
            arrived.clear()
            try:
                signal.setitimer(signal.ITIMER_REAL, microseconds * 1e-6)
                open_and_drop()
            except _Interrupt:
                caught += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert caught == 300
    assert len(os.listdir("/proc/self/fd")) == open_count
