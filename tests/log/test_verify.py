import os
import shutil
from pathlib import Path

import pytest

import segstore
from segstore.format.fileheader import FILE_HEADER_BYTES
from segstore.log import starting
from segstore.segment.reader import SegmentReader

OPTIONS = {"background": False, "compression": None, "segment_size": 8192, "batch_size": 1000}


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize(
    ("change", "left"), [(lambda log: log.compress(), 600), (lambda log: log.trim(300), 300)]
)
def test_what_is_swapped_or_deleted_under_a_check_is_no_damage(path, mode, change, left):
    with segstore.open(path, **OPTIONS) as writer:
        writer.append_many([b"x" * 100] * 600)
        writer.sync()
        log = writer if mode == "a" else segstore.open(path, "r")
        view = log._reader.view
        open_segment = view.open_segment

        def change_first(segment):
            if segment.base_offset > 0 and view.open_segment is not open_segment:
                view.open_segment = open_segment
                change(writer)
            return open_segment(segment)

        view.open_segment = change_first
        report = log.verify()
        assert report.lost == ()
        assert report.record_count in range(left, 601)
        log.close()


@pytest.mark.parametrize("mode", ["a", "r"])
def test_what_is_drained_under_a_check_counts(path, mode, monkeypatch):
    with segstore.open(path, **OPTIONS) as writer:
        writer.append_many([b"x" * 100] * 100)
        writer.sync()
        for _ in range(10):
            writer.append(b"staged")
        log = writer if mode == "a" else segstore.open(path, "r")
        has_header = SegmentReader.has_intact_header

        def drain(reader):
            if reader.base_offset == writer.segments()[-1].base_offset:
                writer.append_many([b"later" * 200] * 2)
                writer.append(b"over what was staged")
            return has_header(reader)

        monkeypatch.setattr(SegmentReader, "has_intact_header", drain)
        report = log.verify()
        assert (report.lost, report.record_count) == ((), 110)
        log.close()


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_file_that_is_gone_is_damage(path, mode):
    with segstore.open(path, **OPTIONS) as writer:
        writer.append_many([b"x" * 100] * 600)
        writer.roll()
        writer.maintain()
        victim = writer.segments()[2]
        os.remove(victim.path)
        with segstore.open(path, "r") as reader:
            report = (writer if mode == "a" else reader).verify()
    gone = range(victim.base_offset, victim.end_offset)
    assert [lost.offsets for lost in report.lost] == [gone]
    assert report.record_count == 600 - len(gone)


@pytest.mark.parametrize("name", ["start", "reader.consumer"])
def test_a_damaged_checkpoint_is_noted(path, name):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"x"] * 20)
        with log.consumer("reader") as consumer:
            consumer.poll()
            consumer.commit()
    assert segstore.open(path, "r").verify().notes == ()
    file = Path(path, name)
    data = bytearray(file.read_bytes())
    data[512:] = bytes(byte ^ 0xFF for byte in data[512:])
    file.write_bytes(data)
    with segstore.open(path, "r") as log:
        report = log.verify()
    assert report.is_intact
    (note,) = report.notes
    assert f"{name} is damaged" in note


def test_what_costs_no_record_is_noted(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"x" * 100] * 300)
        log.roll()
        log.maintain()
        report = log.verify()
        paths = [Path(segment.path) for segment in log.segments()]
        sizes = [path.stat().st_size - FILE_HEADER_BYTES for path in paths]
        assert (report.record_count, report.size_bytes, report.notes) == (300, sum(sizes), ())
    first, second = paths[:2]
    with first.open("r+b") as file:
        file.write(b"no header")
    second.with_suffix(".index").unlink()
    Path(path, "letter.txt").write_bytes(b"hello")
    with segstore.open(path, "r") as log:
        report = log.verify()
    assert report.is_intact
    assert (report.record_count, report.size_bytes) == (300, sum(sizes))
    noted = "\n".join(report.notes)
    assert len(report.notes) == 3
    assert "'letter.txt' is not a file of a log" in noted
    assert f"the header of {first.name} is damaged" in noted
    assert f"{second.with_suffix('.index').name} is not sealed yet, missing or damaged" in noted


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_damage_below_the_log_start_is_no_loss(path, mode, is_compressed):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"%03d" % number * 30 for number in range(600)])
        log.roll()
        if is_compressed:
            log.compress()
        first, second = log.segments()[:2]
        size = os.path.getsize(first.path)
        with open(first.path, "r+b") as file:
            for at in (200, size // 2):
                file.seek(at)
                data = bytes(byte ^ 0xFF for byte in file.read(8))
                file.seek(at)
                file.write(data)
        lost = [offset for found in log.verify().lost for offset in found.offsets]
        assert len(lost) > 2
        for start in (1, lost[len(lost) // 2], lost[-1], lost[-1] + 1, second.base_offset):
            log.trim(start)
            with segstore.open(path, "r") as reader:
                report = (log if mode == "a" else reader).verify()
            still_lost = [offset for offset in lost if offset >= start]
            assert [o for found in report.lost for o in found.offsets] == still_lost
            assert report.record_count == 600 - start - len(still_lost)


def test_what_a_pending_truncation_takes_is_neither_counted_nor_missed(path, monkeypatch):
    """Its end is in the middle of a frame; the next writer carries it out."""
    log = segstore.open(path, **OPTIONS)
    log.append_many([b"x" * 100] * 600)
    with monkeypatch.context() as patch:
        patch.setattr(starting, "finish_truncation", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log.truncate(302)
    log._lock_file.close()  # its process is gone
    with segstore.open(path, "r") as reader:
        report = reader.verify()
        assert (reader.end_offset, report.record_count, report.lost) == (303, 303, ())
    with segstore.open(path, **OPTIONS) as log:
        assert log.verify().record_count == len(log) == 303


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_what_two_segments_have_counts_once(path, tmp_path, mode, is_compressed):
    """A copy, file by file, has the first as of before a truncation, the others as of after it."""
    before = tmp_path / "before"
    with segstore.open(path, **OPTIONS | {"segment_size": 65536}) as log:
        log.append_many([b"x" * 100] * 400)
        log.roll()
        if is_compressed:
            log.compress()
        shutil.copytree(path, before)
        log.truncate(252)
        log.roll()
        log.append_many([b"y" * 100] * 100)
    for file in before.glob(f"{0:020}.*"):
        shutil.copy(file, path)
    with segstore.open(path, mode, **OPTIONS) as log:
        records = list(log)
        assert [record.offset for record in records] == list(range(353))
        assert log[300].value == b"y" * 100
        report = log.verify()
    assert (report.record_count, report.lost) == (353, ())
