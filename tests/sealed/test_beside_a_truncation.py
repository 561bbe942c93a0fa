"""What others see of a log in the middle of a truncation: the log before it or after it."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import segstore
from segstore import Log, LogClosedError, OffsetOutOfRangeError, StorageError
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.log import consumer as consumer_module
from segstore.log import log as log_module
from segstore.log import opening, starting, truncation
from segstore.log import snapshot as snapshot_module
from segstore.log import verify as verify_module
from segstore.log import view as view_module
from segstore.log.follow import Follower
from segstore.log.truncation import begin_truncation
from segstore.log.view import FileView
from segstore.segment.checkpointfile import CheckpointFile
from segstore.segment.tail import Tail
from segstore.testing.faulty import FaultyDisk
from segstore.testing.memory import MemoryDisk
from tests.log.test_interrupt import interrupted

CONFIG = LogConfig.of(
    {"background": False, "segment_size": 4096, "batch_size": 1024, "compression": None},
    environment={},
)
OLD = [b"old %d" % number for number in range(600)]
NEW = [b"new %d" % number for number in range(600)]


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def log(path: str) -> Any:
    with segstore.open(path, segment_size=4096, batch_size=1024, background=False) as made:
        made.append_many(OLD)
        made.sync()
        yield made


@pytest.fixture
def reader(log: Log) -> Any:
    with segstore.open(log.path, "r") as opened:
        yield opened


def once(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    step: Callable[[], object],
    *,
    behind: bool = False,
) -> None:
    """Have `step` done once, before the first call of a function, or behind it."""
    real = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, real)
        if not behind:
            step()
        found = real(*arguments, **options)
        if behind:
            step()
        return found

    monkeypatch.setattr(owner, name, call)


def cut_back(log: Log) -> None:
    log.truncate(299)
    log.append_many(NEW[300:500])


def test_a_snapshot_has_the_log_before_or_after(
    log: Log, reader: Log, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in enumerate(("_copy_file", "_copy_growing", "read_tail", "registered")):
        log.truncate(-1)
        log.append_many(OLD)
        log.append(b"staged")
        log.consumer("one").close()
        monkeypatch.setattr(log_module.OsDisk, "link", lambda *_: False)
        once(monkeypatch, snapshot_module, name, lambda: cut_back(log))
        report = reader.snapshot(tmp_path / f"{place}")
        with segstore.open(report.path, background=False) as copy:
            assert list(copy.values()) == OLD[:300] + NEW[300:500], name
            assert copy.recovery.lost == ()


def test_a_snapshot_ends_where_a_killed_truncation_was_to(tmp_path: Any, monkeypatch: Any) -> None:
    """In the middle of a batch of the segment that grows, which is still as it was."""
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log.append_many(OLD)
    log.sync()
    reader = Log(disk, "r", CONFIG)

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(truncation, "rewrite_segment", kill)
    with pytest.raises(Killed):
        log.truncate(597)
    monkeypatch.undo()
    for place, looker in enumerate((reader, Log(disk, "r", CONFIG))):
        report = looker.snapshot(tmp_path / f"{place}")
        assert report.end_offset == 598
        with segstore.open(report.path, background=False) as copy:
            assert list(copy.values()) == OLD[:598]


def test_a_killed_roll_does_not_keep_a_reader_from_snapshots(tmp_path: Any) -> None:
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many(OLD)
        log.sync()
        with Log(disk, "r", CONFIG) as reader:
            disk.open(f"{600:020}.log", write=True, create=True).close()
            report = reader.snapshot(tmp_path / "copy")
    with segstore.open(report.path, background=False) as copy:
        assert list(copy.values()) == OLD


@pytest.mark.parametrize("mode", ["a", "r"])
def test_verify_finds_no_loss(log: Log, reader: Log, mode: str, monkeypatch: Any) -> None:
    looker = log if mode == "a" else reader
    once(monkeypatch, type(looker._reader.view), "refresh", lambda: log.truncate(299))
    report = looker.verify()
    assert (report.lost, report.record_count) == ((), 300)


def test_verify_finds_no_loss_where_it_began_in_the_middle(
    log: Log, reader: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epoch is the same before and after: that changes before the files do, and behind them."""
    voided, verifying, cut, verified = (threading.Event() for _ in range(4))
    real = Tail.void

    def void(tail: Tail, end_offset: int) -> None:
        if voided.is_set():
            cut.set()
            assert verified.wait(30)
        real(tail, end_offset)
        if not voided.is_set():
            voided.set()
            assert verifying.wait(30)

    def go_on() -> None:
        verifying.set()
        assert cut.wait(30)

    monkeypatch.setattr(Tail, "void", void)
    once(monkeypatch, verify_module, "_open", go_on)
    thread = threading.Thread(target=log.truncate, args=(299,))
    thread.start()
    assert voided.wait(30)
    report = reader.verify()
    verified.set()
    thread.join()
    assert report.lost == ()


def test_verify_finds_no_loss_between_two_pending_truncations(monkeypatch: Any) -> None:
    """There is no tail to read then, and so no epoch that would change."""
    disk = MemoryDisk()
    real = truncation.rewrite_segment

    def kill(*_: object) -> None:
        raise Killed

    def truncate(log: Log, after: int) -> None:
        monkeypatch.setattr(truncation, "rewrite_segment", kill)
        with pytest.raises(Killed):
            log.truncate(after)
        monkeypatch.setattr(truncation, "rewrite_segment", real)

    log = Log(disk, "a", CONFIG)
    log.append_many(OLD)
    truncate(log, 499)
    left = disk.after_kill()
    with Log(left, "r", CONFIG) as reader:
        once(monkeypatch, FileView, "refresh", lambda: truncate(Log(left, "a", CONFIG), 299))
        assert reader.verify().lost == ()
        assert list(reader.values()) == OLD[:300]


def test_a_follower_that_is_moved_back_skips_nothing_that_comes_meanwhile(
    log: Log, reader: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = reader.follow("start", timeout=0.05, on_lost="continue")
    assert sum(1 for _ in follower) == len(OLD)
    log.truncate(299)
    real = Follower._is_ahead
    looks: list[bool] = []

    def is_ahead(self: Follower) -> bool:
        looks.append(real(self))
        if len(looks) == 2:  # the one that decides
            log.append_many(NEW[300:] + NEW[:100])
        return looks[-1]

    monkeypatch.setattr(Follower, "_is_ahead", is_ahead)
    record = next(follower)
    assert looks[:2] == [True, True]
    assert (record.offset, record.value) == (600, NEW[0])


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("looker", ["resolve_start", "_is_ahead"])
def test_a_follower_beside_a_truncation_knows_that_it_is_ahead(
    log: Log, reader: Log, mode: str, looker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the log is cut behind its look where to begin, or at whether it was cut."""
    source = log if mode == "a" else reader
    if looker == "resolve_start":
        once(
            monkeypatch,
            type(source._reader.view),
            "end_offset",
            lambda: log.truncate(299),
            behind=True,
        )
    follower = source.follow("end", timeout=0.05, on_lost="continue")
    if looker == "_is_ahead":
        log.append(b"old")
        once(monkeypatch, Follower, "_is_ahead", lambda: log.truncate(299), behind=True)
    assert list(follower) == []
    log.append_many(NEW[300:400])
    assert [record.value for record in follower] == NEW[300:400]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a destructor
def test_an_interrupted_follower_that_is_moved_back_passes_nothing_over() -> None:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log.append_many(OLD[:10])
    reader = Log(disk, "r", CONFIG)
    step = 0
    was_interrupted = True
    while was_interrupted:
        follower = reader.follow("end", timeout=0, on_lost="continue")
        log.truncate(7)
        was_interrupted = interrupted(lambda follower=follower: list(follower), step)
        assert list(follower) == []
        log.append(NEW[8])
        assert [record.value for record in follower] == NEW[8:9]
        assert follower.lost_count == 0
        log.append(OLD[9])
        step += 1
    assert step > 20


def test_a_reader_opened_while_a_truncation_is_pending_sees_what_follows(monkeypatch: Any) -> None:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log.append_many(OLD)

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(truncation, "rewrite_segment", kill)
        with pytest.raises(Killed):
            log.truncate(299)
    left = disk.after_kill()
    with Log(left, "r", CONFIG) as reader, reader.consumer("one") as consumer:
        assert list(reader.values()) == OLD[:300]
        first = consumer.poll(100)
        with Log(left, "a", CONFIG) as log:
            log.append_many(NEW[300:])
            assert (reader.end_offset, len(reader)) == (600, 600)
            assert reader[400].value == NEW[400]
            assert list(reader.values()) == OLD[:300] + NEW[300:]
            assert reader.durable_offset == log.durable_offset
            following = consumer.poll(100)
            assert [record.offset for record in first + following] == list(range(200))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a destructor
def test_a_reader_that_is_interrupted_as_it_finds_the_tail_has_it_with_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many(OLD[:20])
    begin_truncation(disk, log._log_id or b"", 0, 10)
    readers = [Log(disk, "r", CONFIG) for _ in range(400)]
    for name in ("find", "list_segments"):  # which know nothing of the view, and have many steps
        monkeypatch.setattr(view_module, name, uninterrupted(getattr(view_module, name)))
    with Log(disk, "a", CONFIG) as log:
        log.append_many(NEW[10:12])
        for step, reader in enumerate(readers):
            if not interrupted(lambda reader=reader: reader.end_offset, step):
                break
            assert (reader.end_offset, reader[11].value) == (12, NEW[11])
            assert list(reader.values()) == OLD[:10] + NEW[10:12]
    assert 20 < step < len(readers) - 1


def uninterrupted(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        profile = sys.getprofile()
        sys.setprofile(None)
        try:
            return real(*arguments, **options)
        finally:
            sys.setprofile(profile)

    return call


def test_a_reader_opened_just_when_a_truncation_comes_finds_no_loss(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, opening, "list_segments", lambda: log.truncate(299))
    with segstore.open(log.path, "r") as reader:
        assert reader.recovery.lost == ()
        assert list(reader.values()) == OLD[:300]


def test_a_reader_opened_while_the_log_is_made_sees_it_grow(monkeypatch: Any) -> None:
    disk = MemoryDisk()
    readers = []

    def open_reader() -> None:
        readers.append(Log(disk, "r", CONFIG))

    real = Tail.create

    def create(*arguments: Any) -> Any:
        open_reader()
        return real(*arguments)

    monkeypatch.setattr(Tail, "create", create)
    with Log(disk, "a", CONFIG) as log:
        log.append_many(OLD)
        log.append(b"staged")
        (reader,) = readers
        assert (reader.end_offset, reader[600].value) == (601, b"staged")
        assert list(reader.values()) == [*OLD, b"staged"]


def test_a_stamp_read_in_the_middle_is_not_believed_later(tmp_path: Any, monkeypatch: Any) -> None:
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    log.append_many(OLD)
    log.roll()
    reader = Log(disk, "r", CONFIG)
    real = truncation.rewrite_segment

    def cut(*arguments: Any) -> None:
        list(reader.read())
        reader.segments()
        real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(truncation, "rewrite_segment", cut)
        with pytest.raises(Killed):
            log.truncate(299)
    assert reader.verify().lost == ()
    assert sum(segment.end_offset - segment.base_offset for segment in reader.segments()) == 300
    report = reader.snapshot(tmp_path / "copy")
    with segstore.open(report.path, background=False) as copy:
        assert list(copy.values()) == OLD[:300]


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_waiting_poll_goes_back_with_the_log(log: Log, reader: Log, mode: str) -> None:
    with (log if mode == "a" else reader).consumer("one") as consumer:
        consumer.poll(1000)
        consumer.commit()
        timer = threading.Timer(0.1, cut_back, [log])
        timer.start()
        found = consumer.poll(1000, timeout=30)
        timer.join()
        found += consumer.poll(1000)
        assert [record.value for record in found] == NEW[300:500]


def test_a_commit_counts_whenever_the_consumer_was_moved_back(
    log: Log, reader: Log, monkeypatch: Any
) -> None:
    with reader.consumer("one") as consumer:
        consumer.poll(1000)
        consumer.commit()
        once(monkeypatch, starting, "hold_back", lambda: consumer.poll())
        log.truncate(299)
        log.append_many(NEW[300:])
        assert [record.value for record in consumer.poll(1000)] == NEW[300:]
        consumer.commit()
        assert [info.committed for info in log.consumers()] == [600]


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("step", ["commit", "pass over", "register"])
def test_a_truncation_wins_over_a_move_of_a_consumer_under_way(
    log: Log, reader: Log, mode: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looker = log if mode == "a" else reader
    cutting = threading.Thread(target=cut_back, args=(log,))

    def begin() -> None:
        cutting.start()
        cutting.join(0.3)

    if step == "register":
        once(monkeypatch, CheckpointFile, "take", begin)
        consumer = looker.consumer("one", start="end")
    else:
        consumer = looker.consumer("one")
        if step == "commit":
            consumer.poll(1000)
            once(monkeypatch, CheckpointFile, "move", begin)
            consumer.commit()
        else:
            consumer.commit(600)
            log.trim(100)
            once(monkeypatch, CheckpointFile, "move", begin)
            consumer.poll(1)
    cutting.join(30)
    with consumer:
        if step == "pass over":
            assert consumer.seek(300) == consumer.committed
        assert [record.value for record in consumer.poll(1000)] == NEW[300:500]
        consumer.commit()
    assert [info.committed for info in log.consumers()] == [500]


@pytest.mark.parametrize("mode", ["a", "r"])
def test_iterating_and_committing_goes_back_with_the_log(log: Log, reader: Log, mode: str) -> None:
    found = []
    with (log if mode == "a" else reader).consumer("one") as consumer:
        for record in consumer:
            found.append(record.value)
            if record.offset == 400 and len(found) == 401:
                cut_back(log)
            consumer.commit()
        assert (consumer.position, consumer.committed) == (500, 500)
    assert found == OLD[:401] + NEW[300:500]


def test_a_consumer_removed_while_offsets_are_given_back_is_no_failure(monkeypatch: Any) -> None:
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    with Log(disk, "a", CONFIG) as log:
        log.append_many(OLD)
        log.consumer("one", start="end").close()
        once(
            monkeypatch,
            consumer_module.CheckpointFile,
            "open",
            lambda: memory.unlink("one.consumer"),
        )
        with monkeypatch.context() as patch:
            patch.setattr(consumer_module, "registered", lambda _: {"one": (600, 0)})
            consumer_module.hold_back(disk, 300, 0)
        assert log.consumers() == ()


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("way", [Log.read, Log.batches])
def test_an_iterator_gives_nothing_truncated_once_the_log_is_cut(
    log: Log, reader: Log, mode: str, way: Any
) -> None:
    iterator = iter(way(log if mode == "a" else reader))
    next(iterator)
    log.truncate(299)
    log.append_many(NEW[300:])
    found = []
    with suppress(OffsetOutOfRangeError):
        for item in iterator:
            found += item.values() if way is Log.batches else [item.value]
    assert not set(found) & set(OLD[310:])


@pytest.mark.parametrize("mode", ["a", "r"])
def test_nothing_truncated_follows_a_batch_that_was_at_hand(
    log: Log, reader: Log, mode: str
) -> None:
    looker = log if mode == "a" else reader
    assert len(list(looker.values(345, 347))) == 2  # of a segment that has more batches
    iterator = looker.batches(345)
    next(iterator)
    log.truncate(299)
    log.append_many(NEW[300:])
    found = []
    with suppress(OffsetOutOfRangeError):
        for batch in iterator:
            found += batch.values()
    assert not set(found) & set(OLD)


def test_looking_for_a_time_is_never_out_of_range(log: Log, reader: Log, monkeypatch: Any) -> None:
    for place, name in enumerate(("_open", "_first_at", "_refresh"), 1):
        start = log.start_offset
        once(monkeypatch, reader._reader, name, lambda at=100 * place: log.trim(at))
        if name == "_refresh":
            reader._reader._segments.clear()
            once(monkeypatch, reader._reader, "_open", lambda: log.trim(280))
        assert start <= reader.offset_for_time(0) <= log.start_offset
    with reader.consumer("one") as consumer:
        once(monkeypatch, reader._reader, "_first_at", lambda: log.trim(550))
        assert consumer.seek(timestamp=0) == 550


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_time_is_that_of_the_log_before_or_after(
    log: Log, reader: Log, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.truncate(-1)
    log.append_many(OLD, timestamps=range(600))
    looker = log if mode == "a" else reader

    def cut() -> None:
        log.truncate(299)
        log.append_many(NEW[300:], timestamps=range(1000, 1300))

    once(monkeypatch, looker._reader, "_first_at", cut)
    assert looker.offset_for_time(450) in (450, 300)


def test_retention_is_passed_over_by_iterating_a_consumer(log: Log, reader: Log) -> None:
    with reader.consumer("one") as consumer:
        found = []
        for record in consumer:
            found.append(record.offset)
            if record.offset == 100:
                log.trim(500)
        assert found[-100:] == list(range(500, 600))
        assert consumer.lost_count == 500 - (found[-101] + 1)


def test_a_name_removed_by_two_and_taken_again_is_left_alone(log: Log, monkeypatch: Any) -> None:
    log.consumer("one").close()
    held = []

    def be_faster() -> None:
        assert log.remove_consumer("one")
        held.append(log.consumer("one"))

    real = log_module.OsDisk.open

    def open_(disk: Any, name: str, **options: Any) -> Any:
        file = real(disk, name, **options)
        if name == "one.consumer" and not options and not held:
            held.append(None)
            held.clear()
            monkeypatch.setattr(log_module.OsDisk, "open", real)
            be_faster()
        return file

    monkeypatch.setattr(log_module.OsDisk, "open", open_)
    with pytest.raises(segstore.ConsumerLockedError):
        log.remove_consumer("one")
    (consumer,) = held
    consumer.commit(42)
    assert [(info.name, info.committed) for info in log.consumers()] == [("one", 42)]
    consumer.close()


def test_a_registration_is_looked_at_once(log: Log, monkeypatch: Any) -> None:
    look_into = consumer_module.look_into
    seen = []

    def look(*arguments: Any) -> Any:
        seen.append(look_into(*arguments))
        return seen[-1]

    monkeypatch.setattr(consumer_module, "look_into", look)
    log.consumer("one", start="end").close()
    assert [info.committed for info in log.consumers()] == [600]
    assert len(seen) == 1


def test_a_reader_that_saw_a_pending_truncation_sees_what_came_instead(path: str) -> None:
    options: dict[str, Any] = {"segment_size": "4KiB", "batch_size": 1024, "background": False}

    def fill(log: segstore.Log, mark: bytes) -> None:
        while len(log) < 100:
            log.append_many([mark * 100] * 10)

    with segstore.open(path, **options) as log:
        fill(log, b"a")
        log_id = log._log_id or b""
        end = log.segments()[1].base_offset
    disk = OsDisk(path)
    begin_truncation(disk, log_id, 0, end)  # and killed there
    disk.close()
    with segstore.open(path, "r") as reader, segstore.open(path, **options) as log:
        assert log.end_offset == end
        fill(log, b"b")
        log.sync()
        assert len(log.segments()) > 2
        assert [record.value[:1] for record in reader] == [b"a"] * end + [b"b"] * (100 - end)
        assert reader.verify().is_intact
        reader.snapshot(path + "-copy")
        with segstore.open(path + "-copy", "r") as copy:
            assert list(copy) == list(log)


@pytest.mark.parametrize("name", ["00000000000000000000.log", "00000000000000000000.index"])
def test_a_snapshot_that_a_whole_truncation_comes_in_between_begins_again(
    path: str, tmp_path: Any, monkeypatch: Any, name: str
) -> None:
    """By a reader of which the log was opened in the middle of it, when it has no tail to ask."""
    copy = str(tmp_path / "copy")
    at_the_link, goes_on = threading.Event(), threading.Event()
    readers = []

    def link(self: Any, linked: str, target: Any) -> bool:
        if linked == name and not at_the_link.is_set():
            at_the_link.set()
            assert goes_on.wait(30)
        return real_link(self, linked, target)

    def take() -> None:
        with segstore.open(path, "r") as reader:
            reader.snapshot(copy)

    def rewrite(*arguments: Any) -> None:
        readers.append(threading.Thread(target=take))
        readers[0].start()
        assert at_the_link.wait(30)
        real_rewrite(*arguments)

    real_link, real_rewrite = log_module.OsDisk.link, truncation.rewrite_segment
    with segstore.open(path, background=False, compression=None) as log:
        log.append_many([b"%d" % number for number in range(100)])
        log.roll()
        log.sync()
        log.maintain()
        monkeypatch.setattr(log_module.OsDisk, "link", link)
        monkeypatch.setattr(truncation, "rewrite_segment", rewrite)
        log.truncate(39)
        goes_on.set()
        readers[0].join(30)
    with segstore.open(copy, "r") as copied:
        assert (len(copied), copied.end_offset) == (40, 40)
        assert copied.verify().is_intact
        assert len(list(copied.values())) == 40


def test_what_a_look_that_failed_knew_before_is_not_taken_for_now(
    log: Log, reader: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stamps say of a segment that no record has a key."""
    assert list(reader.find(b"key", 0)) == []
    log.truncate(299)
    log.append_many(NEW[300:301], keys=[b"key"])
    log.sync()
    with monkeypatch.context() as patch:
        patch.setattr(OsDisk, "names", _raise_emfile)
        with pytest.raises(StorageError):
            list(reader.find(b"key", 0))
    assert [record.value for record in reader.find(b"key", 0)] == NEW[300:301]


def test_a_truncation_just_after_the_look_of_an_opening_is_seen(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.roll()
    log.maintain()

    def cut() -> None:
        log.truncate(299)
        log.append_many(NEW[300:], keys=[b"key"] * 300)
        log.sync()

    once(monkeypatch, log_module, "report_of", cut)
    with segstore.open(log.path, "r") as reader:
        assert [record.value for record in reader.find(b"key")] == NEW[300:]


def test_a_look_that_began_before_a_truncation_is_not_the_last(
    log: Log, reader: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, go_on = threading.Event(), threading.Event()
    real = view_module.list_segments

    def list_segments(*arguments: Any) -> Any:
        found = real(*arguments)
        if threading.current_thread() is early:
            listed.set()
            assert go_on.wait(30)
        return found

    monkeypatch.setattr(view_module, "list_segments", list_segments)
    early = threading.Thread(target=reader.segments)
    early.start()
    assert listed.wait(30)
    log.truncate(299)
    log.append_many(NEW[300:301], keys=[b"key"])
    log.sync()
    late = threading.Thread(target=lambda: list(reader.values()))
    late.start()
    late.join(0.3)  # it is through, or waits for the early one
    go_on.set()
    early.join()
    late.join()
    assert [record.value for record in reader.find(b"key", 0)] == NEW[300:301]


def test_a_log_closed_meanwhile_is_closed_for_who_reads(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = threading.Thread(target=log.close)

    def close() -> None:
        closing.start()
        while log._reader.refusal is None:  # then it waits for the truncation
            pass

    once(monkeypatch, truncation, "rewrite_segment", close)
    log.truncate(299)
    closing.join(30)
    for look in (lambda: log[0], log.values, lambda: log.end_offset):
        with pytest.raises(LogClosedError):
            look()


def _raise_emfile(*_: object) -> Any:
    raise OSError(errno.EMFILE, "Too many open files")
