"""Sectors that the device can't read: damage to whoever reads, and never a reason to cut."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from segstore import CorruptionError, Log, StorageError
from segstore.config import LogConfig
from segstore.disk import OsDisk

VALUES = [b"%06d" % number * 16 for number in range(6000)]
PAGE = 4096


class Device:
    """A directory on a device with bad sectors: pages of files that can't be read.

    While it `is_gone`, of each file those below `cached_end` can, until they leave the cache.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.bad: dict[str, set[int]] = {}
        self.is_gone = False
        self.cached_end = 0
        self.transient_count = 0

    def check(self, name: str, size_bytes: int, position: int) -> None:
        pages = range(position // PAGE, (position + size_bytes - 1) // PAGE + 1)
        is_bad = not self.bad.get(name, set()).isdisjoint(pages)
        if self.is_gone and pages.stop > self.cached_end:
            is_bad = True
        if self.transient_count and size_bytes > PAGE:
            self.transient_count -= 1
            is_bad = True
        if is_bad and Path(name).suffix in (".log", ".lz4"):
            raise OSError(errno.EIO, "Input/output error", name)


class BadDisk(OsDisk):
    def __init__(self, device: Device) -> None:
        super().__init__(device.path, create=True)
        self._device = device

    def open(self, name: str, *, write: bool = False, create: bool = False) -> Any:
        return BadFile(self._device, super().open(name, write=write, create=create))

    def is_named(self, file: Any, name: str) -> bool:
        return super().is_named(file._file, name)


class BadFile:
    descriptor = None  # C code would read past this

    def __init__(self, device: Device, file: Any) -> None:
        self._device = device
        self._file = file
        self.name = file.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size_bytes: int, position: int) -> bytes:
        self._device.check(self.name, size_bytes, position)
        data: bytes = self._file.read(size_bytes, position)
        return data

    def uncache(self, size_bytes: int, position: int) -> None:
        if position == 0 and size_bytes >= self._file.size():
            self._device.cached_end = 0


def open_on(device: Device, mode: Any = "a", **options: Any) -> Log:
    options = {"background": False, "segment_size": "256KiB", "compression": None} | options
    return Log(BadDisk(device), mode, LogConfig.of(options, environment={}))


@pytest.fixture
def device(path: str) -> Device:
    return Device(path)


@pytest.fixture
def log(device: Device) -> Any:
    with open_on(device) as made:
        made.append_many(VALUES)
        made.roll()
        made.append_many(VALUES[:10])
        made.sync()
        yield made
        device.bad.clear()


def spoil(device: Device, log: Log, number: int, *pages: int) -> str:
    """Have pages of a segment be bad, from now on; the name of its file."""
    name = Path(log.segments()[number].path).name
    device.bad[name] = set(pages)
    return name


def assert_only_lost(log: Log, lost: range) -> None:
    """Every way to read gives all but those offsets, and names them."""
    everything = VALUES + VALUES[:10]
    left = [value for offset, value in enumerate(everything) if offset not in lost]
    with pytest.raises(CorruptionError, match="the device can't read it") as caught:
        list(log.read())
    assert caught.value.offsets == lost
    assert list(log.values(0, lost.start)) == everything[: lost.start]
    assert list(log.values(lost.stop)) == everything[lost.stop :]
    assert list(log.values(errors="skip")) == left
    assert [record.value for record in log.follow("start", timeout=0, errors="skip")] == left
    for offset in (0, lost.start - 1, lost.stop, lost.start - 40, lost.stop + 40, 5999):
        assert log[offset].value == everything[offset]
    for offset in (lost.start, lost.stop - 1, lost.start, lost.stop - 1):
        with pytest.raises(CorruptionError):
            log[offset]
    report = log.verify()
    assert [found.offsets for found in report.lost] == [lost]
    assert "the device can't read it" in report.lost[0].reason
    assert report.record_count == len(left)


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("page", [10, 31, 32, 50])
def test_a_bad_sector_costs_the_records_in_its_blocks(
    device: Device, log: Log, mode: str, page: int
) -> None:
    spoil(device, log, 1, page)
    with open_on(device, "r") as reader:
        looker = log if mode == "a" else reader
        damage = looker.verify().lost
        lost = range(damage[0].offsets.start, damage[-1].offsets.stop)
        assert 0 < len(lost) <= 3 * PAGE / 96
        assert_only_lost(looker, lost)


@pytest.mark.parametrize("pages", [range(10, 60), range(40, 100), range(10)])
def test_bad_sectors_in_a_row_cost_what_is_in_them(device: Device, log: Log, pages: range) -> None:
    spoil(device, log, 1, *pages)
    lost = [found.offsets for found in log.verify().lost]
    assert_only_lost(log, range(lost[0].start, lost[-1].stop))


@pytest.mark.parametrize("page", [0, 1])
def test_a_bad_sector_in_a_head_costs_the_batch(device: Device, log: Log, page: int) -> None:
    spoil(device, log, 1, page)
    lost = log.verify().lost[0].offsets
    first = log.segments()[1].base_offset
    assert lost.start == first
    assert lost.stop - first == len(VALUES) // 5  # the batch, as it is cut into frames
    assert_only_lost(log, lost)
    assert ("the header of" in "".join(log.verify().notes)) == (page == 0)


@pytest.mark.parametrize("page", [0, 2])
def test_a_bad_sector_costs_a_chunk_of_a_compressed_segment(
    device: Device, log: Log, page: int
) -> None:
    log.compress()
    spoil(device, log, 1, page)
    (lost,) = (found.offsets for found in log.verify().lost)
    assert len(lost) <= 128 * 1024 / 96 * 1.1
    assert_only_lost(log, lost)


def test_what_is_read_at_the_second_try_is_no_damage(device: Device, log: Log) -> None:
    device.transient_count = 1
    assert list(log.values()) == VALUES + VALUES[:10]
    assert device.transient_count == 0
    assert log.stats().damaged_records == 0


@pytest.mark.parametrize("compressed", [False, True])
def test_nothing_is_passed_over_while_the_device_is_gone(
    device: Device, log: Log, compressed: bool
) -> None:
    if compressed:
        log.compress()
    with open_on(device, "r") as reader, reader.consumer("one") as consumer:
        device.is_gone = True
        for looker in (log, reader):
            for read in (
                lambda of: list(of.read(errors="skip")),
                lambda of: list(of.follow("start", timeout=0, errors="skip")),
                lambda of: of.verify(),
                lambda of: of[3000],
            ):
                for device.cached_end in (0, 1 if compressed else 7):
                    with pytest.raises(StorageError):
                        read(looker)
        with pytest.raises(StorageError):
            consumer.poll(10, errors="skip")
        device.is_gone = False
        assert consumer.poll(1)[0].offset == 0
        assert list(reader.values()) == VALUES + VALUES[:10]
        assert [looker.stats().damaged_records for looker in (log, reader)] == [0, 0]


def test_a_segment_with_a_bad_sector_does_not_keep_others_from_being_compressed(
    device: Device, log: Log
) -> None:
    spoil(device, log, 0, 20)
    states = ["sealed"] + ["compressed"] * (len(log.segments()) - 2) + ["active"]
    with pytest.raises(StorageError):
        log.compress()
    assert [segment.state for segment in log.segments()] == states
    device.bad.clear()
    assert log.compress() == 1
    assert list(log.values()) == VALUES + VALUES[:10]


def test_background_rounds_meet_a_bad_sector_once(device: Device, log: Log) -> None:
    log.close()
    with open_on(device, compression="lz4") as log:
        spoil(device, log, 0, 20)
        with pytest.raises(StorageError):
            log.maintain()
        log.maintain()
        assert [segment.state for segment in log.segments()][:2] == ["sealed", "compressed"]


def test_repair_mends_the_others_and_leaves_a_segment_with_a_bad_sector(
    device: Device, log: Log
) -> None:
    first, second = (Path(segment.path) for segment in log.segments()[:2])
    data = bytearray(second.read_bytes())
    data[9 * PAGE] ^= 1
    second.write_bytes(data)
    before = first.read_bytes()
    spoil(device, log, 0, 20)
    with pytest.raises(StorageError):
        log.repair()
    assert first.read_bytes() == before
    device.bad.clear()
    assert log.repair().lost == ()
    assert len(log.verify().lost) == 1
    assert log.compress() == len(log.segments()) - 1


def test_recovery_cuts_nothing_that_it_can_not_read(device: Device, log: Log) -> None:
    log.append_many(VALUES[:1000])
    name = spoil(device, log, -1, 20)
    log.close()
    Path(device.path, "tail").unlink()  # so that all of it is looked at
    before = Path(device.path, name).read_bytes()
    with pytest.raises(OSError, match="Input/output error"):
        open_on(device)
    with open_on(device, "r") as reader:
        assert [cut.reason for cut in reader.recovery.cut] == ["the device can't read it"]
        assert list(reader.values()) == VALUES + VALUES[:10]
    assert Path(device.path, name).read_bytes() == before
    device.bad.clear()
    with open_on(device) as log:
        assert list(log.values()) == VALUES + VALUES[:10] + VALUES[:1000]


def test_a_segment_that_can_not_be_sealed_keeps_no_other_from_it(device: Device, log: Log) -> None:
    log.roll()
    number = len(log.segments()) - 1
    log.append_many(VALUES[:1000], keys=VALUES[:1000])
    spoil(device, log, number, 20)
    with pytest.raises(StorageError, match="Input/output error"):
        log.roll()
    log.append_many(VALUES[:1000], keys=VALUES[:1000])
    log.roll()
    log.maintain()
    assert [segment.state for segment in log.segments()][number:] == ["rolled", "sealed", "active"]
    assert len(list(log.find(VALUES[7], errors="skip"))) == 2
    with open_on(device, "r") as reader:
        assert len(list(reader.find(VALUES[7], errors="skip"))) == 2
    log.close()
    with open_on(device, retention_records=1000, retention_age="1h") as log:
        first = log.segments()[number + 1].base_offset
        log.maintain()
        assert log.start_offset == first


def test_opening_does_not_wait_for_a_seal(device: Device, log: Log) -> None:
    """Of a segment that was durable before a kill, and so is not scanned."""
    log.roll()
    number = len(log.segments()) - 1
    for _ in range(3):  # frames, of which the sector is in the second
        log.append_many(VALUES[:300], keys=VALUES[:300])
        log.sync()
    log.close()
    spoil(device, open_on(device, "r"), number, 20)
    with open_on(device) as log:
        with pytest.raises(StorageError, match="Input/output error"):
            log.roll()
        assert log.append(b"goes on") == 6910
    with open_on(device) as log:
        assert [segment.state for segment in log.segments()][number:] == ["rolled", "active"]
        assert log[6910].value == b"goes on"
        assert log.append(b"and on") == 6911


@pytest.mark.parametrize("seed", range(6))
def test_bad_sectors_cost_what_zeros_would(
    device: Device, log: Log, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for number, segment in enumerate(log.segments()[:-1]):
        count = segment.size_bytes // PAGE + 1
        spoil(device, log, number, *chance.sample(range(count), chance.randrange(count // 2)))
    copy = tmp_path / "copy"
    shutil.copytree(device.path, copy)
    for name, pages in device.bad.items():
        with open(copy / name, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for page in pages:
                file.seek(page * PAGE)
                file.write(bytes(min(PAGE, size - page * PAGE)))
    with open_on(device, "r") as reader, open_on(Device(str(copy)), "r") as expected:
        everything = VALUES + VALUES[:10]
        kept = list(expected.read(errors="skip"))
        assert list(reader.read(errors="skip")) == kept
        assert all(record.value == everything[record.offset] for record in kept)
        lost = [found.offsets for found in expected.verify().lost]
        assert [found.offsets for found in reader.verify().lost] == lost
        for record in chance.sample(kept, min(len(kept), 200)):
            assert reader[record.offset] == record
