"""What opening does after a crash and after damage, through the public API."""

import os
import shutil
from random import Random

import pytest

import segstore
from segstore import CorruptionError, Log
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.format.checkpoint import CHECKPOINT_BYTES
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_SEGMENT,
    decode_file_header,
    encode_file_header,
)
from segstore.format.frame import encode_frame
from segstore.format.index import (
    ENTRIES_POSITION,
    ENTRY_BYTES,
    decode_stamp,
    encode_stamp,
)
from segstore.format.names import segment_file
from segstore.format.scanner import Frame
from segstore.segment.reader import SegmentReader
from segstore.testing.memory import MemoryDisk
from tests.directories import (
    contents,
    copy_as_a_crash_leaves_it,
    flip,
    names_ending,
    overwrite,
)

OPTIONS = {"background": False, "compression": None, "batch_size": 1000}
FIRST = segment_file(0, ".log")


def frames(path, base_offset=0):
    """(position, size, base offset, end offset) of each frame of a segment."""
    disk = OsDisk(path)
    try:
        reader = SegmentReader(disk, base_offset, None, is_compressed=False, stamp=None)
        return [
            (event.position, event.size_bytes, event.batch.base_offset, event.batch.end_offset)
            for event in reader.events_unindexed()
            if isinstance(event, Frame)
        ]
    finally:
        disk.close()


def batch(count, start=0):
    return [b"value %05d " % number * 9 for number in range(start, start + count)]


def make(path, count=60, *, durable=True, **options):
    """A log of one segment with several frames, closed; no record of it is in the tail only."""
    with segstore.open(path, **{**OPTIONS, **options}) as log:
        for start in range(0, count, 20):
            log.append_many(batch(20, start))
            if durable:
                log.sync()
    return batch(count)


def void_the_tail(path):
    """As after a power cut: what was never synced of the tail is gone, its registers are old."""
    os.unlink(os.path.join(path, "tail"))


def opened_twice_changes_nothing(path, **options):
    with segstore.open(path, **{**OPTIONS, **options}) as log:
        first = list(log.values(errors="skip"))
        end_offset = log.end_offset
    before = contents(path)
    with segstore.open(path, **{**OPTIONS, **options}) as log:
        assert list(log.values(errors="skip")) == first
        assert log.end_offset == end_offset
        assert log.recovery.cut == ()
        assert log.recovery.removed == ()
    assert contents(path) == before


def test_a_clean_close_leaves_nothing_to_do(path):
    expected = make(path)
    with segstore.open(path, **OPTIONS) as log:
        assert log.recovery.was_clean
        assert log.recovery.lost == log.recovery.cut == log.recovery.removed == ()
        assert list(log.values()) == expected
    opened_twice_changes_nothing(path)


def test_a_new_log_has_nothing_to_report(path):
    with segstore.open(path, **OPTIONS) as log:
        assert log.recovery == segstore.RecoveryReport()


def test_opening_after_a_clean_close_costs_the_same_however_long_the_log_is(path, tmp_path):
    costs = []
    for count in (2_000, 100_000):
        log_path = str(tmp_path / str(count))
        with segstore.open(log_path, compression=None, background=False) as log:
            for _ in range(count // 1000):
                log.append_many(batch(1000))
        with segstore.open(log_path, compression=None, background=False) as log:
            assert log.recovery.was_clean
            costs.append(log.recovery.scanned_bytes)
    assert max(costs) <= 2 * 64 * 1024 + 4096


def test_records_in_the_tail_survive_the_process(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        expected = [b"plain", b"", b"keyed", b"late"]
        log.append(b"plain")
        log.append(b"")
        log.append(b"keyed", key=b"k", timestamp=5)
        log.append_many([b"late"], keys=[b""], timestamps=[-1])
        records = list(log)
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    with segstore.open(copy, **OPTIONS) as log:
        assert log.recovery.from_tail == 4
        assert not log.recovery.was_clean
        assert list(log) == records
        assert [r.value for r in records] == expected
    opened_twice_changes_nothing(copy)


def test_a_reader_sees_the_tail_of_a_dead_writer_and_changes_nothing(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(batch(30))
        log.append(b"staged", key=b"k")
        records = list(log)
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    before = contents(copy, without=())
    with segstore.open(copy, "r") as log:
        assert list(log) == records
        assert log.recovery.from_tail == 1
    assert contents(copy, without=()) == before


@pytest.mark.parametrize("kept", [1, 8, 63, 64, 65, 200])
def test_a_half_written_frame_at_the_end_is_set_aside_and_cut(path, kept):
    expected = make(path, durable=False)
    void_the_tail(path)
    position, size, base_offset, _ = frames(path)[-1]
    name = os.path.join(path, FIRST)
    with open(name, "rb") as file:
        torn = file.read()[position : position + min(kept, size - 1)]
    os.truncate(name, position + len(torn))
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == expected[:base_offset]
        assert log.end_offset == base_offset
        assert len(log.recovery.cut) == 1
        cut = log.recovery.cut[0]
        assert (cut.path, cut.position, cut.size_bytes) == (name, position, len(torn))
        with open(cut.set_aside, "rb") as file:
            assert file.read() == torn
        assert log.append(b"next") == base_offset
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == [*expected[:base_offset], b"next"]
        assert log.recovery.was_clean
    opened_twice_changes_nothing(path)


def test_a_torn_frame_is_restored_from_the_tail_that_still_has_its_records(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(batch(30))
        log.sync()
        for value in batch(10, 30):
            log.append(value)
        records = list(log)
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
        log.sync()  # now they are in the segment; half of that write is what the crash left
        with open(os.path.join(path, FIRST), "rb") as file:
            drained = file.read()
    size = os.path.getsize(os.path.join(copy, FIRST))
    overwrite(copy, FIRST, size, drained[size : size + (len(drained) - size) // 2])
    with segstore.open(copy, **OPTIONS) as log:
        assert list(log) == records
        assert log.recovery.from_tail > 0
    opened_twice_changes_nothing(copy)


def test_damage_in_the_middle_is_kept_reported_and_read_around(path):
    expected = make(path)
    spots = frames(path)
    position, _, start, stop = spots[len(spots) // 2]
    flip(path, FIRST, position + 70)
    damaged = contents(path)[FIRST]
    with segstore.open(path, **OPTIONS) as log:
        assert log.end_offset == len(expected)
        assert list(log.values(errors="skip")) == expected[:start] + expected[stop:]
        assert log.stats().damaged_records == stop - start
        with pytest.raises(CorruptionError) as caught:
            list(log.read())
        error = caught.value
        assert error.offsets == range(start, stop)
        assert error.position == position
        assert error.path == os.path.join(path, FIRST)
        assert "checksum" in error.reason
        assert list(log.values(error.offsets.stop)) == expected[stop:]
        assert list(log.values(0, start)) == expected[:start]
        for offset in range(len(expected)):
            if start <= offset < stop:
                with pytest.raises(CorruptionError):
                    log[offset]
            else:
                assert log[offset].value == expected[offset]
        report = log.verify()
        assert [lost.offsets for lost in report.lost] == [range(start, stop)]
        assert report.record_count == len(expected) - (stop - start)
        assert not report.is_intact
    assert contents(path)[FIRST] == damaged


def test_damage_found_at_opening_is_in_the_recovery_report(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(batch(20))
        log.sync()
        log.append_many(batch(100, 20))
        log.maintain()
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    position, _, start, stop = frames(copy)[1]
    flip(copy, FIRST, position + 100)
    os.unlink(os.path.join(copy, segment_file(0, ".index")))
    with segstore.open(copy, **OPTIONS) as log:
        assert [lost.offsets for lost in log.recovery.lost] == [range(start, stop)]
        assert log.recovery.cut == ()
        assert log.end_offset == 120
    opened_twice_changes_nothing(copy)


def without_records_in_the_tail(path):
    """Drained frames stay in the tail till it is used again; here they are gone."""
    with open(os.path.join(path, "tail"), "r+b") as file:
        file.seek(4096)
        file.write(bytes(os.path.getsize(file.name) - 4096))


@pytest.mark.parametrize("how", ["flip", "cut inside", "cut before", "zero"])
@pytest.mark.parametrize("is_reader_first", [False, True])
def test_lost_durable_records_at_the_end_never_give_their_offsets_away(path, how, is_reader_first):
    expected = make(path)
    without_records_in_the_tail(path)
    position, size, start, stop = frames(path)[-1]
    name = os.path.join(path, FIRST)
    if how == "flip":
        flip(path, FIRST, position + size - 20)
    elif how == "zero":
        overwrite(path, FIRST, position, bytes(size))
    else:
        os.truncate(name, position + (size // 2 if how == "cut inside" else 0))
    damaged = contents(path)[FIRST]
    if is_reader_first:
        with segstore.open(path, "r") as log:
            assert log.end_offset == stop
            assert [lost.offsets for lost in log.recovery.lost] == [range(start, stop)]
            assert list(log.values(errors="skip")) == expected[:start]
    with segstore.open(path, **OPTIONS) as log:
        assert log.recovery.cut == ()
        assert [lost.offsets for lost in log.recovery.lost] == [range(start, stop)]
        assert not log.recovery.was_clean
        assert log.end_offset == stop
        assert log.append(b"next") == stop
        assert log.segments()[-1].base_offset == stop
        assert list(log.values(errors="skip")) == [*expected[:start], b"next"]
        with pytest.raises(CorruptionError) as caught:
            list(log.read(start))
        assert caught.value.offsets == range(start, stop)
    assert contents(path)[FIRST] == damaged
    opened_twice_changes_nothing(path)
    with segstore.open(path, **OPTIONS) as log:
        assert log.recovery.was_clean
        assert [lost.offsets for lost in log.verify().lost] == [range(start, stop)]


@pytest.mark.parametrize("how", ["empty", "zeros", "header only", "gone"])
def test_a_durable_segment_that_lost_everything_keeps_its_offsets(path, how):
    expected = make(path)
    without_records_in_the_tail(path)
    name = os.path.join(path, FIRST)
    if how == "gone":
        os.unlink(name)
    elif how == "zeros":
        overwrite(path, FIRST, 0, bytes(os.path.getsize(name)))
    else:
        os.truncate(name, 0 if how == "empty" else FILE_HEADER_BYTES)
    with segstore.open(path, **OPTIONS) as log:
        assert log.end_offset == len(expected)
        assert [lost.offsets for lost in log.recovery.lost] == [range(len(expected))]
        assert log.append(b"next") == len(expected)
        assert list(log.values(errors="skip")) == [b"next"]
    opened_twice_changes_nothing(path)


@pytest.mark.parametrize("has_tail", [True, False])
def test_a_damaged_file_header_costs_no_record(path, has_tail):
    expected = make(path)
    if not has_tail:
        void_the_tail(path)
    for position in (0, 9, 30):
        flip(path, FIRST, position)
    with segstore.open(path, "r") as log:
        assert list(log.values()) == expected
        assert any("header" in note for note in log.verify().notes)
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == expected
        assert log.append(b"next") == len(expected)
        assert log.verify().notes == ()  # there was nothing else in it, and it was written anew
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == [*expected, b"next"]
    with segstore.open(path, "r") as log:
        assert list(log.values()) == [*expected, b"next"]


@pytest.mark.parametrize("wrong", [{"base_offset": 7}, {"log_id": bytes(16)}])
def test_an_intact_file_header_of_another_segment_or_log_is_written_anew(path, wrong):
    expected = make(path)
    header = decode_file_header(contents(path)[FIRST], KIND_SEGMENT)
    overwrite(path, FIRST, 0, encode_file_header(header._replace(**wrong)))
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == expected
    mended = decode_file_header(contents(path)[FIRST], KIND_SEGMENT)
    assert mended._replace(created=header.created) == header


def test_a_segment_of_another_log_holds_none_of_the_records(path, tmp_path):
    make(path)
    without_records_in_the_tail(path)
    make(str(tmp_path / "other"))
    shutil.copy(tmp_path / "other" / FIRST, path)
    with segstore.open(path, **OPTIONS) as log:
        assert [lost.offsets for lost in log.recovery.lost] == [range(60)]
        assert list(log.values(errors="skip")) == []
        assert log.append(b"next") == 60


@pytest.mark.parametrize("intact", ["tail", "start", ".index", ".log", None])
def test_one_header_is_enough_to_know_the_log_and_none_to_read_it(path, intact):
    expected = make(path)
    header = decode_file_header(contents(path)[FIRST], KIND_SEGMENT)
    for name in contents(path):
        if intact is None or not name.endswith(intact):
            overwrite(path, name, 0, bytes(FILE_HEADER_BYTES))
    for mode in ("r", "a", "r"):
        with segstore.open(path, mode) as log:
            assert list(log.values()) == expected
            assert log.recovery.lost == log.recovery.cut == ()
            if mode == "a":
                log.append(b"next")
                expected.append(b"next")
    mended = decode_file_header(contents(path)[FIRST], KIND_SEGMENT)
    assert intact is None or mended.log_id == header.log_id


def test_without_any_header_the_frames_that_are_intact_say_whose_they_are(path):
    expected = make(path)
    position, _, _, stop = frames(path)[0]
    for name in contents(path):
        overwrite(path, name, 0, bytes(FILE_HEADER_BYTES))
    flip(path, FIRST, position + 48)  # the tag of the first frame
    for mode in ("r", "a", "r"):
        with segstore.open(path, mode) as log:
            assert list(log.values(errors="skip")) == expected[stop:]


def test_a_log_of_which_only_compressed_segments_are_left_is_read_and_written_on(path):
    with segstore.open(path, **OPTIONS) as log:
        expected = [bytes(range(100)) * number for number in range(60)]
        log.append_many(expected)
        log.roll()
        log.compress()
    for name in contents(path):
        if not name.endswith(".lz4"):
            os.unlink(os.path.join(path, name))
    for mode in ("r", "a", "r"):
        with segstore.open(path, mode) as log:
            assert list(log.values()) == expected
            assert log.recovery.lost == log.recovery.cut == ()
            if mode == "a":
                assert log.append(b"next") == len(expected)
                expected.append(b"next")


def test_bytes_that_are_no_frame_are_reported_though_no_record_is_lost(path):
    expected = make(path)
    data = contents(path)[FIRST]
    at = frames(path)[0][0]
    overwrite(path, FIRST, at, b"no frame" + data[at:])
    os.unlink(os.path.join(path, segment_file(0, ".index")))
    with segstore.open(path, **OPTIONS) as log:
        assert [(lost.position, lost.offsets) for lost in log.recovery.lost] == [(at, range(0))]
        assert list(log.values(errors="skip")) == expected


def test_a_tail_of_zeros_and_nothing_else_is_a_log_that_was_never_finished(path):
    make(path)
    size = os.path.getsize(os.path.join(path, "tail"))
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    with open(os.path.join(path, "tail"), "wb") as file:
        file.truncate(size)
    with segstore.open(path, **OPTIONS) as log:
        assert log.append(b"first") == 0
    opened_twice_changes_nothing(path)


def test_a_log_without_its_start_offset_starts_with_its_first_segment(path):
    expected = make_segments(path)
    with segstore.open(path, **OPTIONS) as log:
        log.trim(40)
    os.unlink(os.path.join(path, "start"))
    for mode in ("r", "a"):
        with segstore.open(path, mode) as log:
            assert log.start_offset == 40
            assert log.recovery.lost == ()
            assert list(log.values()) == expected[40:]


def test_a_reader_whose_start_offset_was_damaged_has_that_of_the_next_writer(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"x"] * 100)
        log.trim(50)
    with segstore.open(path, "r") as reader:
        assert reader.start_offset == 50
        with open(os.path.join(path, "start"), "r+b") as file:
            file.write(bytes(CHECKPOINT_BYTES))
        assert reader.start_offset == 0
        with segstore.open(path, **OPTIONS) as log:
            log.trim(70)
            assert reader.start_offset == 70


def test_of_a_damaged_frame_only_what_is_not_trimmed_is_lost(path):
    expected = make(path)
    position, _, start, stop = frames(path)[0]
    with segstore.open(path, **OPTIONS) as log:
        log.trim(start + 2)
    flip(path, FIRST, position + 70)
    with segstore.open(path, **OPTIONS) as log:
        assert [lost.offsets for lost in log.recovery.lost] == [range(start + 2, stop)]
        assert list(log.values(errors="skip")) == expected[stop:]


def test_what_later_frames_say_was_durable_is_not_cut_without_the_tail(path):
    expected = make(path)
    void_the_tail(path)
    position, _, start, stop = frames(path)[0]
    flip(path, FIRST, position + 70)
    with segstore.open(path, **OPTIONS) as log:
        assert log.recovery.cut == ()
        assert [lost.offsets for lost in log.recovery.lost] == [range(start, stop)]
        assert list(log.values(errors="skip")) == expected[stop:]


def test_damage_behind_the_recovery_point_is_found_though_the_index_goes_on_behind_it(
    path, tmp_path
):
    with segstore.open(path, index_interval=64, **OPTIONS) as log:
        log.append_many(batch(20))
        log.roll()
        log.append_many(batch(20, 20))
        log.maintain()
        log.append_many(batch(40, 40))
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    without_records_in_the_tail(copy)
    spots = [spot for spot in frames(copy, 20) if spot[2] >= 40]
    assert len(spots) > 2
    position, _, start, _ = spots[1]
    flip(copy, segment_file(20, ".log"), position + 70)
    with segstore.open(copy, **OPTIONS) as log:
        assert log.end_offset == start
        assert list(log.values()) == batch(start)
        assert len(log.recovery.cut) == 1


def test_damage_to_the_first_frame_is_found_after_a_clean_close(path):
    expected = make(path)
    position, _, start, stop = frames(path)[0]
    flip(path, FIRST, position + 70)
    with segstore.open(path, **OPTIONS) as log:
        assert [lost.offsets for lost in log.recovery.lost] == [range(start, stop)]
        assert list(log.values(errors="skip")) == expected[stop:]


def test_an_index_whose_last_entry_lies_costs_no_record(path):
    expected = make(path, index_interval=64)
    without_records_in_the_tail(path)
    name = segment_file(0, ".index")
    spots = frames(path)  # with an entry each
    position = spots[-1][0]
    at = contents(path)[name].index(position.to_bytes(4, "little"), ENTRIES_POSITION)
    assert at == ENTRIES_POSITION + ENTRY_BYTES * (len(spots) - 1)
    overwrite(path, name, at, (position + 8).to_bytes(4, "little"))
    for mode in ("r", "a"):
        with segstore.open(path, mode) as log:
            assert log.recovery.lost == ()
            assert list(log.values()) == expected


def make_segments(path, **options):
    with segstore.open(path, **{**OPTIONS, **options}) as log:
        for start in range(0, 60, 20):
            log.append_many(batch(20, start))
            log.roll()
        log.append_many(batch(20, 60))
    return batch(80)


def test_a_segment_missing_in_the_middle_is_named_and_read_around(path):
    expected = make_segments(path)
    os.unlink(os.path.join(path, segment_file(20, ".log")))
    with segstore.open(path, **OPTIONS) as log:
        assert [lost.offsets for lost in log.recovery.lost] == [range(20, 40)]
        assert list(log.values(errors="skip")) == expected[:20] + expected[40:]
        with pytest.raises(CorruptionError) as caught:
            list(log.read())
        assert caught.value.offsets == range(20, 40)
        assert list(log.values(40)) == expected[40:]
        assert [lost.offsets for lost in log.verify().lost] == [range(20, 40)]
        assert log.offset_for_time(0) == 0
        assert log.append(b"next") == 80
    opened_twice_changes_nothing(path)


def test_the_segment_before_the_active_one_may_be_missing_too(path):
    expected = make_segments(path)
    os.unlink(os.path.join(path, segment_file(40, ".log")))
    with segstore.open(path, **OPTIONS) as log:
        assert [lost.offsets for lost in log.recovery.lost] == [range(40, 60)]
        assert list(log.values(errors="skip")) == expected[:40] + expected[60:]
        assert log.append(b"next") == 80


def test_the_first_segment_may_be_missing(path):
    expected = make_segments(path)
    os.unlink(os.path.join(path, FIRST))
    os.unlink(os.path.join(path, segment_file(0, ".index")))
    for mode in ("r", "a"):
        with segstore.open(path, mode) as log:
            assert log.start_offset == 0
            assert [lost.offsets for lost in log.recovery.lost] == [range(20)]
            assert [lost.offsets for lost in log.verify().lost] == [range(20)]
            assert list(log.values(errors="skip")) == expected[20:]


def test_a_stamp_that_ends_far_behind_the_next_segment_costs_no_offset(path):
    expected = make_segments(path)
    name = segment_file(40, ".index")
    _, stamp = decode_stamp(contents(path)[name], 40)
    overwrite(path, name, FILE_HEADER_BYTES, encode_stamp(stamp._replace(end_offset=2**40)))
    for mode in ("r", "a"):
        with segstore.open(path, mode) as log:
            assert list(log.values()) == expected
            assert log.end_offset == 80
            assert log.recovery.lost == ()


@pytest.mark.parametrize("size", [0, 10, 63, 64])
def test_a_segment_that_was_never_born_is_removed(path, size):
    expected = make(path)
    with open(os.path.join(path, segment_file(60, ".log")), "wb") as file:
        file.write(bytes(size))
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == expected
        assert log.append(b"next") == 60
        assert segment_file(60, ".log") in log.recovery.removed
    opened_twice_changes_nothing(path)


def test_an_unborn_segment_with_bytes_in_it_is_set_aside(path):
    expected = make(path)
    rubbish = b"\0" * 100 + b"not a frame" * 30
    with open(os.path.join(path, segment_file(60, ".log")), "wb") as file:
        file.write(rubbish)
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == expected
        assert [cut.size_bytes for cut in log.recovery.cut] in ([len(rubbish)], [len(rubbish) - 64])
        with open(log.recovery.cut[0].set_aside, "rb") as file:
            assert file.read() in (rubbish, rubbish[64:])
        assert log.append(b"next") == 60
        assert log.verify().notes == ()
    opened_twice_changes_nothing(path)


def test_leftovers_of_interrupted_steps_are_removed_and_strangers_are_not(path):
    expected = make_segments(path)
    ours = [
        segment_file(20, ".index") + ".tmp",
        segment_file(20, ".log.lz4") + ".tmp",
        segment_file(500, ".index"),
        segment_file(500, ".lz4.index"),
        "tail.tmp",
        "start.tmp",
        "mail.consumer.tmp",
        segment_file(20, ".log") + ".64.aside.tmp",
    ]
    strangers = ["notes.txt", "notes.tmp", "notes.aside.tmp", ".hidden", "20.log", "x.aside"]
    for name in ours + strangers:
        with open(os.path.join(path, name), "wb") as file:
            file.write(b"?")
    os.mkdir(os.path.join(path, segment_file(900, ".log")))
    os.mkfifo(os.path.join(path, segment_file(901, ".log")))
    with segstore.open(path, **OPTIONS) as log:
        assert sorted(log.recovery.removed) == sorted(ours)
        assert list(log.values()) == expected
        assert log.end_offset == 80
    left = set(os.listdir(path))
    assert not left & set(ours)
    assert set(strangers) <= left


def test_a_damaged_tail_header_loses_no_acknowledged_record(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(batch(30))
        log.sync()
        for value in batch(5, 30):
            log.append(value)
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    flip(copy, "tail", 20)
    with segstore.open(copy, "r") as log:
        assert list(log.values()) == batch(35)
    with segstore.open(copy, **OPTIONS) as log:
        assert list(log.values()) == batch(35)
        assert log.recovery.from_tail == 5
        log.append(b"next")
    with segstore.open(copy, "r") as log:
        assert list(log.values()) == [*batch(35), b"next"]
    opened_twice_changes_nothing(copy)


@pytest.mark.parametrize("size", [100, 5000])
def test_a_tail_of_the_wrong_size_is_set_aside_and_reported(path, tmp_path, size):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(batch(30))
        log.sync()
        log.append(b"only in the tail")
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    os.truncate(os.path.join(copy, "tail"), size)
    left = contents(copy)["tail"]
    with segstore.open(copy, **OPTIONS) as log:
        assert list(log.values())[:30] == batch(30)
        assert [os.path.basename(cut.path) for cut in log.recovery.cut] == ["tail"]
        with open(log.recovery.cut[0].set_aside, "rb") as file:
            assert file.read() == left
    opened_twice_changes_nothing(copy)


def test_damage_to_a_frame_in_the_tail_keeps_those_before_it(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        for value in (b"one", b"two", b"three"):
            log.append(value)
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
    flip(copy, "tail", 4096 + 80 + 72)  # in the value of the second
    with segstore.open(copy, **OPTIONS) as log:
        assert list(log.values()) == [b"one"]
        assert log.append(b"next") == 1
    with segstore.open(copy, **OPTIONS) as log:
        assert list(log.values()) == [b"one", b"next"]


def test_registers_that_lag_behind_the_data_hide_nothing_from_readers(path, tmp_path):
    with segstore.open(path, **OPTIONS) as log:
        for value in batch(10):
            log.append(value)
        copy = copy_as_a_crash_leaves_it(path, str(tmp_path / "copy"))
        log.sync()
        shutil.copy(os.path.join(path, FIRST), os.path.join(copy, FIRST))
    # The process died between the write of the drained frames and the store of the register.
    with segstore.open(copy, "r") as log:
        assert list(log.values()) == batch(10)
        assert log.verify().record_count == 10
    with segstore.open(copy, **OPTIONS) as log:
        log.append(b"next")
        with segstore.open(copy, "r") as reader:
            assert list(reader.values()) == [*batch(10), b"next"]
            assert reader.verify().record_count == 11


def test_a_stored_log_inside_a_log_is_not_unpacked_by_recovery(path, tmp_path):
    make(str(tmp_path / "inner"))
    with open(os.path.join(tmp_path, "inner", FIRST), "rb") as file:
        inner = file.read()
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"a", inner, b"b"])
        log.sync()
        log.append(b"c")
        log.sync()
    os.unlink(os.path.join(path, segment_file(0, ".index")))
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == [b"a", inner, b"b", b"c"]
        assert log.recovery.lost == ()


def test_every_length_of_a_durable_segment_opens_and_loses_only_its_end(path, tmp_path):
    expected = make(path, 40)
    without_records_in_the_tail(path)
    spots = frames(path)
    size = os.path.getsize(os.path.join(path, FIRST))
    edges = {p + d for p, s, _, _ in spots for d in (0, 1, 63, 64, s - 1)} | {0, 1, 63, 64, size}
    for length in sorted(edges):
        copy = str(tmp_path / "cut")
        shutil.copytree(path, copy)
        os.truncate(os.path.join(copy, FIRST), length)
        whole = max([end for p, s, _, end in spots if p + s <= length], default=0)
        with segstore.open(copy, **OPTIONS) as log:
            assert list(log.values(errors="skip")) == expected[:whole]
            assert log.end_offset == 40
            lost = [lost.offsets for lost in log.recovery.lost]
            assert lost == ([range(whole, 40)] if whole < 40 else [])
        shutil.rmtree(copy)


def test_every_length_of_a_segment_that_was_never_synced_leaves_a_prefix(path, tmp_path):
    expected = make(path, 40, durable=False)
    spots = frames(path)
    size = os.path.getsize(os.path.join(path, FIRST))
    void_the_tail(path)
    edges = {p + d for p, s, _, _ in spots for d in (0, 1, 63, 64, s - 1)} | {0, 1, 63, 64, size}
    for length in sorted(edges):
        copy = str(tmp_path / "cut")
        shutil.copytree(path, copy)
        os.truncate(os.path.join(copy, FIRST), length)
        whole = max([end for p, s, _, end in spots if p + s <= length], default=0)
        with segstore.open(copy, **OPTIONS) as log:
            assert list(log.values()) == expected[:whole]
            assert log.append(b"next") == whole
        with segstore.open(copy, **OPTIONS) as log:
            assert list(log.values()) == [*expected[:whole], b"next"]
            assert log.verify().is_intact
        shutil.rmtree(copy)


def test_set_aside_files_are_never_overwritten(path):
    for turn in range(3):
        make(path, 20, durable=False)
        end = len(names_ending(path, ".aside"))
        assert end == turn
        void_the_tail(path)
        name = os.path.join(path, FIRST)
        os.truncate(name, os.path.getsize(name) - 8)
        with segstore.open(path, **OPTIONS) as log:
            assert len(log.recovery.cut) == 1
            log.truncate(log.start_offset - 1)
    assert len(names_ending(path, ".aside")) == 3


@pytest.mark.parametrize("base_offset", [2**32 + 5, 2**62, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("durable_offset", [0, 2**62, 2**64 - 1])
def test_a_frame_with_an_insane_offset_does_not_keep_the_log_from_opening(
    path, base_offset, durable_offset
):
    expected = make(path)
    tag = int.from_bytes(contents(path)["tail"][32:36], "little")
    frame = encode_frame(
        base_offset, [b"x"], 5, None, append_time=1, log_tag=tag, durable_offset=durable_offset
    )
    with open(os.path.join(path, FIRST), "ab") as file:
        file.write(frame.data)
    os.unlink(os.path.join(path, segment_file(0, ".index")))
    with segstore.open(path, "r") as log:
        assert list(log.values(0, 60)) == expected
    for _ in range(2):
        with segstore.open(path, **OPTIONS) as log:
            assert list(log.values(0, 60)) == expected
            offset = log.append(b"next")
            assert log[offset].value == b"next"
            log.roll()
    with segstore.open(path, **OPTIONS) as log:
        assert log[offset].value == b"next"
        assert list(log.values(0, 60)) == expected


def test_a_frame_vouches_for_nothing_behind_its_own_start(path):
    expected = make(path)
    tag = int.from_bytes(contents(path)["tail"][32:36], "little")
    frame = encode_frame(60, [b"x"], 5, None, append_time=1, log_tag=tag, durable_offset=2**62)
    with open(os.path.join(path, FIRST), "ab") as file:
        file.write(frame.data)
    with segstore.open(path, **OPTIONS) as log:
        assert list(log.values()) == [*expected, b"x"]
        assert log.append(b"next") == 61


def test_a_reader_that_saw_torn_segments_sees_those_that_came_instead():
    """Up to the very offset that the torn ones went to, and in files of the same names."""
    config = LogConfig.of({**OPTIONS, "segment_size": 4096}, environment={})

    def fill(log, letter):
        log._writer._unsealed_count_max = 8  # as beside a background thread that is slow
        log.append_many([letter * 50] * (60 - len(log)))
        while len(log) < 210:
            log.append_many([letter * 50] * 10)
        log._writer.drain()

    disk = MemoryDisk()
    log = Log(disk, "a", config)
    log.append_many([b"a" * 50] * 10)
    log.sync()
    fill(log, b"b")
    left = disk.after_kill().contents()
    assert len([name for name in left if name.endswith(".log")]) == 4
    left[FIRST] = left[FIRST][:-40] + bytes(40)  # what a power cut took
    disk = MemoryDisk.of(left)
    with Log(disk, "r", config) as reader:
        kept = reader.end_offset
        assert 10 <= kept < 60
        with Log(disk, "a", config) as log:
            fill(log, b"c")
            expected = [b"a" * 50] * 10 + [b"b" * 50] * (kept - 10) + [b"c" * 50] * (210 - kept)
            assert list(reader.values()) == expected
            assert reader.verify().is_intact


@pytest.mark.parametrize("copied_at", [0, 4])
def test_a_copy_whose_segment_ends_below_the_log_start_has_each_record_at_its_offset(copied_at):
    """Copied while the log was trimmed: what the tail has below the start is of no use."""
    config = LogConfig.of({**OPTIONS, "batch_size": 100_000}, environment={})
    disk = MemoryDisk()
    log = Log(disk, "a", config)
    sent = [b"%d" % number for number in range(20)]
    for number, value in enumerate(sent):
        if number == copied_at:
            log.sync()
            segment = disk.contents()[FIRST]
        if number == 6:
            log.sync()
        log.append(value)
    log.trim(10)
    copy = MemoryDisk.of({**disk.contents(), FIRST: segment})
    for mode in ("r", "a", "r"):
        log = Log(copy, mode, config)
        assert (log.start_offset, log.end_offset) == (10, 20)
        assert [(record.offset, record.value) for record in log] == list(enumerate(sent))[10:]
        assert log.recovery.lost == ()
        log.close()


def test_a_copy_with_a_truncation_of_before_a_trim_is_empty_for_readers_as_well():
    disk = MemoryDisk()
    log = Log(disk, "a", LogConfig.of(OPTIONS, environment={}))
    log.append_many([b"before"] * 10)
    seen = {}
    disk.watch = lambda disk, _: seen.update(disk.contents())
    log.truncate(4)
    disk.watch = None
    log.append_many([b"after"] * 10)
    log.trim(12)
    copy = MemoryDisk.of({"truncate": seen["truncate"], "start": disk.contents()["start"]})
    for mode in ("r", "a", "r"):
        with Log(copy, mode, log.config) as opened:
            assert (opened.start_offset, opened.end_offset) == (12, 12)
            assert list(opened) == []


def test_no_power_cut_brings_back_the_seal_of_a_segment_that_a_copy_has_of_before():
    """Filled from the tail, it is as long as its seal says, and what is in it is not synced."""
    config = LogConfig.of({**OPTIONS, "batch_size": 100_000}, environment={})
    disk = MemoryDisk()
    log = Log(disk, "a", config)
    for _ in range(10):
        log.append(b"durable" * 100)
    log.sync()
    segment = disk.contents()[FIRST]
    for _ in range(10):
        log.append(b"written" * 100)
    tail = disk.contents()["tail"]
    log.roll()
    log.maintain()
    index_name = FIRST.replace(".log", ".index")
    names = ("start", index_name)
    copy = {name: disk.contents()[name] for name in names} | {FIRST: segment, "tail": tail}
    left = MemoryDisk.of(copy)
    log = Log(left, "a", config)
    assert log.end_offset == 20
    unsynced = left.unsynced()
    for seed in range(50):
        again = Log(unsynced.sample(Random(seed)), "a", config)
        assert again.end_offset == len(list(again.values())) == 20


def test_a_log_whose_last_append_time_is_the_last_there_is_goes_on():
    """By damage that a checksum does not show; behind it the clock of the engine still runs."""
    config = LogConfig.of(OPTIONS, environment={})
    disk = MemoryDisk()
    log = Log(disk, "a", config)
    writer = log._appending()
    writer._clock.now = lambda: 2**63 - 1
    log.append_many([b"a" * 50] * 10)
    log.close()
    for end in (11, 12):
        with Log(disk, "a", config) as log:
            assert log.append(b"next") == end - 1
            log.sync()
            assert len(list(log)) == end
            log.roll()
            log.compress()
