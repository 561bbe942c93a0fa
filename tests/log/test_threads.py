"""Many threads on one log."""

import itertools
import os
import random
import shutil
import sys
import threading

import pytest

import segstore
from segstore.disk import OsDisk
from segstore.format.fileheader import log_tag
from segstore.log import writer as writer_module
from segstore.segment.tail import Tail
from segstore.segment.tailreader import TailReader


@pytest.fixture
def _eager_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def run_all(works):
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.usefixtures("_eager_switching")
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_appenders_and_readers_agree(path, compression):
    counts = 300
    appended = [{} for _ in range(4)]
    options = {"segment_size": 30_000, "batch_size": 2000, "sync_interval": 0.01}
    with segstore.open(path, compression=compression, **options) as log:
        done = threading.Event()

        def appender(number):
            chance = random.Random(number)
            for _ in range(counts):
                value = b"%d " % number + chance.randbytes(chance.choice([5, 100, 3000]))
                how = chance.randrange(4)
                if how == 0:
                    appended[number][log.append(value)] = value
                elif how == 1:
                    key = b"k%d" % number
                    appended[number][log.append(value, key=key, timestamp=5)] = value
                elif how == 2:
                    for offset in log.append_many([value] * 3):
                        appended[number][offset] = value
                else:
                    offset = log.append(value, durability="durable")
                    appended[number][offset] = value
                    assert log.durable_offset > offset

        def appenders():
            try:
                run_all([lambda n=n: appender(n) for n in range(4)])
            finally:
                done.set()

        def follower():
            seen = 0
            while not (done.is_set() and seen == log.end_offset):
                for record in log.read(seen):
                    assert record.offset == seen
                    seen += 1

        def pointer():
            chance = random.Random(99)
            while not done.is_set():
                end = log.end_offset
                if end:
                    offset = chance.randrange(max(0, end - 50), end)
                    assert log[offset].offset == offset

        run_all([appenders, follower, follower, pointer, pointer])
        expected = {}
        for part in appended:
            expected.update(part)
        assert sum(map(len, appended)) == len(expected) == log.end_offset
        assert list(log.values()) == [expected[offset] for offset in range(len(expected))]
        assert log.verify().is_intact
        assert log.stats().background_error is None
    with segstore.open(path, "r") as log:
        assert list(log.values()) == [expected[offset] for offset in range(len(expected))]


@pytest.mark.usefixtures("_eager_switching")
def test_the_tail_may_be_looked_into_by_many_threads_at_once(path):
    with segstore.open(path, background=False) as log:
        values = [b"%d" % number for number in range(1500)]
        for value in values:
            log.append(value)
        disk = OsDisk(path)
        tail = Tail.open(disk, write=False)
        for _ in range(5):
            reader = TailReader(tail.view, log_tag(tail.log_id))
            barrier = threading.Barrier(4)

            def look(reader=reader, barrier=barrier):
                barrier.wait()
                for offset in range(0, 1500, 13):
                    staged = reader.get(offset)
                    assert staged is not None, offset
                    assert (staged.base_offset, staged.values[0]) == (offset, values[offset])
                assert reader.offsets().stop == 1500

            run_all([look] * 4)
        disk.close()


@pytest.mark.usefixtures("_eager_switching")
def test_many_threads_may_read_a_segment_that_another_process_writes(path):
    options = {"background": False, "compression": None, "index_interval": 64, "batch_size": 200}
    with segstore.open(path, **options) as log:
        log.append_many([b"%05d" % number * 10 for number in range(100)])
        log.sync()
        with segstore.open(path, "r") as reader:
            assert reader[50].offset == 50
            count = 100
            for _ in range(6):
                log.append_many([b"%05d" % n * 10 for n in range(count, count + 4000)])
                log.sync()
                count += 4000
                barrier = threading.Barrier(4)

                def look(seed, barrier=barrier, count=count):
                    chance = random.Random(seed)
                    barrier.wait()
                    for _ in range(50):
                        offset = chance.randrange(count)
                        assert reader[offset].value == b"%05d" % offset * 10
                        start = chance.randrange(count - 3)
                        found = [record.offset for record in reader.read(start, start + 3)]
                        assert found == [start, start + 1, start + 2]

                run_all([lambda n=n: look(n) for n in range(4)])
                segment = reader._reader.catalog().segments[0]
                reader_index = reader._reader._open(segment).index
                entries = [reader_index[slot] for slot in range(len(reader_index))]
                assert entries == sorted(set(entries))


def test_an_empty_batch_beside_another_append_gets_none_of_its_offsets(path, monkeypatch):
    with segstore.open(path, background=False) as log:
        ends = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(writer_module.LogWriter, "end_offset", property(lambda _: next(ends)))
            assert not log.append_many([])


def test_a_repair_leaves_alone_what_is_about_to_be_sealed(path):
    with segstore.open(path, background=False, segment_size="4KiB") as log:
        log.append_many([b"x" * 100] * 20)
        log._appending().roll()  # as an append does; the seal is for the background
        assert [segment.state for segment in log.segments()] == ["rolled", "active"]
        before = sorted(os.listdir(path))
        assert log.repair(dry_run=True).indexes == ()
        assert sorted(os.listdir(path)) == before
        assert log.repair().indexes == ()
        assert [segment.state for segment in log.segments()] == ["sealed", "active"]
        assert log.verify().is_intact


def test_what_is_opened_for_reading_behind_a_close_is_not_kept(path):
    with segstore.open(path, background=False) as log:
        log.append_many([b"x"] * 100)
        with segstore.open(path, "r") as reader:
            kept, (segment,) = reader._reader._segments, reader._reader.catalog().segments
            reader._reader.close()
            found = kept.get(segment)  # as a call that found the log open
            assert found is not None
            assert kept.size_bytes == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.append(b"more"),
        lambda values: values.pop(),
        lambda values: values.clear(),
        lambda values: values.__setitem__(slice(None), [b""] * len(values)),
        lambda values: values.__setitem__(slice(None), [b""] * (len(values) + 10)),
        lambda values: values.__setitem__(3, bytearray(7)),
        lambda values: values.__setitem__(3, bytes(7)),
        lambda values: values.__setitem__(3, "no buffer"),
    ],
)
@pytest.mark.parametrize("size_bytes", [10, 100, 3000])
def test_a_batch_that_another_thread_changes_meanwhile_leaves_a_sound_log(
    path, monkeypatch, change, size_bytes
):
    """Which of the values are there is its own affair; how many has to be what is acknowledged."""
    count = 600
    values = [bytes(size_bytes)] * count
    measure = writer_module.measure

    def changing(given):
        measured = measure(given)
        if given is values:
            monkeypatch.setattr(writer_module, "measure", measure)
            change(values)
        return measured

    with segstore.open(path, background=False) as log:
        log.append(b"first")
        monkeypatch.setattr(writer_module, "measure", changing)
        try:
            offsets = log.append_many(values)
        except (TypeError, ValueError):  # of the list as it was then nothing can be made
            offsets = range(1, 1)
        assert len(offsets) in (0, count, len(values))
        assert log.end_offset == 1 + len(offsets)
        last = log.append(b"last")
        expected = [b"first", *log.values(1, last), b"last"]
        shutil.copytree(path, path + "-killed")
    for killed in (path, path + "-killed"):
        with segstore.open(killed, background=False) as log:
            assert list(log.values()) == expected
            assert log.end_offset == len(expected) == len(offsets) + 2
            assert log.recovery.lost == () == log.recovery.cut == log.verify().lost
