"""A log opens on a full disk, because what would free some space needs it open."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

import segstore
from segstore import Log, StorageError
from segstore.config import Durability, LogConfig
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import Event, MemoryDisk

OPTIONS = {"background": False, "segment_size": 4096, "batch_size": 1024, "compression": None}
CONFIG = LogConfig.of(OPTIONS, environment={})
FULL = [Fault(kind, 1, errno.ENOSPC, is_lasting=True) for kind in ("write", "create", "allocate")]
VALUES = [b"record %d" % number for number in range(1000)]


def killed_with_a_tail(*, keys: bool) -> MemoryDisk:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log.append_many(VALUES[:990])
    for value in VALUES[990:]:
        log.append(value, key=value if keys else None)
    return disk.after_kill()


def full(disk: MemoryDisk) -> FaultyDisk:
    """Writes in place succeed: the blocks are there."""
    faulty = FaultyDisk(disk)

    def fill(kind: str, name: str) -> None:
        in_place = kind == "write" and (name in ("start", "lock") or name.endswith(".index"))
        is_there = kind in ("create", "allocate") and disk.size_of(name) is not None
        faulty.faults = [] if in_place or is_there else FULL

    faulty.before = fill
    return faulty


def used(disk: MemoryDisk) -> int:
    return sum(disk.size_of(name) or 0 for name in disk.names())


def check_fits(disk: MemoryDisk, event: Event, size_bytes: int) -> None:
    """What a disk of that size refuses."""
    grows_to = 0
    if event.kind in ("allocate", "write"):
        grows_to = event.position + len(event.data)
    if used(disk) + grows_to - (disk.size_of(event.name) or 0) > max(size_bytes, used(disk)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), event.name)


@pytest.mark.parametrize("keys", [False, True])
def test_what_the_tail_holds_stays_there_until_there_is_room(keys: bool) -> None:
    disk = killed_with_a_tail(keys=keys)
    faulty = full(disk)
    log = Log(faulty, "a", CONFIG)
    assert faulty.failures == 1
    assert log.recovery.from_tail == 10
    assert list(log.values()) == VALUES
    assert [record.key for record in log.read(990)] == [v if keys else None for v in VALUES[990:]]
    assert log.append(b"into the tail") == 1000
    with pytest.raises(StorageError, match="free some space"):
        log.sync()
    with Log(disk, "r", CONFIG) as reader:
        assert list(reader.values()) == [*VALUES, b"into the tail"]
    log.trim(600)
    assert log.start_offset == 600
    assert f"{0:020}.log" not in disk.names()
    with pytest.raises(StorageError, match="closed on a full disk; what was acknowledged is in"):
        log.close()

    again = Log(full(disk), "a", CONFIG)
    assert again.recovery.from_tail == 11
    faulty = again._disk  # type: ignore[assignment]
    faulty.before, faulty.faults = None, []
    assert again.append_many([b"there is room"] * 20) == range(1001, 1021)
    again.close()
    with Log(disk, "a", CONFIG) as log:
        assert log.recovery.was_clean
        assert list(log.values()) == [*VALUES[600:], b"into the tail", *[b"there is room"] * 20]
        assert log.verify().is_intact


@pytest.mark.parametrize("is_reopened", [False, True])
@pytest.mark.parametrize("act", [Log.maintain, Log.close])
def test_what_can_not_be_drained_is_synced_where_it_is(
    act: Callable[[Log], None], is_reopened: bool
) -> None:
    """Else a power cut could take all that was appended since the disk was full."""
    disk = killed_with_a_tail(keys=False) if is_reopened else MemoryDisk()
    faulty = full(disk)
    if is_reopened:
        log = Log(faulty, "a", CONFIG)
    else:
        fill, faulty.before = faulty.before, None
        log = Log(faulty, "a", CONFIG)
        log._writer._unsealed_count_max = 100  # type: ignore[union-attr]
        log.append_many(VALUES)
        faulty.before = fill
        assert log.durable_offset == 0
    sent = [b"into the tail"] * (50 if is_reopened else 1)  # that is more than a frame
    for value in sent:
        log.append(value)
    with pytest.raises(StorageError, match=r"full disk|free some space"):
        act(log)
    for seed in range(20):
        with Log(disk.unsynced().sample(Random(seed)), "a", CONFIG) as cut:
            assert list(cut.values()) == [*VALUES, *sent]


def test_where_there_is_no_room_for_a_segment_that_is_due_the_old_one_is_synced() -> None:
    faulty = FaultyDisk(MemoryDisk())
    log = Log(faulty, "a", CONFIG)
    log.append_many(VALUES[:20])
    faulty.faults = [Fault("create", 1, errno.ENOSPC, is_lasting=True)]
    log._writer.manager.is_roll_due = lambda: True  # type: ignore[method-assign,union-attr]
    for count in (21, 22):
        log.append(b"x")
        with pytest.raises(StorageError, match="a new segment can't be created"):
            log.maintain()
        assert log.durable_offset == count


def test_a_doorbell_that_finds_no_room_leaves_nothing_behind() -> None:
    disk = MemoryDisk()
    faulty = FaultyDisk(disk)

    def fill(kind: str, name: str) -> None:
        faulty.faults = FULL if kind == "allocate" and name.startswith("doorbell") else []

    faulty.before = fill
    with Log(faulty, "a", CONFIG) as log:
        log.append(b"one")
    assert not [name for name in disk.names() if "doorbell" in name]
    with Log(disk, "a", CONFIG) as log:
        assert log.recovery.was_clean


@pytest.mark.parametrize("compression", ["lz4", None])
def test_a_truncation_that_finds_no_room_changes_nothing(compression: str | None) -> None:
    """The part of a segment that stays is written aside, unless what goes makes room for it."""
    disk = MemoryDisk()
    options = OPTIONS | {"segment_size": 1 << 20, "compression": compression}
    config = LogConfig.of(options, environment={})
    values = [Random(number).randbytes(500) for number in range(1000)]
    log = Log(disk, "a", config)
    for start in range(0, 900, 300):
        log.append_many(values[start : start + 300])
        log.roll()
    log.maintain()
    log.append_many(values[900:])
    log.sync()
    size_bytes = used(disk) + 4096
    disk.watch = lambda disk, event: check_fits(disk, event, size_bytes)
    with pytest.raises(StorageError, match=r"can't be truncated.*No space left"):
        log.truncate(990 if compression is None else 850)
    assert list(log.values()) == values
    assert log.append(b"next") == 1000
    log.truncate(310)  # of four segments two go, and a small part of the second stays
    assert list(log.values()) == values[:311]
    assert log.append(b"next") == 311
    log.close()
    with Log(disk, "a", config) as log:
        assert log.recovery.was_clean
        assert list(log.values()) == [*values[:311], b"next"]


def test_an_index_that_has_room_is_kept_whatever_size_is_asked_for(path: str) -> None:
    with segstore.open(path, segment_size="64KiB", background=False) as log:
        log.append_many(VALUES)
    (index,) = Path(path).glob("*.index")
    before = index.stat()
    with segstore.open(path, segment_size="64MiB", background=False) as log:
        assert index.stat().st_ino == before.st_ino
        log.append_many(VALUES * 100)
        assert list(log.values()) == VALUES * 101
        assert log.verify().is_intact


def test_a_copy_with_holes_gets_its_blocks_before_it_is_written_to(
    path: str, tmp_path: Path
) -> None:
    with segstore.open(path, background=False) as log:
        log.append_many(VALUES)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", "--sparse=always", path, copy], check=True)
    mapped = [copy / "tail", *copy.glob("*.index")]
    assert all(512 * file.stat().st_blocks < file.stat().st_size for file in mapped)
    with segstore.open(copy, background=False) as log:
        assert all(512 * file.stat().st_blocks >= file.stat().st_size for file in mapped)
        assert list(log.values()) == VALUES


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_real_disk_that_is_full(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place]).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        path = place / "log"
        log = segstore.open(path, segment_size="256KiB", background=False, compression=None)
        log.append_many([os.urandom(1000) for _ in range(900)])
        log.sync()
        for number in range(10):
            log.append(b"staged %d" % number + bytes(3000))
        shutil.copytree(path, place / "killed")
        log.close()
        shutil.rmtree(path)
        fill(place / "ballast")
        log = segstore.open(place / "killed", segment_size="1MiB", background=False)
        assert len(log) == 910
        with pytest.raises(StorageError, match="free some space"):
            log.append_many([bytes(100_000)] * 3)
        with pytest.raises(StorageError, match="closed on a full disk"):
            log.close()
        with segstore.open(place / "killed", background=False) as log:
            log.trim(700)
            log.append_many([bytes(100_000)])
            assert len(log) == 211
            assert [value[:8] for value in log.values(900, 910)] == [
                b"staged %d" % n for n in range(10)
            ]
            assert log.verify().is_intact
    finally:
        subprocess.run(["umount", place], check=True)


def fill(ballast: Path) -> None:
    with open(ballast, "ab", 0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_an_index_that_is_full_gets_room_at_the_next_opening() -> None:
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many(VALUES[:50])
    (name,) = (name for name in disk.names() if name.endswith(".index"))
    file = disk.open(name, write=True)
    file.truncate(192 + 16 * 2)  # as an interrupted seal leaves it
    with Log(disk, "a", CONFIG) as log:
        log.append_many(VALUES[50:60])
    first = disk.contents()
    with Log(disk, "a", CONFIG) as log:
        assert list(log.values()) == VALUES[:60]
    changed = {key for key, data in disk.contents().items() if data != first[key]}
    assert changed <= {"lock"}


def test_what_was_rolled_waits_for_its_seal_until_there_is_room() -> None:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log.append_many(VALUES[:500])
    log.roll()
    log._writer._unsealed_count_max = 8  # type: ignore[union-attr]
    log.append_many(VALUES[500:])  # rolls, and seals nothing
    log.sync()
    faulty = full(disk.after_kill())
    log = Log(faulty, "a", CONFIG)
    assert faulty.failures
    assert list(log.values()) == VALUES
    assert log.append(b"into the tail") == 1000
    log.trim(500)
    assert list(log.values()) == [*VALUES[500:], b"into the tail"]
    assert {info.state for info in log.segments()[:-1]} == {"rolled"}
    faulty.before = None
    faulty.faults = []
    log.maintain()
    assert {info.state for info in log.segments()[:-1]} == {"sealed"}
    log.close()
    with Log(faulty, "a", CONFIG) as log:
        assert log.recovery.lost == ()
        assert list(log.values()) == [*VALUES[500:], b"into the tail"]


def test_a_log_on_a_full_disk_can_be_copied_to_another_one(tmp_path: Path) -> None:
    disk = FaultyDisk(MemoryDisk())
    log = Log(disk, "a", CONFIG)
    log.append_many(VALUES[:990])
    for value in VALUES[990:]:
        log.append(value)
    disk.faults = FULL
    with pytest.raises(StorageError, match="free some space"):
        log.sync()
    assert log.snapshot(tmp_path / "copy").end_offset == len(VALUES)
    with segstore.open(tmp_path / "copy", background=False) as copy:
        assert list(copy.values()) == VALUES
        assert copy.recovery.lost == copy.recovery.cut == ()


@pytest.mark.parametrize("keys", [False, True])
def test_compression_begins_again_only_with_more_room_than_was_too_little(keys: bool) -> None:
    """A disk of a size: each round in the background would write all that fits, for nothing."""
    options = OPTIONS | {"segment_size": 8 << 20, "batch_size": 65536, "compression": "lz4"}
    config = LogConfig.of(options, environment={})
    disk = MemoryDisk()
    values = [random.Random(number).randbytes(1000) for number in range(4000)]
    log = Log(disk, "a", config)
    log.append_many(values, keys=values if keys else None)
    log.roll()
    plain_bytes = log.segments()[0].size_bytes
    compressed_bytes = 0

    def check_size(disk: MemoryDisk, event: Event) -> None:
        nonlocal compressed_bytes
        check_fits(disk, event, size_bytes)
        if event.kind == "write" and event.name.endswith(".log.lz4.tmp"):
            compressed_bytes += len(event.data)

    disk.watch = check_size
    room_bytes = 0
    tries = 0
    while log.segments()[0].state == "sealed":
        room_bytes += 128 << 10
        size_bytes = used(disk) + room_bytes
        compressed_bytes = 0
        with suppress(StorageError):
            log.maintain()
        tries += bool(compressed_bytes)
        compressed_bytes = 0
        if log.segments()[0].state == "sealed":
            with pytest.raises(StorageError, match="No space left"):
                log.maintain()
            assert compressed_bytes == 0
        assert room_bytes < 2 * plain_bytes
    assert tries < plain_bytes >> 18
    assert list(log.values()) == values
    assert log.verify()[2:] == ((), ())
    log.close()
    with Log(disk, "a", config) as log:
        assert log.recovery.was_clean
        assert list(log.values()) == values


def killed_with_unsealed_segments() -> MemoryDisk:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log._writer._unsealed_count_max = 100  # type: ignore[union-attr]
    log.append_many(VALUES)  # rolls, and seals nothing
    log.sync()
    return disk.after_kill()


@pytest.mark.parametrize(
    "policy", [{"retention_records": 400}, {"retention_size": 9000}, {"retention_age": 3600}]
)
def test_retention_frees_what_there_was_no_room_to_seal(policy: dict[str, int]) -> None:
    faulty = full(killed_with_unsealed_segments())
    log = Log(faulty, "a", CONFIG._replace(**policy))  # type: ignore[arg-type]
    assert len(log.segments()) > 4
    log._started.clock.now = lambda: time.time_ns() + 2 * 3600 * 10**9  # type: ignore[method-assign,union-attr]
    with pytest.raises(StorageError, match="free some space"):
        log.maintain()
    assert log.start_offset > 0
    assert len(log.segments()) < 4
    assert list(log.values()) == VALUES[log.start_offset :]
    disk = faulty.inner.after_kill()
    with Log(disk, "a", CONFIG) as again:
        assert again.start_offset == log.start_offset
        assert list(again.values()) == VALUES[log.start_offset :]
        assert again.verify().is_intact


@pytest.mark.parametrize("is_killed", [False, True])
def test_trim_frees_what_there_was_no_room_to_seal(is_killed: bool) -> None:
    faulty = full(killed_with_unsealed_segments())
    log = Log(faulty, "a", CONFIG)
    with pytest.raises(StorageError, match="free some space"):
        log.compress()
    first, second, third = (info.base_offset for info in log.segments()[:3])
    if is_killed:  # between the move of the start and the files
        log._started.start.move(second, 1)
        log = Log(full(faulty.inner.after_kill()), "a", CONFIG)
        log.sweep()
    else:
        log.trim(second)
    assert f"{first:020}.log" not in log._disk.names()
    assert f"{second:020}.log" in log._disk.names()
    log.trim(third + 1)
    assert f"{second:020}.log" not in log._disk.names()
    assert f"{third:020}.log" in log._disk.names()
    assert list(log.values()) == VALUES[third + 1 :]
    disk = log._disk.inner.after_kill()
    with Log(disk, "a", CONFIG) as log:
        assert list(log.values()) == VALUES[third + 1 :]
        assert log.recovery.lost == ()
        assert log.verify().is_intact


@pytest.mark.parametrize("seed", range(5))
def test_an_append_that_a_full_disk_refuses_is_not_in_the_log(seed: int) -> None:
    random = Random(seed)
    disk = MemoryDisk()
    faulty = full(disk)
    fill, faulty.before = faulty.before, None
    log = Log(faulty, "a", CONFIG)
    log.append_many(VALUES[:100])
    faulty.before = fill
    there = VALUES[:100]
    durable_end = refused = 0
    for value in VALUES[100:]:
        level: Durability = random.choice(("durable", "written"))
        values = [value] * random.choice((1, 3))
        try:
            log.append_many(values, durability=level)
        except StorageError:
            refused += 1
        else:
            there += values
            durable_end = len(there) if level == "durable" else durable_end
        assert log.end_offset == len(there)
        if random.random() < 0.1:
            with Log(disk.unsynced().sample(random), "a", CONFIG) as cut:
                assert list(cut.values()) == there[: cut.end_offset]
                assert cut.end_offset >= durable_end
    assert refused
    assert durable_end > 100
    with Log(disk.after_kill(), "a", CONFIG) as log:
        assert list(log.values()) == there


def test_what_went_to_the_old_segment_is_taken_back_where_there_is_no_room_for_a_new_one() -> None:
    disk = MemoryDisk()
    faulty = FaultyDisk(disk)
    config = CONFIG._replace(segment_size=8192, batch_size=1024)
    with Log(faulty, "a", config) as log:
        log.append_many([b"x" * 1000] * 3)
        faulty.faults = [Fault("create", faulty.counts["create"] + 1, errno.ENOSPC)]
        with pytest.raises(StorageError):
            log.append_many([b"refused" * 100] * 20)
        assert [*log.append_many([b"y"] * 3)] == [3, 4, 5]
        log.sync()
        assert len(log.segments()) == 1
        expected = [b"x" * 1000] * 3 + [b"y"] * 3
        assert list(log.values()) == expected
        assert log.verify().is_intact
        assert list(Log(disk.after_kill(), "a", config).values()) == expected
