"""How many segment files reading keeps open, and what it does where there is no descriptor left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import segstore
from segstore.disk import OsDisk
from segstore.log import opensegments
from segstore.log.view import FileView, WriterView
from segstore.segment import reader as reader_module

OPTIONS = {"background": False, "compression": None, "segment_size": 8192}


@pytest.fixture
def path(tmp_path):
    """A log of 60 segments, one record each."""
    path = str(tmp_path / "log")
    with segstore.open(path, **OPTIONS) as log:
        for number in range(60):
            log.append_many([b"%d" % number, bytes(5000)])
            log.roll()
    return path


def open_files(path: str) -> int:
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the listing's own
    return sum(name.startswith(path) and name.endswith(".log") for name in names)


def test_no_more_files_stay_open_than_the_limit(path, monkeypatch):
    monkeypatch.setattr(FileView, "open_files_max", 10)
    with segstore.open(path, mode="r") as log:
        before = open_files(path)
        for number in [*range(60), *range(59, -1, -1)]:
            assert log[2 * number].value == b"%d" % number
            assert open_files(path) - before <= 10
        assert open_files(path) - before == 10


def test_the_writers_process_has_more_files_open_and_closes_those_that_go(path):
    assert WriterView.open_files_max > 60
    with segstore.open(path, **OPTIONS) as log:
        before = open_files(path)
        for number in range(60):
            log[2 * number]
        assert open_files(path) - before >= 59
        log.trim(2 * 50)
        assert open_files(path) - before <= 10


def test_a_reader_lets_go_of_what_is_gone_at_its_next_look(path):
    with segstore.open(path, **OPTIONS) as log, segstore.open(path, mode="r") as reader:
        for number in range(60):
            reader[2 * number]
        log.trim(100)
        segments = reader._reader._segments
        assert len(segments._open) == 60
        for _ in range(2):  # the second is in a segment that the reader has not heard of
            log.append_many([bytes(40_000)])  # past the tail
            log.roll()
        assert reader[121].value == bytes(40_000)
        assert len(segments._open) <= 12


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_closed_log_has_nothing_open_and_nothing_mapped(path, mode):
    log = segstore.open(path, mode=mode, **OPTIONS)
    for number in range(60):
        log[2 * number]
    assert open_files(path) >= 59
    assert f"{path}/tail" in Path("/proc/self/maps").read_text()
    log.close()
    assert open_files(path) == 0
    assert path not in Path("/proc/self/maps").read_text()


def test_the_index_of_a_segment_is_read_once_whatever_is_open(path, monkeypatch):
    monkeypatch.setattr(FileView, "open_files_max", 10)
    loads = []
    load = reader_module.load_index
    monkeypatch.setattr(
        reader_module, "load_index", lambda *args: loads.append(args[1]) or load(*args)
    )
    with segstore.open(path, mode="r") as log:
        for _ in range(3):
            for number in range(60):
                assert log[2 * number].value == b"%d" % number
    assert len(loads) == len(set(loads))
    assert len(loads) >= 59


@pytest.mark.parametrize(("files_max", "open_count"), [(3, 3), (60, 10)])
def test_what_is_kept_of_indexes_and_filters_stays_within_its_limit(
    path, files_max, open_count, monkeypatch
):
    with segstore.open(path, **OPTIONS) as log:
        assert log._reader._segments.size_bytes == 0
        log.append(b"with a key", key=b"k")
        log.roll()
        log.append(b"without")
        with_filter = log._reader._segments.get(log._reader.catalog().segments[60])
        assert with_filter.size_bytes == 16 + 8
        log.truncate(119)
    one = 16  # a segment of one frame has one entry
    monkeypatch.setattr(FileView, "open_files_max", files_max)
    monkeypatch.setattr(opensegments, "KEPT_BYTES_MAX", 10 * one)
    with segstore.open(path, mode="r") as log:
        segments = log._reader._segments
        for number in [*range(60), *range(59, -1, -1)]:
            assert log[2 * number].value == b"%d" % number
            kept = [*segments._open.values(), *segments._closed.values()]
            assert segments.size_bytes == sum(each.size_bytes for each in kept) <= 10 * one
        assert (len(segments._open), len(kept)) == (open_count, 10)


def test_the_decoded_chunks_of_open_segments_count(path, monkeypatch):
    with segstore.open(path, **OPTIONS) as log:
        log.compress()
    chunk = 5000 + 64 + 64  # and a little more
    monkeypatch.setattr(opensegments, "KEPT_BYTES_MAX", 10 * chunk)
    with segstore.open(path, mode="r") as log:
        segments = log._reader._segments
        for number in range(60):
            assert log[2 * number].value == b"%d" % number
            assert segments.size_bytes <= 10 * chunk
        assert len(segments._open) == 9
        with_file = next(iter(segments._open.values()))
        assert with_file.size_bytes == with_file.reader._chunks.kept_bytes + 16 > chunk
        assert with_file.reader.without_file().size_bytes == 16


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_a_segment_that_goes_while_its_file_is_closed_is_not_found_by_an_old_index(
    path, compression, monkeypatch
):
    """Swapped for its compressed form, or deleted, by the process that writes."""
    monkeypatch.setattr(FileView, "open_files_max", 3)
    with (
        segstore.open(path, **{**OPTIONS, "compression": compression}) as writer,
        segstore.open(path, mode="r") as log,
    ):
        for number in range(60):
            log[2 * number]
        if compression:
            writer.compress()
            for number in range(60):
                assert log[2 * number].value == b"%d" % number
        else:
            writer.trim(60)
            assert [log[2 * number].value for number in range(30, 60)] == [
                b"%d" % number for number in range(30, 60)
            ]
            with pytest.raises(segstore.OffsetOutOfRangeError):
                log[2]


def test_a_process_without_descriptors_left_still_reads(path):
    """What reading holds open is given back before anything is refused."""
    code = f"""
import os, resource, segstore
log = segstore.open({path!r}, mode="r")
log[0]
held = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (held + 10, held + 10))
for _ in range(2):
    for number in range(60):
        assert log[2 * number].value == b"%d" % number
    assert sum(1 for _ in log) == 120
print("read")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "read\n", done.stderr


def test_what_is_opened_while_all_is_forgotten_is_not_kept(path):
    with segstore.open(path, mode="r") as log:
        reader = log._reader
        segments, segment = reader._segments, reader.catalog().segments[0]
        open_segment = segments._open_segment

        def open_late(segment):
            found = open_segment(segment)
            segments.clear()  # by another thread, which saw that the log was truncated
            return found

        segments._open_segment = open_late
        assert segments.get(segment) is not None
        segments._open_segment = open_segment
        assert segments._open == {}
        assert segments.get(segment) is segments.get(segment)


def test_the_filters_of_segments_are_read_once_and_open_no_file_again(tmp_path, monkeypatch):
    monkeypatch.setattr(FileView, "open_files_max", 3)
    path = str(tmp_path / "keyed")
    with segstore.open(path, **OPTIONS) as log:
        for number in range(20):
            log.append(bytes(5000), key=b"%d" % number)
            log.roll()
        log.sync()
    with segstore.open(path, mode="r") as log:
        assert [record.offset for record in log.find(b"7")] == [7]
        opened = []
        load = OsDisk.open
        monkeypatch.setattr(
            OsDisk,
            "open",
            lambda *args, **options: opened.append(args[1]) or load(*args, **options),
        )
        for number in range(20):
            assert [record.offset for record in log.find(b"%d" % number)] == [number]
        # The file of the segment that has the key, and of one that its filter takes for another.
        assert len(opened) <= 2 * 20
        assert not [name for name in opened if name.endswith("index")]
