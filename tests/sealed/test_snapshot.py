"""A snapshot of a log with damage holds what the log holds: no less, and no worse."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import segstore
from segstore import ConfigError
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.log import snapshot as snapshot_module
from segstore.log.log import Log
from segstore.log.view import FileView, WriterView
from segstore.segment.tail import FRAMES_POSITION
from segstore.testing.faulty import FaultyDisk

LARGE = [b"value %04d " % number * 12 for number in range(600)]
FIRST = "00000000000000000000.log"


def hurt(path: str, name: str, at: int) -> None:
    with open(os.path.join(path, name), "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 4]))


def readable(path: str) -> list[tuple[int, bytes]]:
    with segstore.open(path, "r") as log:
        return [(record.offset, record.value) for record in log.read(errors="skip")]


def end_of(path: str, name: str = FIRST) -> int:
    return os.path.getsize(os.path.join(path, name))


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("where", ["a block of the last frame", "its head", "an earlier frame"])
def test_damage_in_the_active_segment_goes_along_as_it_is(
    tmp_path: Path, mode: segstore.log.log.Mode, where: str
) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, compression=None, background=False) as log:
        log.append_many(LARGE)
        last = end_of(path)
        log.append_many(LARGE)
        log.sync()
        at = {"a block of the last frame": end_of(path) - 9000, "its head": last + 40}
        hurt(path, FIRST, at.get(where, last - 9000))
        with segstore.open(path, mode) if mode == "r" else log as taken:
            report = taken.snapshot(copy)
            held = [(r.offset, r.value) for r in taken.read(errors="skip")]
    assert 600 <= len(held) < 1200
    assert report.end_offset == 1200
    assert readable(copy) == held
    with segstore.open(copy) as log:
        assert not log.recovery.cut
        assert sum(len(lost.offsets) for lost in log.recovery.lost) in (0, 1200 - len(held))
        assert log.append(b"next") == 1200
    assert readable(copy) == [*held, (1200, b"next")]


def test_a_tail_that_has_what_is_damaged_mends_the_copy(tmp_path: Path) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, compression=None, background=False) as log:
        for number in range(100):
            log.append(b"%d" % number)
        log.sync()  # drained, and still in the tail
        hurt(path, FIRST, end_of(path) - 20)
        assert log.snapshot(copy).end_offset == 100
    assert readable(copy) == [(number, b"%d" % number) for number in range(100)]


@pytest.mark.parametrize("is_cut", [False, True])
def test_damage_behind_which_the_tail_goes_on(tmp_path: Path, is_cut: bool) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, compression=None, background=False) as log:
        log.append_many(LARGE)
        if is_cut:
            os.truncate(os.path.join(path, FIRST), end_of(path) - 9003)
        else:
            hurt(path, FIRST, end_of(path) - 9000)
        for number in range(5):
            log.append(b"%d" % number)
        assert log.snapshot(copy).end_offset == 605
        held = [(r.offset, r.value) for r in log.read(errors="skip")]
    assert held[-5:] == [(600 + number, b"%d" % number) for number in range(5)]
    assert readable(copy) == held
    with segstore.open(copy) as log:
        assert log.append(b"next") == 605


def test_a_copy_vouches_for_all_that_it_holds(tmp_path: Path) -> None:
    """What goes bad in it later is damage, which is told of, and not a write that was cut short."""
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, compression=None, background=False) as log:
        log.append_many(LARGE)
        log.snapshot(copy)
    hurt(copy, FIRST, end_of(copy) - 9000)
    with segstore.open(copy) as log:
        assert not log.recovery.cut
        assert [lost.offsets.stop for lost in log.recovery.lost] <= [600]
        assert log.append(b"next") == 600
        assert len(list(log.read(errors="skip"))) > 500


@pytest.mark.parametrize("what", ["the last segment", "the tail", "the segment before the tail"])
def test_what_is_lost_at_the_end_is_lost_in_the_copy_as_well(tmp_path: Path, what: str) -> None:
    path, live, copy = (str(tmp_path / name) for name in ("log", "live", "copy"))
    with segstore.open(path, background=False) as log:
        log.append_many(LARGE)
        log.roll()
        if what == "the tail":
            for number in range(9):
                log.append(b"%d" % number, durability="durable")
        else:
            log.append_many(LARGE)  # too large for the tail
            log.sync()
        if what == "the segment before the tail":
            log.append(b"behind it")
        shutil.copytree(path, live)
    if what == "the tail":
        with open(live + "/tail", "r+b") as file:
            file.seek(FRAMES_POSITION + 5 * 80)  # each of them is a frame of its own
            file.write(bytes(4 * 80))
    else:
        for ending in (".log", ".index"):
            os.unlink(f"{live}/{600:020d}{ending}")
    with segstore.open(live, "r") as log:
        assert log.recovery.lost
        assert log.snapshot(copy).end_offset == log.end_offset
    held = readable(live)
    assert readable(copy) == held
    lost, ends = [], []
    for opened in live, copy:
        with segstore.open(opened, background=False) as log:
            lost.append([lost.offsets for lost in log.recovery.lost])
            ends.append(log.append(b"next"))
    assert lost[0] == lost[1]
    assert ends[0] == ends[1]
    assert readable(copy) == [*held, (ends[0], b"next")]


@pytest.mark.parametrize("hurt_one", ["log", "copy"])
def test_a_segment_that_a_snapshot_has_as_well_is_not_written_to(
    tmp_path: Path, hurt_one: str
) -> None:
    """Where it lost its index and all behind it, it looks like the one that was written to."""
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, compression=None, background=False) as log:
        log.append_many(LARGE)
        log.roll()
        log.maintain()
        log.snapshot(copy)
    held = readable(copy)
    hurt_path, other = (path, copy) if hurt_one == "log" else (copy, path)
    for name in os.listdir(hurt_path):
        if name.endswith(".index") or name == f"{600:020d}.log":
            os.unlink(os.path.join(hurt_path, name))
    with segstore.open(hurt_path, background=False) as log:
        assert log.recovery.was_clean
        assert log.append(b"of this one") == 600
    assert readable(hurt_path) == [*held, (600, b"of this one")]
    assert readable(other) == held


@pytest.mark.parametrize("hurt_one", ["log", "copy"])
def test_a_segment_that_a_snapshot_has_as_well_is_not_cut(tmp_path: Path, hurt_one: str) -> None:
    """Where all is lost that vouched for it, damage looks like a write that was cut short."""
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, compression=None, background=False, batch_size=4096) as log:
        log.append_many(LARGE)
        log.roll()
        log.maintain()
        log.snapshot(copy)
    hurt(path, FIRST, end_of(path) // 2)
    hurt_path, other = (path, copy) if hurt_one == "log" else (copy, path)
    held = readable(other)
    for name in os.listdir(hurt_path):
        if name.endswith(".index") or name in ("tail", f"{600:020d}.log"):
            os.unlink(os.path.join(hurt_path, name))
    with segstore.open(hurt_path, background=False) as log:
        (cut,) = log.recovery.cut
        assert log.append(b"next") == len(log) - 1 == cut_at(held)
    assert readable(hurt_path) == [*held[: cut_at(held)], (cut_at(held), b"next")]
    assert readable(other) == held
    assert cut.set_aside is not None
    assert cut.position + os.path.getsize(cut.set_aside) == end_of(other)


def cut_at(held: list[tuple[int, bytes]]) -> int:
    """The first offset that is not there."""
    return next(place for place, (offset, _) in enumerate(held) if offset != place)


def test_what_an_interrupted_attempt_left_is_removed(tmp_path: Path) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, compression=None, background=False) as log:
        log.append_many(LARGE)
        log.snapshot(copy)
        building = str(tmp_path / ".copy.snapshot")
        os.rename(copy, building)
        os.rename(building + "/tail", building + "/tail.tmp")
        log.append(b"more")
        log.snapshot(copy + "/")
    assert sorted(os.listdir(copy)) == [FIRST, "lock", "start", "tail"]
    assert sorted(os.listdir(tmp_path)) == ["copy", "log"]
    assert len(readable(copy)) == 601


@pytest.mark.parametrize("seed", range(12))
def test_a_copy_reads_as_the_log_does_whatever_bit_is_flipped(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    options = {"compression": None, "background": False, "batch_size": "16KiB"}
    with segstore.open(path, **options) as log:
        for _ in range(chance.randint(1, 5)):
            log.append_many(chance.choices(LARGE, k=chance.choice([1, 5, 200])))
            if chance.random() < 0.3:
                log.roll()
            for _ in range(chance.choice([0, 0, 3])):
                log.append(b"small")
        log.sync()
        names = [name for name in os.listdir(path) if name.endswith(".log") and end_of(path, name)]
        name = chance.choice(sorted(names))
        hurt(path, name, chance.randrange(64, max(65, end_of(path, name))) - 1)
        report = log.snapshot(copy)
        held = [(r.offset, r.value) for r in log.read(errors="skip")]
        end_offset = log.end_offset
    assert report.end_offset == end_offset
    found = readable(copy)
    assert set(held) <= set(found)  # the tail may have more
    with segstore.open(copy) as log:
        assert log.append(b"next") == end_offset
    assert readable(copy) == [*found, (end_offset, b"next")]


def rolled(path: str, count: int) -> FaultyDisk:
    """A log of so many sealed segments, on a disk that a test may watch."""
    with segstore.open(path, compression=None, background=False) as log:
        for _ in range(count):
            log.append_many(LARGE)
            log.roll()
    return FaultyDisk(OsDisk(path))


def test_of_two_snapshots_to_one_path_the_second_is_refused(tmp_path: Path) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    disk = rolled(path, 3)
    refused = []

    def snapshot(kind: str, name: str) -> None:
        if kind == "link":
            disk.before = None
            with (
                segstore.open(path, "r") as other,
                pytest.raises(segstore.StorageError, match="another snapshot") as error,
            ):
                other.snapshot(copy)
            refused.append(error)

    with Log(disk, "r", LogConfig.of({}, environment={})) as log:
        disk.before = snapshot
        # A copy by bytes, as hard links are only between disks of the file system.
        log.snapshot(copy)
        with pytest.raises(segstore.StorageError, match="exists"):
            log.snapshot(copy + "/")
    assert len(refused) == 1
    assert len(readable(copy)) == 3 * len(LARGE)
    assert sorted(os.listdir(tmp_path)) == ["copy", "log"]


@pytest.mark.parametrize("moves", [False, True])
def test_a_snapshot_that_got_its_name_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    """Another one has it in hand by then, as the directory in which it would begin."""
    path, copy, kept = (str(tmp_path / name) for name in ("log", "copy", "kept"))
    take_lock = snapshot_module.take_lock

    def take_late(target: OsDisk) -> Any:
        monkeypatch.undo()
        log.snapshot(copy)
        if moves:
            os.rename(copy, kept)
        return take_lock(target)

    with segstore.open(path, background=False) as log:
        log.append_many(LARGE)
        monkeypatch.setattr(snapshot_module, "take_lock", take_late)
        with pytest.raises(segstore.StorageError, match="just ended" if moves else "exists"):
            log.snapshot(copy)
    assert len(readable(kept if moves else copy)) == len(LARGE)
    assert sorted(os.listdir(tmp_path)) == sorted(["log", "kept" if moves else "copy"])


def test_a_lock_that_a_failed_snapshot_removed_guards_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had opened it before gets it all the same, and a third one makes a new one."""
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    building = str(tmp_path / ".copy.snapshot")
    take_lock = snapshot_module.take_lock

    def take_late(target: OsDisk) -> Any:
        monkeypatch.undo()
        lock = take_lock(target)
        os.unlink(building + "/lock")
        Path(building, FIRST).write_bytes(b"of the third")
        return lock

    with segstore.open(path, background=False) as log:
        log.append_many(LARGE)
        monkeypatch.setattr(snapshot_module, "take_lock", take_late)
        with pytest.raises(segstore.StorageError, match="just ended"):
            log.snapshot(copy)
        assert Path(building, FIRST).read_bytes() == b"of the third"
        log.snapshot(copy)
    assert len(readable(copy)) == len(LARGE)


def test_a_snapshot_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    disk = rolled(path, 2)

    def fail(kind: str, name: str) -> None:
        if kind == "link" and name == f"{600:020d}.log":
            raise OSError(errno.EIO, "on purpose")

    with Log(disk, "r", LogConfig.of({}, environment={})) as reader:
        disk.before = fail
        with pytest.raises(segstore.StorageError, match="on purpose"):
            reader.snapshot(copy)
        assert os.listdir(tmp_path) == ["log"]
        disk.before = None
        assert reader.snapshot(copy).end_offset == 2 * len(LARGE)


@pytest.mark.parametrize("when", ["lock", "link"])
def test_a_snapshot_whose_name_was_taken_meanwhile_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path, copy = str(tmp_path / "log"), tmp_path / "copy"
    disk = rolled(path, 2)

    def take(kind: str, name: str) -> None:
        if kind == when:
            copy.write_bytes(b"mine")

    def take_late(target: OsDisk) -> Any:
        take("lock", "")
        return take_lock(target)

    take_lock = snapshot_module.take_lock
    monkeypatch.setattr(snapshot_module, "take_lock", take_late)
    with Log(disk, "r", LogConfig.of({}, environment={})) as reader:
        disk.before = take
        with pytest.raises(segstore.StorageError, match=r"snapshot failed|exists"):
            reader.snapshot(copy)
    assert copy.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["copy", "log"]


def test_a_snapshot_that_can_not_be_locked_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(target: OsDisk) -> Any:
        raise OSError(errno.ENOSPC, "no inode")

    with segstore.open(tmp_path / "log", background=False) as log:
        monkeypatch.setattr(snapshot_module, "take_lock", fail)
        with pytest.raises(segstore.StorageError, match="no inode"):
            log.snapshot(tmp_path / "copy")
    assert os.listdir(tmp_path) == ["log"]


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_an_index_that_was_lost_since_the_opening_is_made_anew_in_the_copy(
    path: str, tmp_path: Path, mode: str, is_compressed: bool
) -> None:
    with segstore.open(path, background=False, segment_size="16KiB", batch_size=4096) as log:
        log.append_many(LARGE)
        log.roll()
        if is_compressed:
            log.compress()
        with segstore.open(path, "r") as reader:
            for name in os.listdir(path):
                if name.endswith(".index") and not name.startswith(f"{600:020}"):
                    os.unlink(os.path.join(path, name))
            report = (log if mode == "a" else reader).snapshot(tmp_path / "copy")
    with segstore.open(report.path, background=False) as copy:
        assert list(copy.values()) == LARGE
        assert copy.recovery.lost == ()


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("count", [0, 70, 80, 85, 90])
def test_a_batch_that_a_roll_cuts_in_two_is_in_the_copy_whole_or_not_at_all(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, count: int
) -> None:
    """The first part then stands in the segment that was the last when the copy was begun.

    By `count` the roll also comes between what was written before and what is drained first.
    """
    kind = {"a": WriterView, "r": FileView}[mode]
    real = kind.end_offset

    def end_offset(view: Any) -> int:  # asked for once the segments are listed
        monkeypatch.setattr(kind, "end_offset", real)
        found = real(view)
        for number in range(30):
            log.append(b"staged %d" % number)
        log.append_many(LARGE)
        return found

    with segstore.open(path, background=False, segment_size="16KiB", batch_size=4096) as log:
        log.append_many(LARGE[:count])
        log.sync()
        with segstore.open(path, "r") as reader:
            monkeypatch.setattr(kind, "end_offset", end_offset)
            report = (log if mode == "a" else reader).snapshot(tmp_path / "copy")
    assert report.end_offset not in range(count + 31, count + 30 + len(LARGE))
    assert len(readable(report.path)) == report.end_offset
    with segstore.open(report.path, background=False) as copy:
        assert copy.recovery.lost == ()


@pytest.mark.parametrize("is_linked", [True, False])
def test_what_is_linked_and_what_is_copied_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_linked: bool
) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    rolled(path, 2)
    if not is_linked:
        monkeypatch.setattr(OsDisk, "link", lambda *_: False)
    with segstore.open(path, compression=None, background=False) as log:
        log.append_many(LARGE[:10])
        log.append(b"staged")
        report = log.snapshot(copy)
    sealed = [f"{base:020d}{ending}" for base in (0, 600) for ending in (".log", ".index")]
    active = f"{1200:020d}.log"
    assert sorted(os.listdir(copy)) == sorted([*sealed, active, "lock", "start", "tail"])
    assert report.linked_count == (4 if is_linked else 0)
    copied = [active] if is_linked else [active, *sealed]
    assert report.copied_bytes == sum(end_of(copy, name) for name in copied)
    assert (report.start_offset, report.end_offset) == (0, 1211)


@pytest.mark.parametrize("ending", [".log", ".index"])
def test_a_segment_that_is_swapped_under_the_copy_is_in_it(tmp_path: Path, ending: str) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    disk = rolled(path, 2)

    def swap(kind: str, name: str) -> None:
        if kind == "link" and name == f"{600:020d}{ending}":
            disk.before = None
            assert log.compress() == 2

    with (
        segstore.open(path, compression=None, background=False) as log,
        Log(disk, "r", LogConfig.of({}, environment={})) as reader,
    ):
        disk.before = swap
        report = reader.snapshot(copy)
    assert disk.before is None
    assert report.end_offset == 2 * len(LARGE)
    assert [value for _, value in readable(copy)] == LARGE * 2


def test_a_writer_whose_segment_is_gone_copies_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    rolled(path, 3)
    with segstore.open(path, background=False) as log:
        os.unlink(f"{path}/{600:020d}.log")
        with pytest.raises(segstore.StorageError, match="lacks a file"):
            log.snapshot(tmp_path / "copy")
    assert os.listdir(tmp_path) == ["log"]


@pytest.mark.parametrize("empty", ["", b""])
def test_an_empty_path_is_refused_as_such(path: str, empty: Any) -> None:
    with segstore.open(path) as log, pytest.raises(ConfigError, match="path of the snapshot"):
        log.snapshot(empty)


def test_a_log_is_copied_although_the_tail_is_drained_at_every_look(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is that a busy writer appends to, where the segment takes longer to read."""
    real = snapshot_module._copy_growing

    def copy_growing(*arguments: Any, **options: Any) -> tuple[int, int]:
        log.sync()
        log.append(b"later")
        return real(*arguments, **options)

    monkeypatch.setattr(snapshot_module, "_copy_growing", copy_growing)
    with segstore.open(path, background=False) as log:
        for number in range(10):
            log.append(b"%d" % number)
        with segstore.open(path, "r") as reader:
            assert reader.snapshot(tmp_path / "copy").end_offset == 10
    assert readable(str(tmp_path / "copy")) == [(number, b"%d" % number) for number in range(10)]


def test_a_copy_does_not_run_after_a_writer_that_is_faster(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = snapshot_module._copy_growing
    copied = []

    def copy_growing(view: Any, segment: Any, *arguments: Any, **options: Any) -> tuple[int, int]:
        copied.append(segment.base_offset)
        assert len(copied) < 10
        roll()
        return real(view, segment, *arguments, **options)

    def roll() -> None:  # without a seal, which takes the device longer
        assert log._writer is not None
        log._writer.roll()
        log.append_many(LARGE)

    monkeypatch.setattr(snapshot_module, "_copy_growing", copy_growing)
    with segstore.open(path, background=False) as log:
        log.append_many(LARGE)
        monkeypatch.setattr(log._writer, "_unsealed_count_max", 100)
        roll()
        with segstore.open(path, "r") as reader:
            assert reader.snapshot(tmp_path / "copy").end_offset == 2 * len(LARGE)
    assert copied == [0, len(LARGE)]
    assert [value for _, value in readable(str(tmp_path / "copy"))] == LARGE + LARGE
