"""Cutting the head and the tail: one of the two states, whenever it is interrupted."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import segstore
from segstore import Log, OffsetOutOfRangeError, Record

from .records import append_mix, assert_equal
from .steps import StepDisk, dying_at, open_on, temporary_names

SMALL = {"segment_size": "16KiB", "batch_size": "4KiB", "index_interval": 512}


def open_log(path: str, **options: Any) -> Log:
    return segstore.open(path, background=False, **{**SMALL, **options})


@pytest.fixture(params=["plain", "compressed"])
def filled(request: pytest.FixtureRequest, path: str) -> tuple[str, list[Record]]:
    """A log of several segments with records still in the tail, left as a crash leaves it."""
    log = open_log(path)
    records = append_mix(log, 600)
    if request.param == "compressed":
        log.compress()
    records += append_mix(log, 30, 1)
    log.append(b"staged", timestamp=5)
    log.append(b"staged with a key", key=b"key1", timestamp=6)
    records += [
        Record(len(records), 5, None, b"staged"),
        Record(len(records) + 1, 6, b"key1", b"staged with a key"),
    ]
    copy = path + "-left"
    shutil.copytree(path, copy)
    log.close()
    return copy, records


def cuts_of(path: str, records: list[Record]) -> list[int]:
    """Offsets at the start of, inside and at the end of segments, and in the tail."""
    bases = sorted({int(n[:20]) for n in os.listdir(path) if n[:4] == "0000"})
    end = len(records)
    cuts = {0, 1, bases[1], bases[1] + 1, bases[2] - 1, bases[-1], bases[-1] + 3, end - 1, end}
    cuts |= {bases[1] + (bases[2] - bases[1]) // 2 + n for n in range(3)}
    return sorted(cuts)


def test_trim_to_no_offset_is_refused(path: str) -> None:
    """As of a time that every record is older than."""
    with segstore.open(path, background=False) as log:
        log.append(b"x", timestamp=5)
        with pytest.raises(TypeError, match="an offset is an int"):
            log.trim(log.offset_for_time(6))  # type: ignore[arg-type]
        assert log.start_offset == 0


def test_trim_removes_everything_before_an_offset(
    filled: tuple[str, list[Record]], tmp_path: Path
) -> None:
    source, records = filled
    for cut in cuts_of(source, records):
        path = str(tmp_path / f"cut{cut}")
        shutil.copytree(source, path)
        reader = segstore.open(path, "r")
        with open_log(path) as log:
            log.trim(cut)
            assert log.start_offset == cut
            assert_equal(log, records[cut:])
            assert_equal(reader, records[cut:])
            with pytest.raises(OffsetOutOfRangeError):
                log.trim(cut - 1)
            with pytest.raises(OffsetOutOfRangeError):
                log.trim(len(records) + 1)
            if cut:
                with pytest.raises(OffsetOutOfRangeError):
                    log[cut - 1]
            log.trim(cut)
        with open_log(path) as log:
            assert log.start_offset == cut
            assert_equal(log, records[cut:])
            assert log.append(b"next") == len(records)
        shutil.rmtree(path)


def test_truncate_removes_everything_after_an_offset(
    filled: tuple[str, list[Record]], tmp_path: Path
) -> None:
    source, records = filled
    for cut in cuts_of(source, records):
        path = str(tmp_path / f"cut{cut}")
        shutil.copytree(source, path)
        reader = segstore.open(path, "r")
        assert_equal(reader, records)
        with open_log(path) as log:
            assert_equal(log, records)
            log.truncate(cut - 1)
            kept = records[:cut]
            assert log.end_offset == cut
            assert_equal(log, kept, cut)
            assert_equal(reader, kept, cut)
            with pytest.raises(OffsetOutOfRangeError):
                log.truncate(cut)
            # The same offsets again: nobody may see what they held before.
            kept = kept + append_mix(log, 150, 77 + cut)
            assert_equal(log, kept, cut)
            assert_equal(reader, kept, cut)
            log.roll()
            log.compress()
            assert_equal(log, kept, cut)
            assert_equal(reader, kept, cut)
            assert log.verify().is_intact
        with open_log(path) as log:
            assert log.recovery.was_clean, log.recovery
            assert_equal(log, kept, cut)
        assert_equal(reader, kept, cut)
        shutil.rmtree(path)


def test_truncate_below_the_start_empties_a_trimmed_log(path: str) -> None:
    with open_log(path) as log:
        append_mix(log, 400)
        log.trim(123)
        with pytest.raises(OffsetOutOfRangeError):
            log.truncate(121)
        log.truncate(122)
        assert len(log) == 0
        assert list(log) == []
        assert log.append(b"again") == 123
    with open_log(path) as log:
        assert [r.value for r in log] == [b"again"]
        assert log.start_offset == 123


def test_truncate_again_and_again(path: str) -> None:
    reader = None
    with open_log(path) as log:
        kept: list[Record] = []
        for number in range(30):
            kept = kept + append_mix(log, 100, number)
            if reader is None:
                reader = segstore.open(path, "r")
            if number % 4 == 0:
                log.compress()
            cut = len(kept) - (number * 37) % 140
            cut = max(0, min(len(kept), cut))
            log.truncate(cut - 1)
            kept = kept[:cut]
            assert_equal(log, kept, number)
            assert_equal(reader, kept, number)


def test_a_segment_that_was_refused_is_compressed_once_it_was_cut_and_written_anew(
    path: str,
) -> None:
    with open_log(path) as log:
        append_mix(log, 300)
        log._writer.seal_rolled()  # type: ignore[union-attr]
        victim = log.segments()[0]
        data = bytearray(Path(victim.path).read_bytes())
        data[-100] ^= 1
        Path(victim.path).write_bytes(data)
        log.compress()
        assert log.segments()[0].state == "sealed"
        log.truncate(-1)
        records = append_mix(log, 300)
        log.compress()
        assert log.segments()[0].state == "compressed"
        assert_equal(log, records)


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("what", ["trim", "truncate"])
def test_interrupted_at_every_step_it_is_one_of_the_two_states(
    filled: tuple[str, list[Record]], tmp_path: Path, what: str, dies: bool
) -> None:
    source, records = filled
    bases = sorted({int(n[:20]) for n in os.listdir(source) if n[:4] == "0000"})
    middle = bases[3] + 2 if what == "trim" else bases[1] + 2
    after = records[middle:] if what == "trim" else records[:middle]
    k = 0
    states = set()
    while True:
        k += 1
        here = str(tmp_path / f"at{k}")
        shutil.copytree(source, here)
        disk = StepDisk(here)
        log = open_on(disk, **SMALL)
        reader = segstore.open(here, "r")
        assert len(list(reader)) == len(records)
        with dying_at(disk, k, dies=dies) as stopped:
            log.trim(middle) if what == "trim" else log.truncate(middle - 1)
        disk.stop_at = None
        copy = here + "-copy"
        shutil.copytree(here, copy)
        seen = list(segstore.open(copy, "r"))
        assert seen in (records, after), k
        again = open_log(copy)
        found = list(again)
        assert found in (records, after), k
        assert found == seen, k
        states.add(len(found))
        assert_equal(again, found, k)
        assert temporary_names(copy) == []
        assert "truncate" not in os.listdir(copy)
        more = append_mix(again, 20, k)
        again.close()
        with open_log(copy) as again:
            assert again.recovery.was_clean, (k, again.recovery)
            assert_equal(again, found + more, k)
        if not dies:
            # The handle goes on, in one of the two states, or refuses and says what to do.
            try:
                log.append(b"after", timestamp=1)
                now = list(log)
                assert [r.value for r in now[:-1]] in (
                    [r.value for r in records],
                    [r.value for r in after],
                ), k
            except segstore.StorageError as error:
                assert "open it again" in str(error)  # noqa: PT017
            with suppress(segstore.StorageError):
                log.close()
        shutil.rmtree(copy)
        reader.close()
        if not stopped[0]:
            break
    assert states == {len(records), len(after)}
    assert k > 8


def test_a_reader_that_holds_old_records_in_its_cache_sees_the_new_ones(path: str) -> None:
    with open_log(path) as log:
        log.append_many([b"old %d" % n for n in range(2000)])
        log.roll()
        log.compress()
        readers = [log, segstore.open(path, "r"), segstore.open(path, "r")]
        for reader in readers:
            assert [reader[n].value for n in range(0, 2000, 7)]
            assert len(list(reader.values())) == 2000
        log.truncate(99)
        log.append_many([b"new %d" % n for n in range(100, 2000)])
        log.roll()
        for reader in readers:
            assert reader[99].value == b"old 99"
            assert [reader[n].value for n in range(100, 2000, 7)] == [
                b"new %d" % n for n in range(100, 2000, 7)
            ]
            assert list(reader.values(100)) == [b"new %d" % n for n in range(100, 2000)]
        log.compress()
        for reader in readers:
            assert list(reader.values(100)) == [b"new %d" % n for n in range(100, 2000)]


def test_times_are_looked_up_right_after_a_cut(path: str) -> None:
    with open_log(path) as log:
        log.append_many([b"v" * 100] * 900, timestamps=[10**9 + n for n in range(900)])
        log.roll()
        reader = segstore.open(path, "r")
        assert reader.offset_for_time(10**9 + 800) == 800
        log.truncate(499)
        log.append_many([b"w" * 100] * 900, timestamps=list(range(900)))
        log.roll()
        for handle in (log, reader):
            assert handle.offset_for_time(10**9 + 800) is None
            assert handle.offset_for_time(10**9 + 400) == 400
            assert handle.offset_for_time(0) == 0


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_reading_on_behind_a_truncation_is_out_of_range(path: str, mode: Any, errors: Any) -> None:
    with open_log(path) as log:
        records = append_mix(log, 600)
        log.sync()
        with segstore.open(path, "r") as other:
            reader, at = other if mode == "r" else log, 300
            reads = [reader.read(errors=errors), reader.batches(errors=errors)]
            assert [next(reads[0]) for _ in range(3)] == records[:3]
            next(reads[1])
            log.truncate(at)
            for read in reads:
                with pytest.raises(OffsetOutOfRangeError) as caught:
                    for _ in read:
                        pass
                assert caught.value.end == at + 1 <= caught.value.offset
            assert list(reader.read()) == records[: at + 1]
