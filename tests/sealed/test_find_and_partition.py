"""Finding by key, and spreading keys."""

from __future__ import annotations

import os
from collections import Counter
from typing import Literal

import pytest

import segstore
from segstore import partition_for

from .records import append_mix
from .steps import StepDisk, open_on


@pytest.mark.parametrize("filters", ["present", "absent", "compressed"])
def test_find_gives_what_a_list_gives(path: str, filters: str) -> None:
    options = {"segment_size": "8KiB", "batch_size": 1024, "background": False}
    with segstore.open(path, **options) as log:
        records = append_mix(log, 800)
        if filters == "compressed":
            log.compress()
    if filters == "absent":
        for name in os.listdir(path):
            if name.endswith(".index"):
                os.unlink(os.path.join(path, name))
    for mode in ("r", "a"):
        with segstore.open(path, mode, **options) as log:
            for key in {r.key for r in records if r.key is not None} | {b"absent"}:
                expected = [r for r in records if r.key == key]
                assert list(log.find(key)) == expected
                assert list(log.find(key, 100, 500)) == [r for r in expected if 99 < r.offset < 500]


def test_a_segment_has_the_keys_and_times_of_before_an_opening_too(path: str) -> None:
    """The opening takes them over from its index, as it was synced, and reads none of them."""
    options = {"background": False, "compression": None, "index_interval": 64}
    with segstore.open(path, **options) as log:
        for n in range(9):
            log.append_many([b"before"] * 5, keys=[b"k%d" % n] * 5, timestamps=[100 + n] * 5)
            log.sync()
    with segstore.open(path, **options) as log:
        log.append(b"after", timestamp=200)
        log.roll()
        log.maintain()
        (segment,) = log.segments()[:-1]
        assert (segment.state, segment.min_timestamp, segment.max_timestamp) == ("sealed", 100, 200)
        assert [record.offset for record in log.find(b"k3")] == list(range(15, 20))
        assert log.offset_for_time(104) == 20


@pytest.mark.timeout(20)
def test_a_filter_says_nothing_of_what_follows_its_segment(path: str) -> None:
    """The file behind it is gone, and so it is the last that is known."""
    with segstore.open(path, background=False, compression=None, batch_size=1024) as log:
        log.append_many([b"v"] * 10, keys=[b"a"] * 10)
        log.roll()
        log.append_many([b"w" * 1000] * 10, keys=[b"b"] * 10)
        log.sync()
        log.append(b"staged", key=b"b")
        last = log.segments()[-1].path
        os.unlink(last)
        os.unlink(last.replace(".log", ".index"))
        with segstore.open(path, "r") as reader:
            assert [record.offset for record in reader.find(b"b", errors="skip")] == [20]
            with pytest.raises(segstore.CorruptionError) as caught:
                list(reader.find(b"b"))
            assert caught.value.offsets == range(10, 20)


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_filter_says_nothing_of_a_segment_that_is_missing_behind_its_own(
    path: str, mode: Literal["a", "r"]
) -> None:
    with segstore.open(path, background=False, compression=None) as log:
        for key in (b"a", b"b", b"c"):
            log.append_many([bytes(5000)] * 10, keys=[key] * 10)
            log.roll()
        gone = log.segments()[1].path
    os.unlink(gone)
    os.unlink(gone.replace(".log", ".index"))
    with segstore.open(path, mode, background=False) as log:
        assert [record.offset for record in log.find(b"c", errors="skip")] == list(range(20, 30))
        assert log.stats().damaged_records == 10
        for key in (b"b", b"c"):
            with pytest.raises(segstore.CorruptionError) as caught:
                list(log.find(key))
            assert caught.value.offsets == range(10, 20)


@pytest.mark.parametrize("compressed", [False, True])
def test_only_segments_that_may_hold_the_key_are_opened(path: str, compressed: bool) -> None:
    disk = StepDisk(path, create=True)
    log = open_on(disk, segment_size="8KiB", batch_size=1024)
    for segment in range(30):
        log.append_many([b"v" * 20] * 40, keys=[b"k%d-%d" % (segment, n) for n in range(40)])
        log.roll()
    if compressed:
        log.compress()
    disk.opened.clear()
    assert [r.offset for r in log.find(b"k17-3")] == [17 * 40 + 3]
    data = [n for n in disk.opened if ".log" in n]
    assert len(data) <= 3
    disk.opened.clear()
    assert list(log.find(b"nowhere")) == []
    assert len([n for n in disk.opened if ".log" in n]) <= 3
    log.close()


def test_a_look_for_a_time_reads_little_of_one_segment(path: str) -> None:
    disk = StepDisk(path, create=True)
    with open_on(disk, segment_size="4MiB", compression=None) as log:
        for segment in range(3):
            times = range(3000 * segment, 3000 * (segment + 1))
            log.append_many([bytes(1000)] * 3000, timestamps=times)
            log.roll()
        log.maintain()
        disk.opened.clear()
        disk.reads.clear()
        assert log.offset_for_time(5900) == 5900
        name = f"{3000:020}.log"
        assert [opened for opened in disk.opened if opened.endswith(".log")] == [name]
        assert disk.reads[name] == 1


def test_partitions_are_stable_and_even() -> None:
    assert [partition_for(b"key%d" % n, 16) for n in range(12)] == GOLDEN
    counts = Counter(partition_for(b"user-%d" % n, 10) for n in range(20_000))
    assert len(counts) == 10
    assert max(counts.values()) < 1.15 * min(counts.values())
    assert partition_for(memoryview(b"key0"), 16) == GOLDEN[0]
    with pytest.raises(ValueError, match="at least one"):
        partition_for(b"x", 0)
    with pytest.raises(TypeError, match="not str"):
        partition_for("x", 4)  # type: ignore[arg-type]
    for wrong in (5, [1, 2], None):  # of which bytes() would make something
        with pytest.raises(TypeError, match="a key is bytes"):
            partition_for(wrong, 4)  # type: ignore[arg-type]
    for count in (4.0, True):
        with pytest.raises(TypeError, match="is an int"):
            partition_for(b"x", count)  # type: ignore[arg-type]


# Do not change: callers rely on a key staying where it is.
GOLDEN = [13, 13, 1, 1, 2, 8, 15, 15, 3, 11, 3, 0]
