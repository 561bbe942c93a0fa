"""A shortage (of space, descriptors or memory) is no damage, and costs no more than the call."""

from __future__ import annotations

import errno
import subprocess
import sys
from contextlib import suppress

import pytest

from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.errors import StorageError, SyncFailedError
from segstore.format.names import (
    LOCK,
    LZ4_INDEX_SUFFIX,
    LZ4_SUFFIX,
    RAW_SUFFIX,
    TAIL,
    segment_file,
)
from segstore.log.log import Log, Mode
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "segment_size": "64KiB", "batch_size": "1KiB", "compression": "lz4"},
    environment={},
)
VALUES = [b"%4d" % number * 250 for number in range(50)]


def sealed() -> MemoryDisk:
    """A log with one sealed segment, not compressed, and an empty one behind it."""
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many(VALUES)
        log.roll()
    return disk


def damage(disk: MemoryDisk, name: str, position: int) -> None:
    """Turn some bits of a file."""
    file = disk.open(name, write=True)
    file.write([bytes(byte ^ 0xFF for byte in file.read(8, position))], position)
    file.close()


@pytest.mark.parametrize("kind", ["open", "create", "write", "sync", "rename", "unlink"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_repair_that_a_shortage_stops_costs_no_record(kind: str, is_compressed: bool) -> None:
    disk = sealed()
    if is_compressed:
        with Log(disk, "a", CONFIG) as log:
            log.compress()
    data_name = segment_file(0, LZ4_SUFFIX if is_compressed else RAW_SUFFIX)
    damage(disk, data_name, 100)
    with Log(disk, "r", CONFIG) as log:
        left = list(log.values(errors="skip"))
    assert 0 < len(left) < len(VALUES)
    failure_count = 0
    for number in range(1, 20):
        faulty = FaultyDisk(disk.after_kill())
        with Log(faulty, "a", CONFIG) as log:
            faulty.faults = [Fault(kind, faulty.counts[kind] + number, errno.ENOSPC)]
            try:
                log.repair()
            except StorageError:
                failure_count += 1
            faulty.faults = []
            assert list(log.values(errors="skip")) == left
            # Half of a file would keep a full disk full.
            assert not [name for name in faulty.names() if name.endswith(".tmp")]
            try:
                log.repair()
            except SyncFailedError:
                assert kind == "sync"
                with suppress(StorageError):
                    log.close()
        with Log(faulty, "a", CONFIG) as log:
            log.repair()
            assert log.repair() == (False, (), (), ())
            assert list(log.values(errors="skip")) == left
    assert failure_count


def holed() -> MemoryDisk:
    """A log whose first segment ends in a hole, which only its index tells of, and without tail."""
    disk = sealed()
    name = segment_file(0, RAW_SUFFIX)
    damage(disk, name, (disk.size_of(name) or 0) - 100)
    with Log(disk, "a", CONFIG) as log:
        assert log.repair().lost
    disk.unlink(TAIL)
    return disk


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_log_opens_as_it_is_or_not_at_all_where_descriptors_are_short(mode: Mode) -> None:
    disk = holed()
    failure_count = 0
    for number in range(1, 20):
        copy = disk.after_kill()
        try:
            with Log(FaultyDisk(copy, [Fault("open", number, errno.EMFILE)]), mode, CONFIG) as log:
                assert (log.end_offset, log.recovery.cut) == (len(VALUES), ())
        except OSError:
            failure_count += 1
        with Log(copy, mode, CONFIG) as log:
            assert (log.end_offset, log.recovery.cut) == (len(VALUES), ())
    assert failure_count


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_an_index_that_a_shortage_hides_needs_no_repair(error: int, is_compressed: bool) -> None:
    disk = sealed()
    if is_compressed:
        with Log(disk, "a", CONFIG) as log:
            log.compress()
    faulty = FaultyDisk(disk)
    with Log(faulty, "a", CONFIG) as log:
        faulty.faults = [Fault("open", faulty.counts["open"] + 1, error)]
        with pytest.raises(StorageError) as caught:
            log.repair(dry_run=True)
        assert caught.value.errno == error
        assert log.repair() == (False, (), (), ())


@pytest.mark.parametrize("kind", ["open", "read"])
def test_an_index_on_a_bad_spot_of_the_device_is_as_good_as_lost(kind: str) -> None:
    disk = sealed()
    with Log(disk, "a", CONFIG) as log:
        log.compress()
    faulty = FaultyDisk(disk)

    def fail(kind_now: str, name: str) -> None:
        is_hit = (kind_now, name) == (kind, segment_file(0, LZ4_INDEX_SUFFIX))
        faulty.faults = [Fault(kind, faulty.counts[kind] + 1, errno.EIO)] if is_hit else []

    faulty.before = fail
    for mode in ("r", "a"):
        with Log(faulty, mode, CONFIG) as log:
            assert list(log.values()) == VALUES
            assert log.verify().lost == ()


WITHOUT_DESCRIPTORS = """
import os, resource, sys
import segstore

log = segstore.open({path!r}, background=False, compression=None)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 4096))

def take_all_but(spare):
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for descriptor in taken[len(taken) - spare:]:
            os.close(descriptor)

{code}
"""


def run_without_descriptors(path: str, code: str) -> str:
    """What some code prints in a process of its own, which has imported nothing beside."""
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS.format(path=path, code=code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return done.stdout


def test_an_append_that_finds_nobody_to_wake_with_is_done_all_the_same(path: str) -> None:
    """The first follower makes the writer import what wakes it."""
    code = """
take_all_but(0)
log._bell.word[0] = 1  # as a follower in another process does
print(log.append(b"x"), log.append_many([b"y"]), log.end_offset)
"""
    assert run_without_descriptors(path, code) == "0 range(1, 2) 2\n"


def test_a_seal_that_a_shortage_stops_is_made_up_for(path: str) -> None:
    code = """
log.append(b"x", key=b"key")
log._writer.roll()
sys.modules["mmh3"] = None  # as where there is no descriptor for it
try:
    log._writer.seal_rolled()
except segstore.StorageError as error:
    print(type(error.__cause__).__name__)
print(log.append(b"y"))
del sys.modules["mmh3"]
log.maintain()
print(log.segments()[0].state, [record.value for record in log.find(b"key")])
"""
    expected = ["ModuleNotFoundError", "1", "sealed [b'x']"]
    assert run_without_descriptors(path, code).splitlines() == expected


SMALL = """
log.close()
log = segstore.open(log.path, background=False, segment_size=65536, batch_size=4096)
log._writer._unsealed_count_max = 100  # as with a background thread that was not there yet
for _ in range(5):
    log.append(b"x")
    log._writer.roll()
"""


def test_what_waits_for_its_seal_gives_back_the_descriptors_that_a_roll_takes(path: str) -> None:
    code = f"""{SMALL}
log.append_many([b"y" * 1000] * 61)
offset = log.append(b"z" * 3500)
take_all_but(0)
try:
    log._writer.drain()  # for which the active segment has no room
except segstore.StorageError as error:
    print(error.errno)
print(log._writer.seal_rolled(), log._writer.drain() == offset + 1, len(list(log)) == len(log))
"""
    assert run_without_descriptors(path, code).splitlines() == [f"{errno.EMFILE}", "5 True True"]


def test_closing_seals_before_it_rolls(path: str) -> None:
    code = f"""{SMALL}
log.append_many([b"y" * 1000] * 61)
log.append(b"z" * 3500)
take_all_but(0)
log.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
with segstore.open(log.path) as log:
    print(len(log), log.recovery.was_clean, log[66].value == b"z" * 3500)
"""
    assert run_without_descriptors(path, code) == "67 True True\n"


def test_opening_takes_no_more_descriptors_for_more_unsealed_segments(path: str) -> None:
    code = f"""
import shutil
{SMALL * 6}
shutil.copytree(log.path, log.path + "-copy")
take_all_but(18)
with segstore.open(log.path + "-copy", background=False) as copy:
    print(len(copy.segments()), len(list(copy)))
"""
    assert run_without_descriptors(path, code) == "31 30\n"


def test_a_consumer_that_fails_to_open_leaves_its_name() -> None:
    disk = sealed()
    disk.unlink(TAIL)
    failure_count = 0
    for number in range(1, 6):
        faulty = FaultyDisk(disk.after_kill())
        with Log(faulty, "r", CONFIG) as log:
            faulty.faults = [Fault("size_of", faulty.counts["size_of"] + number, errno.EIO)]
            try:
                log.consumer("c").close()
            except StorageError:  # and has it, with all that its traceback leads to
                failure_count += 1
                log.consumer("c").close()
    assert failure_count


def test_what_a_call_imports_at_its_first_use_it_may_find_no_descriptor_for(path: str) -> None:
    code = """
log.append_many([b"x"] * 1000)
log.roll()
take_all_but(0)
calls = [
    log.verify, log.repair, log.compress, log.follow,
    lambda: log.find(b"key"), lambda: log.snapshot(log.path + "-copy"),
]
for call in calls:
    try:
        call()
    except segstore.StorageError as error:
        print(error.errno)
print(log.append(b"y"), log.sync())
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
print(log.compress(), log.verify().record_count)
"""
    expected = [f"{errno.EMFILE}"] * 6 + ["1000 1001", "1 1001"]
    assert run_without_descriptors(path, code).splitlines() == expected


def test_a_log_that_fails_to_open_behind_its_lock_leaves_it() -> None:
    faulty = FaultyDisk(MemoryDisk())

    def fail(kind: str, name: str) -> None:
        if (kind, name) == ("truncate", LOCK):
            raise MemoryError

    faulty.before = fail
    try:
        Log(faulty, "a", CONFIG)
        pytest.fail("it opened")
    except MemoryError:
        faulty.before = None
        Log(faulty, "a", CONFIG).close()


UNDER_A_LIMIT = """
import resource
import segstore

resource.setrlimit(resource.RLIMIT_FSIZE, (700 * 1024, resource.RLIM_INFINITY))
options = {{"background": False, "compression": None, "segment_size": "512KiB"}}
for count in range(1, 3):
    with segstore.open({path!r}, **options) as log:
        log.append(b"x")
        try:
            log.append(bytes(1 << 20))
        except segstore.StorageError as error:
            print(error.errno, log.stats().tail, len(log))
"""


def test_a_limit_on_the_size_of_files_leaves_a_log_without_tail(path: str) -> None:
    command = [sys.executable, "-c", UNDER_A_LIMIT.format(path=path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    assert done.stdout.splitlines() == [f"{errno.EFBIG} False {count}" for count in (1, 2)]
    with Log(OsDisk(path), "a", CONFIG) as log:
        assert list(log.values()) == [b"x", b"x"]
        assert log.stats().tail
