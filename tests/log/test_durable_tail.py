"""Durable appends that the tail alone promises: through power cuts, drains and damage."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import segstore
from segstore.config import LogConfig
from segstore.errors import LogClosedError
from segstore.log.log import Log
from segstore.segment.tail import FRAMES_POSITION, Tail
from segstore.testing.memory import Event, MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "segment_size": "64KiB", "batch_size": 1024}, environment={}
)
FIRST = "00000000000000000000.log"
CUTS = 60


def values(log: Log) -> list[bytes]:
    return [record.value for record in log.read()]


def cuts(disk: MemoryDisk, seed: int = 1) -> list[MemoryDisk]:
    """What power cuts at this moment may leave."""
    random = Random(seed)
    unsynced = disk.unsynced()
    return [unsynced.sample(random) for _ in range(CUTS)]


def append_durably(log: Log, count: int) -> list[bytes]:
    sent = [b"durable %d" % number for number in range(count)]
    for value in sent:
        log.append(value, durability="durable")
    return sent


def frames_position(disk: MemoryDisk, offset: int) -> int:
    """Where the tail has a record."""
    return disk.contents()["tail"].index(b"durable %d" % offset)


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def test_small_durable_appends_sync_the_tail_and_nothing_else(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    events: Counter[tuple[str, str]] = Counter()
    disk.watch = lambda _, event: events.update([(event.kind, event.name)])
    sent = append_durably(log, 5)
    assert events == {("sync", "tail.tmp"): 5} or events == {("sync", "tail"): 5}
    assert log.durable_offset == Log(disk, "r", CONFIG).durable_offset == 5
    for left in cuts(disk):
        assert values(Log(left, "r", CONFIG)) == sent
        recovered = Log(left, "a", CONFIG)
        assert values(recovered) == sent
        assert not recovered.recovery.lost


def test_they_get_to_the_segment_in_full_frames(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    sent = append_durably(log, 200)
    assert disk.size_of(FIRST) > 1024
    log.sync()
    log.close()
    batches = list(Log(disk, "r", CONFIG).batches())
    assert [value for batch in batches for value in batch.values()] == sent
    assert len(batches) < 30


def test_a_sync_covers_what_is_written_to_the_segment(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append_many([b"x" * 100] * 50)
    log.append(b"durable 0", durability="durable")
    for left in cuts(disk):
        assert Log(left, "a", CONFIG).end_offset == 51


@pytest.mark.parametrize("number", range(4))
def test_the_tail_is_not_used_again_before_a_segment_has_what_it_promised(
    disk: MemoryDisk, number: int
) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"first")
    log.sync()
    sent = [b"first", *append_durably(log, 5)]
    log.append_many([b"x" * 100] * 50)  # straight to the segment, and drains the tail
    for _ in range(number):
        log.append(b"y" * 100)  # would be stored over what was drained
    for left in cuts(disk):
        recovered = Log(left, "a", CONFIG)
        assert values(recovered)[:6] == sent
        assert not recovered.recovery.lost
        for again in cuts(left)[:9]:
            assert values(Log(again, "a", CONFIG))[:6] == sent
    log.sync()
    size_bytes = disk.size_of(FIRST)
    log.append(b"in the tail again")
    assert disk.size_of(FIRST) == size_bytes


@pytest.mark.parametrize("batch_size", [1024, 60_000])
def test_what_was_torn_when_it_was_drained_is_in_the_tail(
    disk: MemoryDisk, batch_size: int
) -> None:
    """Whatever frame is behind it, of whichever way to make one."""
    config = CONFIG._replace(batch_size=batch_size)
    log = Log(disk, "a", config)
    log.append(b"first")
    log.sync()
    sent = [b"first", *append_durably(log, 5)]
    drained_at = disk.size_of(FIRST)
    assert drained_at is not None
    log.append_many([b"x" * 100] * 500)
    contents = disk.contents()
    segment = bytearray(contents[FIRST])
    segment[drained_at : drained_at + 64] = bytes(64)
    contents[FIRST] = bytes(segment)
    for mode in ("r", "a"):
        log = Log(MemoryDisk.of(contents), mode, config)  # type: ignore[arg-type]
        assert values(log) == sent
        assert not log.recovery.lost


def test_a_kill_leaves_the_tail_as_it_is_until_the_next_sync(disk: MemoryDisk) -> None:
    """The next writer may not use it again either, before what it took over is synced."""
    log = Log(disk, "a", CONFIG)
    log.append(b"first")
    log.sync()
    sent = [b"first", *append_durably(log, 5)]
    log.append_many([b"x" * 100] * 50)
    killed = disk.after_kill()
    log = Log(killed, "a", CONFIG)
    for _ in range(3):
        log.append(b"y" * 100)
    for left in cuts(killed):
        assert values(Log(left, "a", CONFIG))[:6] == sent


def test_a_tail_that_is_begun_anew_under_its_sync_does_not_count(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"first")
    log.sync()
    syncs: list[str] = []

    def watch(_: MemoryDisk, event: Event) -> None:
        if event.kind == "sync":
            syncs.append(event.name)
            if len(syncs) == 1:  # as another thread may
                log.append_many([b"x" * 100] * 50)
                log.append(b"over it")

    disk.watch = watch
    log.append(b"durable 0", durability="durable")
    assert len(syncs) == 2
    assert syncs[1] == FIRST
    for left in cuts(disk):
        assert values(Log(left, "a", CONFIG))[1] == b"durable 0"


@pytest.mark.parametrize("damaged", range(5))
def test_damage_to_what_the_tail_promised_is_reported_and_its_offsets_stay_taken(
    disk: MemoryDisk, damaged: int
) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"first")
    log.sync()
    sent = append_durably(log, 5)
    contents = disk.contents()
    tail = bytearray(contents["tail"])
    tail[frames_position(disk, damaged)] ^= 1
    contents["tail"] = bytes(tail)
    left = MemoryDisk.of(contents)
    log = Log(left, "a", CONFIG)
    (lost,) = log.recovery.lost
    assert lost.offsets == range(damaged + 1, 6)
    assert lost.path == "memory/tail"
    assert [cut.path for cut in log.recovery.cut] == ["memory/tail"] * (len(log.recovery.cut) > 0)
    kept = [b"first", *sent[:damaged]]
    for cut in cuts(left):
        assert Log(cut, "a", CONFIG).end_offset == 6
        assert [record.value for record in Log(cut, "r", CONFIG).read(errors="skip")] == kept
    assert log.append(b"next") == 6
    log = Log(left.after_kill(), "a", CONFIG)
    assert [record.value for record in log.read(errors="skip")] == [*kept, b"next"]
    assert log.append(b"again", durability="durable") == 7


def test_a_log_whose_tail_is_gone_does_not_know_of_its_promise(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"first")
    log.sync()
    append_durably(log, 5)
    contents = disk.contents()
    del contents["tail"]
    log = Log(MemoryDisk.of(contents), "a", CONFIG)
    assert values(log) == [b"first"]


def test_truncation_and_trim_move_what_was_promised_to_the_segments_first(
    disk: MemoryDisk,
) -> None:
    log = Log(disk, "a", CONFIG)
    sent = append_durably(log, 6)
    log.trim(2)
    for left in cuts(disk):
        recovered = Log(left, "a", CONFIG)
        assert (values(recovered), recovered.start_offset) == (sent[2:], 2)
    sent += append_durably(log, 6)
    log.trim(8)
    log.append_many([b"x" * 100] * 50)
    for left in cuts(disk):
        assert values(Log(left, "a", CONFIG))[:4] == sent[8:]
    log.truncate(11)
    log.append(b"durable", durability="durable")
    log.append(b"truncated", durability="durable")
    log.truncate(12)
    for left in cuts(disk):
        assert values(Log(left, "a", CONFIG)) == [*sent[8:], b"durable"]


def test_a_tail_of_before_has_promised_nothing(disk: MemoryDisk) -> None:
    """Its register is zeros."""
    log = Log(disk, "a", CONFIG)
    log.append(b"first", durability="durable")
    log.close()
    contents = disk.contents()
    tail = bytearray(contents["tail"])
    tail[192:224] = bytes(32)
    assert len(tail) > FRAMES_POSITION
    contents["tail"] = bytes(tail)
    before = MemoryDisk.of(contents)
    opened = Tail.open(before, write=False)
    assert opened is not None
    assert opened.tail_durable.read() is None
    assert Log(before, "r", CONFIG).durable_offset == 1
    assert values(Log(before, "a", CONFIG)) == [b"first"]


def test_a_log_that_was_closed_meanwhile_is_no_failed_sync(disk: MemoryDisk) -> None:
    """Who had waited for the device while another thread closed the log."""
    log = Log(disk, "a", CONFIG)
    log.append(b"first")
    writer = log._appending()
    log.close()
    with pytest.raises(LogClosedError):
        writer._sync_tail()


def test_a_copied_log_brings_no_more_to_the_device(tmp_path: Path) -> None:
    """What `cp` wrote is in the cache in pieces of many pages, each of which would go whole."""
    with segstore.open(tmp_path / "log") as log:
        log.append(b"first")
    subprocess.run(["cp", "-r", tmp_path / "log", tmp_path / "copy"], check=True)
    with segstore.open(tmp_path / "copy", sync_interval="1h") as log:
        log.append(b"second", durability="durable")
        before = written_bytes()
        for _ in range(20):
            log.append(b"durable", durability="durable")
        assert written_bytes() - before < 20 * 20_000


def written_bytes() -> int:
    """What this process brought to devices."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])
