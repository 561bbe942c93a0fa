import os
from pathlib import Path

import pytest

import segstore

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
