"""How a follower sleeps, and what it falls back to where there is no doorbell to be had."""

import errno
import time

import pytest

from segstore.format.fileheader import KIND_DOORBELL, KIND_TAIL, FileHeader, encode_file_header
from segstore.format.names import DOORBELL
from segstore.segment.doorbell import DOORBELL_BYTES, WAIT_S_MAX, Doorbell
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk

LOG_ID = bytes(range(16))
HEADER = encode_file_header(FileHeader(KIND_DOORBELL, 0, LOG_ID, 5))


class FakeMapping:
    """Counts who waits and wakes."""

    def __init__(self):
        self.view = memoryview(bytearray(DOORBELL_BYTES))
        self.waits = []
        self.wakes = []

    def wait(self, at, value, timeout_s):
        assert self.view[at:][:4].cast("I")[0] == value == 1
        self.waits.append(timeout_s)

    def wake(self, at):
        self.wakes.append(at)

    def close(self):
        self.view.release()


@pytest.fixture
def clock(monkeypatch):
    """The time, which only sleeping lets pass."""
    slept = []
    monkeypatch.setattr(time, "monotonic", lambda: 100.0 + sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_a_doorbell_is_made_once_and_found_by_all():
    disk = MemoryDisk()
    made = Doorbell.create(disk, LOG_ID, 5)
    assert disk.contents() == {DOORBELL: HEADER + bytes(DOORBELL_BYTES - len(HEADER))}
    made.word[0] = 1
    found = [Doorbell.open(disk), Doorbell.create(disk, bytes(16), 6)]
    for bell in found:
        assert bell.word[0] == 1
    found[0].ring()
    assert made.word[0] == found[1].word[0] == 0
    assert disk.contents()[DOORBELL][: len(HEADER)] == HEADER
    assert len(made.word) == 1
    for bell in (made, *found):
        bell.close()
    assert disk.open_file_count == 0


@pytest.mark.parametrize(
    "data",
    [
        HEADER + bytes(DOORBELL_BYTES - len(HEADER) - 1),
        HEADER + bytes(DOORBELL_BYTES - len(HEADER) + 1),
        bytes(DOORBELL_BYTES),
        encode_file_header(FileHeader(KIND_TAIL, 0, LOG_ID, 5)).ljust(DOORBELL_BYTES, b"\0"),
    ],
)
def test_what_is_no_doorbell_is_left_alone_by_readers_and_replaced_by_the_writer(data):
    disk = MemoryDisk.of({DOORBELL: data})
    bell = Doorbell.open(disk)
    bell.word[0] = 1
    bell.ring()
    assert bell.word[0] == 0
    bell.close()
    assert disk.contents() == {DOORBELL: data}
    Doorbell.create(disk, LOG_ID, 5).word[0] = 1
    assert Doorbell.open(disk).word[0] == 1


@pytest.mark.parametrize("kind", ["open", "read", "map", "size_of"])
def test_without_a_doorbell_that_can_be_had_there_is_a_substitute(kind):
    disk = FaultyDisk(MemoryDisk())
    Doorbell.create(disk, LOG_ID, 5).close()
    disk.faults = [Fault(kind, disk.counts[kind] + 1, errno.EACCES)]
    bell = Doorbell.open(disk)
    assert disk.failures == 1
    bell.word[0] = 1
    assert Doorbell.open(disk).word[0] == 0
    bell.close()


@pytest.mark.parametrize("kind", ["create", "allocate", "write", "rename"])
def test_a_doorbell_that_can_not_be_made_leaves_nothing(kind):
    disk = FaultyDisk(MemoryDisk(), [Fault(kind, 1, errno.ENOSPC)])
    bell = Doorbell.create(disk, LOG_ID, 5)
    assert disk.names() == []
    bell.ring()
    bell.close()
    assert disk.inner.open_file_count == 0


def test_a_waiter_says_so_looks_once_more_and_then_sleeps(clock):
    mapping = FakeMapping()
    bell = Doorbell(mapping)
    answers = iter([False, True])  # what came between the look and the store

    def is_ready():
        return next(answers)

    assert bell.wait(is_ready, None)
    assert (bell.word[0], mapping.waits) == (1, [])
    answers = iter([False, False, False, False, True])
    assert bell.wait(is_ready, None)
    assert mapping.waits == [WAIT_S_MAX] * 2
    bell.ring()
    assert (bell.word[0], mapping.wakes) == (0, [64])
    answers = iter([True])
    assert bell.wait(is_ready, 0.0)
    assert bell.word[0] == 0  # for nobody waited
    assert clock == []


@pytest.mark.parametrize("has_mapping", [False, True])
def test_a_wait_ends_when_its_time_is_over(clock, monkeypatch, has_mapping):
    mapping = FakeMapping() if has_mapping else None
    step = WAIT_S_MAX if has_mapping else 0.002
    if mapping is not None:
        monkeypatch.setattr(mapping, "wait", lambda _at, _value, limit: clock.append(limit))
    bell = Doorbell(mapping)
    assert not bell.wait(lambda: False, 0.0)
    assert clock == []
    assert not bell.wait(lambda: False, 2.5 * step)
    assert clock == pytest.approx([step, step, step / 2])
    clock.clear()
    assert bell.wait(lambda: len(clock) == 30, None)
    assert clock == [step] * 30
    clock.clear()
    assert bell.wait(lambda: len(clock) == 3, 3 * step)  # at the last moment


def test_who_waits_while_the_log_is_closed_is_told_by_what_it_asks():
    mapping = FakeMapping()
    bell = Doorbell(mapping)
    asked = []

    def is_ready():
        asked.append(None)
        if len(asked) == 2:
            bell.close()
        return len(asked) == 3

    mapping.wait = lambda *_: mapping.view[0]
    assert bell.wait(is_ready, None)
    assert len(asked) == 3
    assert not bell.wait(lambda: False, None)
