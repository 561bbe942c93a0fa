"""Damage to values costs the records of a block, wherever they are read from, and no more."""

import os

import pytest

import segstore
from segstore.format.names import segment_file
from tests.directories import copy_as_a_crash_leaves_it

OPTIONS = {"background": False, "compression": None}
VALUES = [b"value %05d " % number * 10 for number in range(400)]
KEYS = [b"key %d" % number for number in range(400)]
FIRST = segment_file(0, ".log")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "log")


def fill(log):
    log.append_many(VALUES, keys=KEYS, timestamps=range(1000, 1400))


def flip(path: str, *numbers: int) -> None:
    """Hurt a byte of each of these values in the first segment."""
    with open(os.path.join(path, FIRST), "r+b") as file:
        data = file.read()
        for number in numbers:
            at = data.index(VALUES[number])
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))


def lost_in(report) -> set[int]:
    return {offset for lost in report for offset in lost.offsets}


def check(log, hit):
    """Hold that only records around those that were hit are lost; their offsets."""
    found = {record.offset: record for record in log.read(errors="skip")}
    lost = set(range(log.end_offset)) - found.keys()
    assert set(hit) <= lost
    assert len(lost) <= 45 * len(hit)  # 4 KiB hold some 40 of them
    for offset, record in found.items():
        if offset < 400:
            assert (record.key, record.value) == (KEYS[offset], VALUES[offset])
            assert record.timestamp == 1000 + offset
            assert log[offset] == record
            assert next(log.find(KEYS[offset], errors="skip")) == record
    for offset in sorted(lost):
        with pytest.raises(segstore.CorruptionError) as caught:
            log[offset]
        assert offset in caught.value.offsets
        assert set(caught.value.offsets) <= lost
        assert not list(log.find(KEYS[offset], errors="skip"))
    assert [record.offset for record in log.read(errors="skip")] == sorted(found)
    report = log.verify()
    assert lost_in(report.lost) == lost
    assert report.record_count == len(found)
    return lost


@pytest.mark.parametrize("hit", [(0,), (200,), (399,), (5, 200, 210, 395)])
@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("mode", ["a", "r"])
def test_only_the_blocks_that_were_hit_are_lost(path, hit, is_sealed, mode):
    with segstore.open(path, **OPTIONS) as log:
        fill(log)
        if is_sealed:
            log.roll()
        log.append(b"next", timestamp=2000)
    flip(path, *hit)
    with segstore.open(path, mode, **({} if mode == "r" else OPTIONS)) as log:
        lost = check(log, hit)
        assert log[400].value == b"next"
        error_at = 0
        seen = []
        while error_at < 401:
            try:
                for record in log.read(error_at):
                    seen.append(record.offset)
                break
            except segstore.CorruptionError as error:
                error_at = error.offsets.stop
        assert seen == [offset for offset in range(401) if offset not in lost]
        for offset in range(400):
            found = log.offset_for_time(1000 + offset)
            assert found == next(o for o in range(offset, 401) if o not in lost)


@pytest.mark.parametrize("hit", [(0,), (200,), (399,), (5, 200, 395)])
def test_repair_keeps_what_can_be_read(path, hit):
    with segstore.open(path, **OPTIONS) as log:
        fill(log)
        log.roll()
        log.append(b"next")
        log.maintain()
        flip(path, *hit)
        lost = check(log, hit)
        assert lost_in(log.repair(dry_run=True).lost) == lost
        report = log.repair()
        assert lost_in(report.lost) == lost
        assert report.set_aside
        assert check(log, hit) == lost
        assert log.compress()
        assert check(log, hit) == lost
    with segstore.open(path, **OPTIONS) as log:
        assert check(log, hit) == lost


@pytest.mark.parametrize("end_offset", [150, 201, 300])
def test_truncation_keeps_what_can_be_read_below_it(path, end_offset):
    with segstore.open(path, **OPTIONS) as log:
        fill(log)
        log.roll()
        log.append(b"next")
    flip(path, 100, 200)
    with segstore.open(path, **OPTIONS) as log:
        before = check(log, (100, 200))
    with segstore.open(path, **OPTIONS) as log:
        log.truncate(end_offset - 1)
        found = {record.offset for record in log.read(errors="skip")}
        assert found == set(range(end_offset)) - before
        assert all(log[offset].value == VALUES[offset] for offset in found)
        assert log.append(b"again") == log.end_offset - 1


@pytest.mark.parametrize("hit", [(200,), (399,)])
@pytest.mark.parametrize("has_more", [True, False])
def test_recovery_reports_what_is_lost_and_keeps_the_rest(path, tmp_path, hit, has_more):
    with segstore.open(path, **OPTIONS) as log:
        fill(log)
        log.sync()
        if has_more:
            log.append_many([b"x" * 30] * 10)
            log.sync()
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    with open(os.path.join(copy, "tail"), "r+b") as tail:  # drained, and no help from it
        tail.seek(4096)
        tail.write(bytes(os.path.getsize(tail.name) - 4096))
    flip(copy, *hit)
    os.unlink(os.path.join(copy, segment_file(0, ".index")))
    for _ in range(2):
        with segstore.open(copy, **OPTIONS) as log:
            lost = check(log, hit)
            assert log.end_offset >= 400
            assert log.recovery.was_clean or lost_in(log.recovery.lost) == lost
    with segstore.open(copy, **OPTIONS) as log:
        assert log.append(b"more") == log.end_offset - 1
        log.roll()
        assert lost_in(log.repair().lost) == lost
        assert check(log, hit) == lost


def test_a_chunk_that_still_decodes_loses_what_came_out_wrong(path):
    with segstore.open(path, **OPTIONS) as log:
        fill(log)
        log.roll()
        log.append(b"next")
        assert log.compress()
    name = os.path.join(path, segment_file(0, ".log.lz4"))
    with open(name, "rb") as file:
        data = file.read()
    counts = []
    for at in range(100, len(data), len(data) // 60):
        with open(name, "wb") as file:
            file.write(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with segstore.open(path, "r") as log:
            found = {record.offset: record.value for record in log.read(0, 400, errors="skip")}
            assert all(VALUES[offset] == value for offset, value in found.items())
            assert lost_in(log.verify().lost) == set(range(400)) - found.keys()
            counts.append(len(found))
    assert any(0 < count < 400 for count in counts)


def test_a_torn_frame_goes_as_a_whole(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(VALUES)
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    flip(copy, 200)
    with segstore.open(copy, **OPTIONS) as log:
        assert log.end_offset == 0
        (cut,) = log.recovery.cut
        assert cut.size_bytes > 4096
        assert not log.recovery.lost
