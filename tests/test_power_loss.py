"""What the power-loss campaign found, as small cases: every one of these went wrong once."""

from __future__ import annotations

import errno
from contextlib import suppress
from random import Random

import pytest

from segstore.config import LogConfig
from segstore.errors import StorageError
from segstore.log.log import Log, Mode
from segstore.segment import tail as tail_module
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import Event, MemoryDisk

CONFIG = LogConfig.of({"background": False, "segment_size": 4096, "batch_size": 1024})


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def values(log: Log) -> list[bytes]:
    return [record.value for record in log.read()]


def files(disk: MemoryDisk) -> dict[str, bytes]:
    return {name: data for name, data in disk.contents().items() if name != "lock"}


def synced(disk: MemoryDisk, *names: str) -> MemoryDisk:
    """The disk after a power cut that kept nothing unsynced but the files of these names."""
    contents = dict(disk.unsynced().sample(Nothing()).contents())
    newest = disk.contents()
    contents.update({name: newest[name] for name in names})
    return MemoryDisk.of(contents)


class Nothing(Random):
    """Chooses that nothing unsynced survives."""

    def choice(self, options):  # type: ignore[no-untyped-def]
        return "none" if "none" in options else options[0]


def test_a_reader_sees_durable_records_although_the_tail_lags_behind(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"durable", durability="durable")
    after = synced(disk)
    assert values(Log(after, "r", CONFIG)) == [b"durable"]


def test_a_reader_passes_by_a_segment_that_a_power_cut_left_behind_a_gap(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"durable")
    log.sync()

    before_sync: list[MemoryDisk] = []

    def watch(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "sync" and not before_sync:
            last = max(name for name in disk.names() if name.endswith(".log"))
            assert last != "00000000000000000000.log"
            before_sync.append(synced(disk, last))

    disk.watch = watch
    log.append_many([bytes(1000)] * 6)
    log.sync()
    after = before_sync[0]
    last = max(name for name in after.names() if name.endswith(".log"))
    before = after.contents()
    reader = Log(after, "r", CONFIG)
    assert values(reader) == [b"durable"]
    assert after.contents() == before
    log = Log(after, "a", CONFIG)
    assert values(log) == [b"durable"]
    assert [cut.path for cut in log.recovery.cut] == [f"memory/{last}"]


def test_a_reader_passes_by_a_tail_that_a_power_cut_left_behind_a_gap(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"durable")
    log.sync()
    log.append_many([b"lost"] * 10)
    log._appending().drain()
    log.append(b"behind the gap")
    reader = Log(synced(disk, "tail"), "r", CONFIG)
    assert reader.end_offset == 1
    assert values(reader) == [b"durable"]


def test_the_end_of_a_sealed_segment_is_its_own_and_not_where_a_stray_file_starts(
    disk: MemoryDisk,
) -> None:
    log = Log(disk, "a", CONFIG)
    log.append_many([b"one", b"two"])
    log.roll()
    log.append(b"lost")
    log.roll()
    contents = disk.contents()
    kept = {name: data for name, data in contents.items() if "00002." not in name}
    kept["00000000000000000003.log"] = b""
    del kept["tail"]
    log = Log(MemoryDisk.of(kept), "a", CONFIG)
    assert log.end_offset == 2
    assert values(log) == [b"one", b"two"]


def test_a_missing_first_segment_is_reported_as_lost(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    for value in (b"one", b"two", b"three"):
        log.append(value)
        log.roll()
    log.close()
    contents = disk.contents()
    kept = {name: data for name, data in contents.items() if "00000000000000000000." not in name}
    for mode in ("a", "r"):
        log = Log(MemoryDisk.of(kept), mode, CONFIG)  # type: ignore[arg-type]
        assert [lost.offsets for lost in log.recovery.lost] == [range(1)]
        assert [lost.offsets for lost in log.verify().lost] == [range(1)]
        assert [record.value for record in log.read(errors="skip")] == [b"two", b"three"]
        log.close()


def test_a_second_opening_changes_nothing_after_a_close_that_rolled(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append_many([bytes(700)] * 5)
    log._appending().drain()
    assert log.stats().rolls == 0
    log.append(bytes(700))
    log.close()  # which drains, which rolls
    assert "00000000000000000005.log" in disk.names()
    before = files(disk)
    Log(disk, "a", CONFIG).close()
    assert files(disk) == before


def test_a_second_opening_changes_nothing_after_a_torn_header_and_frame(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append_many([b"lost"] * 3, timestamps=[1, 2**60, 3])
    log._appending().drain()
    contents = disk.contents()
    contents["00000000000000000000.log"] = bytes(512)
    contents["00000000000000000000.log"] += b"later"
    del contents["tail"]
    after = MemoryDisk.of(contents)
    log = Log(after, "a", CONFIG)
    log.append(b"new")
    log.close()
    before = files(after)
    log = Log(after, "a", CONFIG)
    assert values(log) == [b"new"]
    assert log.verify().notes == ()
    log.close()
    assert files(after) == before


def test_the_times_of_frames_that_were_cut_leave_no_trace_in_the_index(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"kept", timestamp=1)
    log.sync()
    log.append(b"torn", timestamp=2)
    log._appending().drain()
    log.append(b"behind it", timestamp=2**60)
    log._appending().drain()
    contents = disk.contents()
    data = bytearray(contents["00000000000000000000.log"])
    data[64 + 80 + 76] ^= 1  # in the value of the second frame
    contents["00000000000000000000.log"] = bytes(data)
    del contents["tail"]
    after = MemoryDisk.of(contents)
    log = Log(after, "a", CONFIG)
    assert values(log) == [b"kept"]
    log.append(b"new", timestamp=5)
    log.close()
    before = files(after)
    Log(after, "a", CONFIG).close()
    assert files(after) == before


def test_no_power_cut_in_a_truncation_loses_a_compressed_segment() -> None:
    for number in range(1, 60):
        points = 0

        def watch(disk: MemoryDisk, event: Event) -> None:
            nonlocal points
            points += 1
            if points == number:  # noqa: B023
                raise InterruptedError

        disk = MemoryDisk()
        log = Log(disk, "a", CONFIG)
        log.append_many([b"%d" % index for index in range(8)])
        log.roll()
        log.compress()
        disk.watch = watch
        with suppress(OSError):
            log.truncate(3)
        disk.watch = None
        unsynced = disk.unsynced()
        for seed in range(20):
            after = Log(unsynced.sample(Random(seed)), "a", CONFIG)
            found = values(after)
            assert found in ([b"%d" % i for i in range(8)], [b"%d" % i for i in range(4)])
        if points < number:
            return
    pytest.fail("a truncation takes more steps than this test knows")


def test_a_reader_sees_a_truncation_that_was_begun_as_done(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append_many([bytes(900)] * 12, durability="durable")
    log.roll()
    cuts = []

    def watch(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "unlink" and event.name.endswith(".log") and not cuts:
            cuts.append(disk.after_kill())

    disk.watch = watch
    log.truncate(2)
    reader = Log(cuts[0], "r", CONFIG)
    assert reader.end_offset == 3
    assert len(values(reader)) == 3
    assert reader.recovery.lost == ()


def test_what_an_earlier_life_left_in_the_tail_is_never_taken_for_new(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"durable")
    log.sync()
    for number in range(40):  # offsets 1 to 40: a drain, and then the tail from its start again
        log.append(b"old %04d" % number + bytes(24))
        if number == 19:
            log._appending().drain()
    # A power cut keeps all of the tail but its first sector, and nothing of the segment.
    after = synced(disk)
    contents = after.contents()
    newest = bytearray(disk.contents()["tail"])
    newest[4096:4608] = bytes(512)
    contents["tail"] = bytes(newest)
    after = MemoryDisk.of(contents)
    log = Log(after, "a", CONFIG)
    assert values(log) == [b"durable"]
    assert [cut.path for cut in log.recovery.cut] == ["memory/tail"]
    # Smaller records now, so that some old frame starts where a new one ends, with its offset.
    sent = [b"durable"]
    for number in range(60):
        sent.append(b"new %d" % number)
        log.append(sent[-1])
        killed = Log(after.after_kill(), "a", CONFIG)
        assert values(killed) == sent


def test_the_published_end_is_lowered_when_a_power_cut_took_what_it_published(
    disk: MemoryDisk,
) -> None:
    log = Log(disk, "a", CONFIG)
    log.append(b"durable")
    log.sync()
    log.append_many([b"lost"] * 10)
    log._appending().drain()
    contents = synced(disk).contents()
    contents["tail"] = disk.contents()["tail"][:512] + contents["tail"][512:]  # the registers
    after = MemoryDisk.of(contents)
    log = Log(after, "a", CONFIG)
    reader = Log(after, "r", CONFIG)
    log.append_many([b"new"] * 3)
    log._appending().drain()
    assert reader.end_offset == 4
    assert values(reader) == [b"durable", b"new", b"new", b"new"]


def test_damage_in_the_tail_of_a_killed_writer_is_set_aside_and_reported() -> None:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    for number in range(5):
        log.append(b"record %d" % number)
    contents = disk.contents()
    size = 64 + 8 + 8
    at = tail_module.FRAMES_POSITION
    for number in range(5):
        for byte in (0, 16, 48, 75):  # magic, offset, tag, value
            data = bytearray(contents["tail"])
            data[at + number * size + byte] ^= 1
            after = MemoryDisk.of({**contents, "tail": bytes(data)})
            log = Log(after, "a", CONFIG)
            assert values(log) == [b"record %d" % i for i in range(number)]
            assert [cut.path for cut in log.recovery.cut] == ["memory/tail"], (number, byte)
            assert "tail.4096.aside" in after.names()


def test_a_reader_passes_by_a_segment_whose_removal_a_power_cut_undid(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log.append_many([b"old %d" % number for number in range(3)])
    log.sync()
    made = [0]

    def watch(disk: MemoryDisk, event: Event) -> None:
        made[0] += event.kind == "create" and event.name.endswith(".log")
        if made[0] == 2 and event.kind == "create":
            made[0] = 3
            stray.update(disk.contents())
            raise OSError(28, "no space")

    stray: dict[str, bytes] = {}
    disk.watch = watch
    with pytest.raises(StorageError):
        log.append_many([b"never acknowledged" * 30] * 20)
    disk.watch = None
    sent = [b"old %d" % number for number in range(3)]
    sent += [b"new %d" % number for number in range(20)]
    log.append_many(sent[3:])
    log.sync()
    name = min(name for name in stray if name.endswith(".log") and name not in disk.names())
    after = MemoryDisk.of({**disk.contents(), name: stray[name]})
    reader = Log(after, "r", CONFIG)
    assert [reader[offset].value for offset in range(len(sent))] == sent
    assert values(Log(after, "a", CONFIG)) == sent


def test_a_read_that_fails_is_a_storage_error(disk: MemoryDisk) -> None:
    faulty = FaultyDisk(disk)
    log = Log(faulty, "a", CONFIG)
    log.append_many([b"record"] * 3, durability="durable")
    log.roll()
    faulty.faults = [Fault("any", 1, 5, is_lasting=True)]
    for read in (lambda: log[0], lambda: list(log), lambda: log.offset_for_time(0)):
        with pytest.raises(StorageError):
            read()
    faulty.faults = []
    assert values(log) == [b"record"] * 3


def test_a_write_that_a_kill_stopped_halfway_is_cut_and_its_records_come_from_the_tail(
    disk: MemoryDisk,
) -> None:
    # Not a power cut: the kernel heeds SIGKILL between two pages of one write (found by T1).
    log = Log(disk, "a", CONFIG)
    sent = [b"%d " % number + bytes(100) for number in range(30)]
    for value in sent[:3]:
        log.append(value)
    log.sync()
    staged: list[tuple[MemoryDisk, Event]] = []

    def watch(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "write" and event.name.endswith(".log") and not staged:
            staged.append((disk.after_kill(), event))

    for value in sent[3:8]:
        log.append(value)
    disk.watch = watch
    log.sync()
    after, event = staged[0]
    for size_bytes in (1, 63, 64, 200, len(event.data) - 1):
        contents = after.contents()
        contents[event.name] += event.data[:size_bytes]
        killed = MemoryDisk.of(contents)
        again = Log(killed, "a", CONFIG)
        assert [cut.size_bytes for cut in again.recovery.cut] == [size_bytes]
        assert again.recovery.lost == ()
        assert again.recovery.from_tail == 5
        assert values(again) == sent[:8]
        again.close()
        assert Log(killed, "a", CONFIG).recovery.was_clean


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 1), (0, 2), (1, 2)])
def test_no_mix_of_undone_removals_is_reported_as_a_loss(
    disk: MemoryDisk, kept: tuple[int, ...]
) -> None:
    log = Log(disk, "a", CONFIG)
    for _ in range(3):
        log.append_many([bytes(100)] * 5)
        log.roll()
    log.maintain()
    log.append(b"durable", durability="durable")
    before = disk.contents()
    log.trim(15)
    stems = tuple(f"{number * 5:020}." for number in kept)
    undone = {name: data for name, data in before.items() if name.startswith(stems)}
    for after in (disk, synced(disk)):
        for mode in ("r", "a"):
            again = Log(MemoryDisk.of({**after.contents(), **undone}), mode, CONFIG)  # type: ignore[arg-type]
            assert (again.start_offset, again.end_offset) == (15, 16)
            assert again.recovery.lost == ()
            assert again.recovery.cut == ()
            assert values(again) == [b"durable"]


@pytest.mark.parametrize("mode", ["r", "a"])
def test_what_a_trim_made_durable_is_kept_behind_removals_that_were_half_undone(
    disk: MemoryDisk, mode: Mode
) -> None:
    log = Log(disk, "a", CONFIG)
    for _ in range(2):
        log.append_many([bytes(100)] * 5)
        log.roll()
    log.append_many([b"synced"] * 3)
    before = disk.contents()
    log.trim(12)
    first = {name: data for name, data in before.items() if name.startswith("0" * 20)}
    after = {**disk.contents(), **first}
    del after["tail"]  # and with it the register that says what is durable
    again = Log(MemoryDisk.of(after), mode, CONFIG)
    assert again.start_offset == 12
    assert values(again) == [b"synced"]
    assert again.recovery.lost == ()
    assert again.recovery.cut == ()


def test_damage_below_the_log_start_offset_is_no_loss(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    for value in (b"old", b"new"):
        log.append_many([value] * 3)
        log.sync()
    log.trim(3)
    log.close()
    contents = disk.contents()
    data = bytearray(contents["00000000000000000000.log"])
    data[100] ^= 1
    contents["00000000000000000000.log"] = bytes(data)
    del contents["tail"]
    again = Log(MemoryDisk.of(contents), "a", CONFIG)
    assert again.recovery.lost == ()
    assert values(again) == [b"new"] * 3


@pytest.mark.parametrize("value_bytes", [20, 700])
def test_what_was_refused_does_not_come_back_behind_what_was_acknowledged(value_bytes: int) -> None:
    config = LogConfig.of({"background": False, "segment_size": 4096, "batch_size": 1024})
    survivors = set()
    for failing_write in range(1, 12):
        memory = MemoryDisk()
        disk = FaultyDisk(memory)
        log = Log(disk, "a", config)
        known = [b"0"]
        log.append(known[0], durability="durable")
        disk.faults = [Fault("write", disk.counts["write"] + failing_write, errno.EIO)]
        with suppress(StorageError):
            log.append_many([b"refused %d" % n + bytes(700) for n in range(60)])
        if not disk.failures:
            break
        for number in range(12):
            value = b"%d" % number + bytes(value_bytes)
            known.append(value)
            log.append(value)
            if number % 3 == 0:
                log.sync()
            unsynced = memory.unsynced()
            for seed in range(8):
                with Log(unsynced.sample(Random(seed)), "a", config) as after:
                    found = list(after.values())
                    assert found == known[: len(found)]
                    survivors.add(len(found))
    assert len(survivors) > 3


@pytest.mark.parametrize("name", ["maintain", "truncate"])
def test_a_power_cut_while_a_killed_step_is_finished(disk: MemoryDisk, name: str) -> None:
    """The next opening can't know which renames of the killed process reached the device."""
    log = Log(disk, "a", CONFIG)
    for number in range(20):
        log.append(b"%d" % number)
        if number % 5 == 4:
            log.roll()
    log.sync()
    killed: list[MemoryDisk] = []
    if name == "truncate":
        log.maintain()

    def kill(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "sync directory":
            killed.append(disk.after_kill())

    disk.watch = kill
    if name == "maintain":
        log.maintain()
    else:
        log.truncate(7)
    disk.watch = None

    known = [b"%d" % number for number in range(20)]
    cuts: list[MemoryDisk] = []
    for after in killed:
        after.watch = lambda disk, _: cuts.extend(
            disk.unsynced().sample(Random(seed)) for seed in range(10)
        )
        Log(after, "a", CONFIG).close()
        after.watch = None
    distinct = {tuple(sorted(files(cut).items())): cut for cut in cuts}
    assert len(distinct) > 20
    for cut in distinct.values():
        log = Log(cut, "a", CONFIG)
        assert log.recovery is not None
        assert log.recovery.lost == ()
        assert values(log) in ([known] if name == "maintain" else [known, known[:8]])
        log.close()


def test_who_was_moved_back_stays_so_where_a_kill_came_ahead_of_the_sync() -> None:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log.append_many([b"taken"] * 10)
    log.consumer("one").commit(7)
    killed: list[MemoryDisk] = []

    def watch(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "sync" and event.name == "one.consumer":
            killed.append(disk.after_kill())

    disk.watch = watch
    log.truncate(1)
    for left in killed:  # written, and not synced yet
        log = Log(left, "a", CONFIG)
        log.append_many([b"new"] * 10, durability="durable")
        again = Log(synced(left), "a", CONFIG)
        assert again.end_offset == 12
        assert [info.committed for info in again.consumers()] == [2]


def test_an_opening_seals_nothing_that_a_power_cut_may_take(disk: MemoryDisk) -> None:
    log = Log(disk, "a", CONFIG)
    log._appending()._unsealed_count_max = 8  # as beside a background thread, which comes later
    for _ in range(3):
        log.append_many([bytes(1000)] * 3)
        log._appending().roll()
    killed = disk.after_kill()
    again = Log(killed, "a", CONFIG)
    assert [segment.state for segment in again.segments()] == ["sealed"] * 3 + ["active"]
    after = Log(synced(killed), "a", CONFIG)
    assert after.recovery.lost == ()
    assert len(values(after)) == after.end_offset == 9
