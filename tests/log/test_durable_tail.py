"""Durable appends that the tail alone promises: through power cuts, drains and damage."""

from __future__ import annotations

import errno
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import segstore
from segstore.config import LogConfig
from segstore.disk import Disk
from segstore.errors import CorruptionError, LogClosedError, StorageError, SyncFailedError
from segstore.log import opening
from segstore.log.log import Log
from segstore.segment.tail import FRAMES_POSITION, Tail
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import Event, MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "segment_size": "64KiB", "batch_size": 1024}, environment={}
)
FIRST = "00000000000000000000.log"
CUTS = 60


def values(log: Log) -> list[bytes]:
    return [record.value for record in log.read(errors="skip")]


def cuts(disk: MemoryDisk, seed: int = 1) -> list[MemoryDisk]:
    """What power cuts at this moment may leave."""
    random = Random(seed)
    unsynced = disk.unsynced()
    return [unsynced.sample(random) for _ in range(CUTS)]


def begun(disk: MemoryDisk, config: LogConfig = CONFIG) -> Log:
    """A log whose first record is durable in a segment, and nothing is in the tail."""
    log = Log(disk, "a", config)
    log.append(b"first")
    log.sync()
    return log


def append_durably(log: Log, count: int) -> list[bytes]:
    sent = [b"durable %d" % number for number in range(count)]
    for value in sent:
        log.append(value, durability="durable")
    return sent


def damaged(disk: MemoryDisk, number: int, *, is_gone: bool = False) -> MemoryDisk:
    """With a bit of a durable record flipped in the tail, or all zeros from its frame on."""
    contents = disk.contents()
    tail = bytearray(contents["tail"])
    at = tail.index(b"durable %d" % number)
    if is_gone:
        tail[at - 72 :] = bytes(len(tail) - at + 72)
    else:
        tail[at] ^= 1
    contents["tail"] = bytes(tail)
    return MemoryDisk.of(contents)


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def test_small_durable_appends_sync_the_tail_and_nothing_else(disk: MemoryDisk) -> None:
    Log(disk, "a", CONFIG).close()
    log = Log(disk, "a", CONFIG)
    events: Counter[tuple[str, str]] = Counter()
    disk.watch = lambda _, event: events.update([(event.kind, event.name)])
    sent = append_durably(log, 5)
    assert events == {("sync", "tail"): 5}
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
    log = begun(disk)
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


def test_a_power_cut_in_a_recovery_that_cuts_takes_nothing_that_was_promised(
    disk: MemoryDisk,
) -> None:
    """Of which the tail is emptied, as offsets are given out again."""
    log = begun(disk)
    sent = [b"first", *append_durably(log, 5)]
    left: list[MemoryDisk] = []

    def watch(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "sync" and not left:
            left.extend(cuts(disk))

    disk.watch = watch
    log.append_many([b"x" * 100] * 50)  # straight to the segment, and drains the tail
    random, cut_count = Random(1), 0
    for found in left[:8]:
        states: list[MemoryDisk] = []
        found.watch = lambda disk, _, to=states: to.append(disk.unsynced().sample(random))
        cut_count += bool(Log(found, "a", CONFIG).recovery.cut)
        for again in states:
            assert values(Log(again, "a", CONFIG))[:6] == sent
    assert cut_count > 1


@pytest.mark.parametrize("batch_size", [1024, 60_000])
def test_what_was_torn_when_it_was_drained_is_in_the_tail(
    disk: MemoryDisk, batch_size: int
) -> None:
    """Whatever frame is behind it, of whichever way to make one."""
    config = CONFIG._replace(batch_size=batch_size)
    log = begun(disk, config)
    sent = [b"first", *append_durably(log, 5)]
    drained_at = disk.size_of(FIRST)
    assert drained_at is not None
    written: list[dict[str, bytes]] = []

    def watch(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "sync":
            written.append(disk.contents())

    disk.watch = watch
    log.append_many([b"x" * 100] * 500)
    contents = written[0]
    segment = bytearray(contents[FIRST])
    segment[drained_at : drained_at + 64] = bytes(64)
    contents[FIRST] = bytes(segment)
    for mode in ("r", "a"):
        log = Log(MemoryDisk.of(contents), mode, config)  # type: ignore[arg-type]
        assert values(log) == sent
        assert not log.recovery.lost


def test_a_kill_leaves_the_tail_as_it_is_until_the_next_sync(disk: MemoryDisk) -> None:
    """The next writer may not use it again either, before what it took over is synced."""
    log = begun(disk)
    sent = [b"first", *append_durably(log, 5)]
    log.append_many([b"x" * 100] * 50)
    killed = disk.after_kill()
    log = Log(killed, "a", CONFIG)
    for _ in range(3):
        log.append(b"y" * 100)
    for left in cuts(killed):
        assert values(Log(left, "a", CONFIG))[:6] == sent


def test_a_tail_that_is_begun_anew_under_its_sync_does_not_count(disk: MemoryDisk) -> None:
    log = begun(disk)
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


@pytest.mark.parametrize("is_gone", [False, True])
@pytest.mark.parametrize("number", range(5))
def test_damage_to_what_the_tail_promised_is_reported_and_its_offsets_stay_taken(
    disk: MemoryDisk, number: int, is_gone: bool
) -> None:
    log = begun(disk)
    sent = append_durably(log, 5)
    left = damaged(disk, number, is_gone=is_gone)
    reader = Log(left, "r", CONFIG)
    assert [part.offsets for part in reader.verify().lost] == [range(number + 1, 6)]
    assert reader.end_offset == 6
    assert [record.value for record in reader.read(errors="skip")] == [b"first", *sent[:number]]
    with pytest.raises(CorruptionError):
        reader[5]
    log = Log(left, "a", CONFIG)
    assert [part.offsets for part in reader.verify().lost] == [range(number + 1, 6)]
    (lost,) = log.recovery.lost
    assert lost.offsets == range(number + 1, 6)
    assert lost.path == "memory/tail"
    assert reader.end_offset == Log(left, "r", CONFIG).end_offset == 6
    assert [cut.path for cut in log.recovery.cut] == ["memory/tail"] * (len(log.recovery.cut) > 0)
    kept = [b"first", *sent[:number]]
    for cut in cuts(left):
        assert Log(cut, "a", CONFIG).end_offset == 6
        assert values(Log(cut, "r", CONFIG)) == kept
    log._appending()._unsealed_count_max = 8  # as beside a background thread, which comes later
    assert log.append(b"next") == 6
    log.sync()
    for cut in cuts(left):
        assert values(Log(cut, "a", CONFIG))[-1] == b"next"
    log = Log(left.after_kill(), "a", CONFIG)
    assert values(log) == [*kept, b"next"]
    assert log.append(b"again", durability="durable") == 7


@pytest.mark.parametrize("has_sealed", [False, True])
def test_what_follows_a_lost_promise_stays_also_where_no_segment_stood_before_the_gap(
    disk: MemoryDisk, has_sealed: bool
) -> None:
    """The segment that was begun held nothing that was synced, so a power cut may have taken it."""
    log = Log(disk, "a", CONFIG)
    base_offset = 0
    if has_sealed:
        base_offset = log.append(b"sealed") + 1
        log.roll()
        log.maintain()
    append_durably(log, 5)
    end_offset = log.end_offset
    contents = damaged(disk, 0, is_gone=True).contents()
    for suffix in (".log", ".index"):
        del contents[f"{base_offset:020d}{suffix}"]
    left = MemoryDisk.of(contents)
    log = Log(left, "a", CONFIG)
    assert [lost.offsets for lost in log.recovery.lost] == [range(base_offset, end_offset)]
    assert log.append(b"next", durability="durable") == end_offset
    for cut in cuts(left):
        again = Log(cut, "a", CONFIG)
        assert values(again)[-1] == b"next"
        assert not again.recovery.cut


def test_a_log_whose_tail_is_gone_does_not_know_of_its_promise(disk: MemoryDisk) -> None:
    log = begun(disk)
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
    path, copy = tmp_path / "log", tmp_path / "copy"
    usual = bytes_brought_by_durable_appends(path)
    subprocess.run(["cp", "-r", path, copy], check=True)
    assert bytes_brought_by_durable_appends(copy) < 2 * usual + 20 * 4096


def bytes_brought_by_durable_appends(path: Path) -> int:
    """How many bytes of the file system twenty of them bring to the device."""
    with segstore.open(path, sync_interval="1h") as log:
        log.append(b"first", durability="durable")
        before = written_bytes()
        for _ in range(20):
            log.append(b"durable", durability="durable")
        return written_bytes() - before


def written_bytes() -> int:
    """What this process brought to devices."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def test_two_power_cuts_take_nothing_that_was_promised(disk: MemoryDisk) -> None:
    """After the first one the register may not say that the tail promised anything."""
    log = Log(disk, "a", CONFIG)
    log.append(b"promised", durability="durable")
    for left in cuts(disk)[:20]:
        log = Log(left, "a", CONFIG)
        log.append(b"over it")
        for again in cuts(left):
            assert values(Log(again, "a", CONFIG))[:1] == [b"promised"]


def test_nobody_acknowledges_on_a_promise_that_is_not_stored_yet(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"of another thread")
    writer = log._appending()
    register = writer._tail.tail_durable  # type: ignore[union-attr]
    seen: list[int] = []
    real = register.advance

    def advance(value: int) -> None:
        seen.append(writer.durable_offset)  # by which another thread would return
        real(value)

    register.advance = advance  # type: ignore[method-assign]
    log.append(b"durable", durability="durable")
    assert seen == [0]
    assert log.durable_offset == 2


def test_a_new_tail_knows_of_nothing_that_is_durable(disk: MemoryDisk) -> None:
    def full(_: MemoryDisk, event: Event) -> None:
        if event.kind == "allocate" and event.name.startswith("tail"):
            raise OSError(errno.ENOSPC, "no space")

    disk.watch = full
    log = Log(disk, "a", CONFIG)
    sent = [b"written %d" % number for number in range(3)]
    for value in sent:
        log.append(value)
    left = disk.after_kill()
    log = Log(left, "a", CONFIG)
    assert log.durable_offset == Log(left, "r", CONFIG).durable_offset == 0
    for cut in cuts(left):
        assert not Log(cut, "a", CONFIG).recovery.lost
    assert log.sync() == 3
    for cut in cuts(left):
        assert values(Log(cut, "a", CONFIG)) == sent


def test_what_a_failed_sync_dropped_is_not_promised_by_a_later_one(disk: MemoryDisk) -> None:
    """On a full disk it stays in the tail, in pages that are clean and not on the device."""
    config = CONFIG._replace(batch_size=16384)
    log = begun(disk, config)
    log.close()
    faulty = FaultyDisk(disk)
    log = Log(faulty, "a", config)
    for _ in range(6):
        log.append(bytes(900))
    faulty.faults = [Fault("sync", faulty.counts["sync"] + 1, errno.EIO, drops_data=True)]
    with pytest.raises(SyncFailedError):
        log.append(b"failed", durability="durable")
    left = disk.after_kill()

    def full(_: MemoryDisk, event: Event) -> None:
        end = event.position + len(event.data)
        if event.kind == "write" and event.name == FIRST and end > (left.size_of(FIRST) or 0):
            raise OSError(errno.ENOSPC, "no space")

    left.watch = full
    log = Log(left, "a", config)
    with pytest.raises(StorageError):
        log.append(b"durable", durability="durable")
    assert log.durable_offset == 1
    left.watch = None
    assert log.sync() == log.end_offset
    for cut in cuts(left):
        assert len(values(Log(cut, "a", config))) == log.end_offset


def test_a_tail_that_could_not_be_drained_at_once_still_waits_for_the_sync(
    disk: MemoryDisk,
) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"promised", durability="durable")
    for left in cuts(disk)[:20]:

        def full(_: MemoryDisk, event: Event) -> None:
            if event.kind == "write" and event.name == FIRST and event.position > 0:
                raise OSError(errno.ENOSPC, "no space")

        left.watch = full
        log = Log(left, "a", CONFIG)
        left.watch = None
        log._appending().drain()
        log.append(b"over it")
        for again in cuts(left):
            assert values(Log(again, "a", CONFIG))[:1] == [b"promised"]


def test_a_recovery_that_is_killed_forgets_no_promise(disk: MemoryDisk) -> None:
    log = begun(disk)
    append_durably(log, 6)
    left = damaged(disk, 3)
    steps: list[MemoryDisk] = []
    left.watch = lambda disk, _: steps.append(disk.after_kill())
    Log(left, "a", CONFIG)
    assert len(steps) > 10
    for killed in steps:
        assert Log(killed, "a", CONFIG).end_offset == 7


def test_a_reader_opened_beside_a_drain_and_a_roll_reports_no_loss(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(disk, "a", CONFIG)
    room = log._appending().manager
    while room.room_bytes > 150:  # so that the next records go to a new segment
        log.append(b"x" * min(900, max(1, room.room_bytes - 240)))
        log.sync()
    append_durably(log, 5)
    real = opening.pending_truncation

    def between(disk: Disk) -> int | None:  # the listing and the look into the tail
        monkeypatch.setattr(opening, "pending_truncation", real)
        log.append_many([b"x" * 100] * 50)
        log.sync()
        log.append(b"the tail once more")
        return real(disk)

    monkeypatch.setattr(opening, "pending_truncation", between)
    assert not Log(disk, "r", CONFIG).recovery.lost


def test_a_tail_that_waits_is_synced_soon(disk: MemoryDisk) -> None:
    """Else each append would write a frame of its own from then on."""
    log = Log(disk, "a", CONFIG)
    log.append(b"durable", durability="durable")
    log.append_many([b"x" * 100] * 50)
    size_bytes = disk.size_of(FIRST)
    for _ in range(5):
        log.append(b"in the tail again")
    assert disk.size_of(FIRST) == size_bytes


@pytest.mark.parametrize("left", ["nothing", "half", "a flipped bit"])
def test_what_a_segment_lost_and_the_tail_still_has_is_promised_as_before(
    disk: MemoryDisk, left: str
) -> None:
    """Also through a power cut right behind the opening that took it from there."""
    log = begun(disk)
    kept = disk.contents()[FIRST]
    sent = [b"first", *append_durably(log, 10)]
    log.close()
    segment = disk.contents()[FIRST]
    if left == "half":
        kept = segment[: (len(kept) + len(segment)) // 2]
    elif left == "a flipped bit":
        kept = segment[:-8] + bytes([segment[-8] ^ 1]) + segment[-7:]
    damaged_disk = MemoryDisk.of({**disk.contents(), FIRST: kept})
    assert values(Log(damaged_disk, "r", CONFIG)) == sent
    crashes = [damaged_disk.unsynced()]
    damaged_disk.watch = lambda disk, _: crashes.append(disk.unsynced())
    log = Log(damaged_disk, "a", CONFIG)
    for _ in range(3):
        log.append(b"y" * 100)
    crashes.append(damaged_disk.unsynced())
    assert values(log)[:11] == sent
    assert log.durable_offset == 11
    random = Random(7)
    for unsynced in crashes:
        for _ in range(9):
            log = Log(unsynced.sample(random), "a", CONFIG)
            assert values(log)[:11] == sent
            assert not log.recovery.lost


def test_what_a_failed_sync_left_in_the_cache_only_is_not_forgotten(disk: MemoryDisk) -> None:
    """Its pages are marked clean, and whoever lets go of them gets what the device has."""
    begun(disk).close()
    faulty = FaultyDisk(disk)
    log = Log(faulty, "a", CONFIG)
    log.append(b"written")
    faulty.faults = [Fault("sync", faulty.counts["sync"] + 1, errno.EIO, drops_data=True)]
    with pytest.raises(SyncFailedError):
        log.append(b"failed", durability="durable")
    with pytest.raises(SyncFailedError):
        log.close()
    for left in (disk.after_kill(), disk):
        assert values(Log(left.after_kill(), "r", CONFIG)) == [b"first", b"written", b"failed"]
        log = Log(left, "a", CONFIG)
        assert values(log) == [b"first", b"written", b"failed"]
        assert log.sync() == 3
        for cut in cuts(left):
            assert values(Log(cut, "a", CONFIG)) == [b"first", b"written", b"failed"]
        log.close()


def test_no_log_is_written_to_where_offsets_run_out(disk: MemoryDisk) -> None:
    with begun(disk):
        pass
    tail = Tail.open(disk, write=True)
    assert tail is not None
    tail.tail_durable.set(2**63 - 4)  # as nobody but a forger writes
    tail.close()
    before = disk.contents()
    with pytest.raises(StorageError, match="where no log gets to"):
        Log(disk, "a", CONFIG)
    assert disk.contents() == before
    with Log(disk, "r", CONFIG) as log:
        assert next(log.read()).value == b"first"
