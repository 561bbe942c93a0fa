"""`repair`: an index made anew, damage set aside, and nothing else that readers could see of it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from segstore.config import LogConfig
from segstore.format.chunk import LZ4_MAGIC
from segstore.format.fileheader import FILE_HEADER_BYTES
from segstore.format.names import (
    LZ4_INDEX_SUFFIX,
    LZ4_SUFFIX,
    RAW_INDEX_SUFFIX,
    RAW_SUFFIX,
    TAIL,
    segment_file,
)
from segstore.log.log import Log
from segstore.testing.memory import Event, MemoryDisk

COUNT = 150
BASE = 50  # of the segment to mend
VALUES = [Random(number).randbytes(500) * 6 for number in range(COUNT)]
KEYS = [b"key %d" % number for number in range(COUNT)]


def config(is_compressed: bool) -> LogConfig:
    return LogConfig.of(
        {
            "background": False,
            "batch_size": "8KiB",
            "segment_size": "1MiB",
            "compression": "lz4" if is_compressed else None,
        },
        environment={},
    )


def filled(is_compressed: bool) -> tuple[MemoryDisk, str, str]:
    """A log of three sealed segments, and the names of the second one's files."""
    disk = MemoryDisk()
    with Log(disk, "a", config(is_compressed)) as log:
        for base in range(0, COUNT, BASE):
            for start in range(base, base + BASE, 10):
                part = slice(start, start + 10)
                log.append_many(VALUES[part], keys=KEYS[part], timestamps=range(COUNT)[part])
            log.roll()
        log.maintain()
    suffixes = (LZ4_SUFFIX, LZ4_INDEX_SUFFIX) if is_compressed else (RAW_SUFFIX, RAW_INDEX_SUFFIX)
    data, index = (segment_file(BASE, suffix) for suffix in suffixes)
    return disk, data, index


def spoil(disk: MemoryDisk, name: str, position: int) -> None:
    file = disk.open(name, write=True)
    file.write([bytes(byte ^ 0xFF for byte in file.read(8, position))], position)
    file.sync()
    file.close()


def readable(log: Log) -> list[int]:
    """The offsets of all that can be read, which is right, in order, by key and by time."""
    found = list(log.read(errors="skip"))
    for record in found:
        offset = record.offset
        assert (record.value, record.key) == (VALUES[offset], KEYS[offset])
    for record in found[:: COUNT // 5]:
        assert log[record.offset] == record
        assert [record] == list(log.find(record.key, errors="skip"))
        assert log.offset_for_time(record.timestamp) == record.offset
    return [record.offset for record in found]


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("is_there", [False, True])
def test_an_index_made_anew_says_what_the_lost_one_said(
    is_compressed: bool, is_there: bool
) -> None:
    disk, _, index = filled(is_compressed)
    before = disk.contents()[index][FILE_HEADER_BYTES:]
    if is_there:
        spoil(disk, index, len(before))
    else:
        disk.unlink(index)
    with Log(disk, "a", config(is_compressed)) as log:
        assert log.repair().indexes == (index,)
        assert disk.contents()[index][FILE_HEADER_BYTES:] == before
        assert readable(log) == list(range(COUNT))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_what_is_set_aside_are_the_bytes_of_the_lost_records(is_compressed: bool) -> None:
    disk, data, _ = filled(is_compressed)
    spoil(disk, data, (disk.size_of(data) or 0) // 2)
    before = disk.contents()[data]
    with Log(disk, "a", config(is_compressed)) as log:
        report = log.repair()
        left = readable(log)
    (name,) = (path.rpartition("/")[2] for path in report.set_aside)
    kept = disk.contents()[name]
    position = int(name.removeprefix(data).split(".")[1])
    assert before[position:].startswith(kept)
    lost = {offset for part in report.lost for offset in part.offsets}
    assert lost == set(range(COUNT)) - set(left)
    magic = kept[:4]  # the next frame, or chunk, begins with it as well
    assert before.find(magic, position + len(magic)) == position + len(kept)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_nobody_sees_a_step_of_it_and_no_power_cut_between_two_costs_a_record(
    is_compressed: bool,
) -> None:
    disk, data, _ = filled(is_compressed)
    spoil(disk, data, (disk.size_of(data) or 0) // 2)
    with (
        Log(disk, "r", config(is_compressed)) as reader,
        Log(disk, "a", config(is_compressed)) as log,
    ):
        left = readable(reader)
        assert 0 < len(left) < COUNT
        random, states = Random(1), [disk.after_kill()]

        def watch(disk: MemoryDisk, event: Event) -> None:
            disk.watch = None
            for handle in (reader, log):
                assert readable(handle) == left
            states.extend(disk.unsynced().sample(random) for _ in range(2))
            disk.watch = watch

        disk.watch = watch
        assert log.repair().lost
        disk.watch = None
        assert readable(reader) == readable(log) == left
    states.extend(disk.unsynced().sample(random) for _ in range(2))
    for state in states:
        with Log(state.after_kill(), "r", config(is_compressed)) as log:
            assert readable(log) == left
        with Log(state, "a", config(is_compressed)) as log:
            assert readable(log) == left
            log.repair()
            assert log.repair() == (False, (), (), ())
            assert readable(log) == left


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("change", [Log.repair, lambda log: log.truncate(COUNT - 10)])
def test_what_a_seal_alone_vouched_for_is_not_torn_once_it_is_gone(
    is_compressed: bool, change: Callable[[Log], object]
) -> None:
    """The tail was lost, and nothing has been appended since."""
    disk, _, _ = filled(is_compressed)
    data = segment_file(COUNT - BASE, LZ4_SUFFIX if is_compressed else RAW_SUFFIX)
    spoil(disk, data, (disk.size_of(data) or 0) // 2)
    disk.unlink(TAIL)
    disk.sync_directory()
    random, states = Random(1), []

    def watch(disk: MemoryDisk, _: Event) -> None:
        states.extend([disk.after_kill(), disk.unsynced().sample(random)])

    with Log(disk, "a", config(is_compressed)) as log:
        before = readable(log)
        assert before[-1] == COUNT - 1
        disk.watch = watch
        change(log)
        states.append(disk.after_kill())
        disk.watch = None
        end_offset = log.end_offset
        after = [offset for offset in before if offset < end_offset]
        assert readable(log) == after
    for state in states:
        for mode in ("r", "a"):
            with Log(state, mode, config(is_compressed)) as log:
                assert log.end_offset in (COUNT, end_offset)
                assert readable(log) == (before if log.end_offset == COUNT else after)


@pytest.mark.parametrize("is_one_chunk", [False, True])
def test_a_first_chunk_of_which_no_index_tells_is_lost_alone_and_set_aside(
    is_one_chunk: bool,
) -> None:
    disk, data, index = filled(True)
    spoil(disk, data, 0)
    disk.unlink(index)
    if is_one_chunk:
        file = disk.open(data, write=True)
        file.truncate(file.read(1 << 20, 0).find(LZ4_MAGIC))
        file.close()
    with Log(disk, "a", config(True)) as log:
        left = readable(log)
        (lost,) = log.verify().lost
        assert set(left) == set(range(COUNT)) - set(lost.offsets)
        assert len(lost.offsets) == (BASE if is_one_chunk else 5)
        report = log.repair()
        assert [part.offsets for part in report.lost] == [lost.offsets]
        assert len(report.set_aside) == 1
        assert log.repair() == (False, (), (), ())
        assert readable(log) == left
