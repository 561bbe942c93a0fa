"""Named positions that survive the programs that read."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest

import segstore
from segstore import (
    ConfigError,
    Consumer,
    ConsumerLockedError,
    CorruptionError,
    Log,
    LogClosedError,
    OffsetOutOfRangeError,
    StorageError,
)
from segstore.config import LogConfig
from segstore.format.checkpoint import CHECKPOINT_BYTES, SLOT_BYTES
from segstore.format.names import segment_file
from segstore.segment.checkpointfile import CheckpointFile
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import Event, MemoryDisk
from tests.log.test_interrupt import interrupted

from .records import lines, two_segments

BARE = LogConfig.of({"background": False}, environment={})


def open_log(path: str, mode: Any = "a", **options: Any) -> Log:
    return segstore.open(path, mode, background=False, **options)


@pytest.fixture
def log(path: str) -> Any:
    with open_log(path, segment_size="4KiB", batch_size=1024) as made:
        made.append_many(lines(300), timestamps=[1000 + n for n in range(300)])
        yield made


def test_poll_commit_and_come_back(log: Log) -> None:
    with log.consumer("one") as consumer:
        first = consumer.poll(100)
        assert [r.offset for r in first] == list(range(100))
        assert (consumer.position, consumer.committed, consumer.lag) == (100, 0, 300)
        consumer.commit()
        assert consumer.lag == log.consumers()[0].lag == 200
        consumer.poll(50)
        assert (consumer.position, consumer.committed) == (150, 100)
    with log.consumer("one") as consumer:  # what was not committed comes again
        assert consumer.position == 100
        assert consumer.poll(1)[0].offset == 100
        consumer.commit(42)
    assert log.consumers() == (segstore.ConsumerInfo("one", 42, 258, 0),)


def test_iterating_goes_to_the_end_and_waits_for_nothing(log: Log) -> None:
    with log.consumer("one", start=290) as consumer:
        assert [r.offset for r in consumer] == list(range(290, 300))
        assert list(consumer) == []
        log.append(b"more")
        for record in consumer:
            assert record.value == b"more"
            consumer.commit()
        assert consumer.committed == 301


def test_poll_waits_no_longer_than_asked(log: Log) -> None:
    with log.consumer("one", start="end") as consumer:
        assert consumer.poll() == []
        assert consumer.poll(timeout=0.05) == []
        threading.Timer(0.1, log.append, [b"late"]).start()
        assert [r.value for r in consumer.poll(timeout=20)] == [b"late"]
        with pytest.raises(ValueError, match="at least 1"):
            consumer.poll(0)


def test_seek_by_offset_and_by_time(log: Log) -> None:
    with log.consumer("one") as consumer:
        assert consumer.seek(120) == 120
        assert consumer.poll(1)[0].offset == 120
        assert consumer.seek(timestamp=1250) == 250
        assert consumer.seek(timestamp=10**9) == 300
        assert (consumer.position, consumer.lag, consumer.committed) == (300, 300, 0)
        for outside in (-1, 301):
            with pytest.raises(OffsetOutOfRangeError):
                consumer.seek(outside)
            with pytest.raises(OffsetOutOfRangeError):
                consumer.commit(outside)
        with pytest.raises(TypeError):
            consumer.seek()
        with pytest.raises(TypeError):
            consumer.seek(1, timestamp=1)


def test_where_a_new_consumer_starts(log: Log) -> None:
    assert log.consumer("a").position == 0
    assert log.consumer("b", start="end").position == 300
    assert log.consumer("c", start=7).position == 7
    with pytest.raises(OffsetOutOfRangeError):
        log.consumer("d", start=301)
    with pytest.raises(ValueError, match="start is"):
        log.consumer("d", start="middle")  # type: ignore[arg-type]
    assert [c.name for c in log.consumers()] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "ä", "a b", "-a", "x" * 101, "a\n"])
def test_names_are_checked(log: Log, name: str) -> None:
    before = os.listdir(log.path)
    with pytest.raises(ValueError, match="consumer name"):
        log.consumer(name)
    assert os.listdir(log.path) == before


def test_a_name_has_one_holder_in_a_process_and_across(log: Log) -> None:
    consumer = log.consumer("one")
    with pytest.raises(ConsumerLockedError):
        log.consumer("one")
    code = f"""
import segstore
log = segstore.open({log.path!r}, "r")
try:
    log.consumer("one")
except segstore.ConsumerLockedError:
    print("held")
with log.consumer("two") as two:
    two.poll(5)
    two.commit()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["held"], run.stderr
    assert [(c.name, c.committed) for c in log.consumers()] == [("one", 0), ("two", 5)]
    with pytest.raises(ConsumerLockedError):
        log.remove_consumer("one")
    consumer.close()
    assert log.remove_consumer("one")
    assert not log.remove_consumer("one")
    log.consumer("one").close()


def test_a_consumer_is_removed_in_either_mode(log: Log) -> None:
    with open_log(log.path, "r") as reader:
        consumer = reader.consumer("one")
        with pytest.raises(ConsumerLockedError):
            reader.remove_consumer("one")
        consumer.close()
        assert reader.remove_consumer("one")
        assert not log.remove_consumer("one")
        with pytest.raises(ValueError, match="consumer name"):
            reader.remove_consumer("../start")
    with pytest.raises(LogClosedError):
        reader.remove_consumer("one")
    assert log.consumers() == ()


def test_a_consumer_that_is_said_to_be_none_stays_away() -> None:
    """Also where the sync of an earlier removal failed."""
    disk = MemoryDisk()
    faulty = FaultyDisk(disk)
    with Log(faulty, "a", BARE) as log:
        log.consumer("one").close()
        faulty.faults = [Fault("sync_directory", faulty.counts["sync_directory"] + 1, errno.EIO)]
        with pytest.raises(StorageError):
            log.remove_consumer("one")
        assert not log.remove_consumer("one")
        for seed in range(20):
            with Log(disk.unsynced().sample(random.Random(seed)), "r", BARE) as after:
                assert after.consumers() == ()


def test_a_killed_holder_lets_go_and_its_records_come_again(log: Log) -> None:
    code = f"""
import os, signal, segstore
log = segstore.open({log.path!r}, "r")
c = log.consumer("one")
c.poll(40); c.commit(); c.poll(40)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], timeout=60)
    with log.consumer("one") as consumer:
        assert consumer.position == 40


def test_a_new_name_taken_by_many_at_once_has_one_holder(path: str) -> None:
    with open_log(path) as log:
        log.append_many([b"x"] * 10)
        for number in range(30):
            held: list[Any] = []
            refused: list[BaseException] = []
            gate = threading.Barrier(4)

            def take(
                name: str = f"c{number}", gate: Any = gate, held: Any = held, refused: Any = refused
            ) -> None:
                gate.wait()
                try:
                    held.append(log.consumer(name))
                except ConsumerLockedError as error:
                    refused.append(error)
                except BaseException as error:
                    held.append(error)

            threads = [threading.Thread(target=take, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(held) == 1, held
            assert len(refused) == 3
            held[0].commit(3)
            held[0].close()
            with log.consumer(f"c{number}") as again:
                assert again.committed == 3


def test_a_torn_commit_leaves_the_last_one(log: Log) -> None:
    with log.consumer("one") as consumer:
        for offset in (10, 20):
            consumer.commit(offset)
    file = Path(log.path, "one.consumer")
    good = file.read_bytes()
    assert len(good) == CHECKPOINT_BYTES
    newest = max(
        (1, 2),
        key=lambda n: int.from_bytes(good[n * SLOT_BYTES + 8 : n * SLOT_BYTES + 16], "little"),
    )
    for at in range(SLOT_BYTES):
        data = bytearray(good)
        data[newest * SLOT_BYTES + at] ^= 0x41
        file.write_bytes(data)
        with log.consumer("one") as consumer:
            assert consumer.committed == 10
    other = 3 - newest
    for at in range(0, SLOT_BYTES, 3):
        data = bytearray(good)
        data[other * SLOT_BYTES + at] ^= 0x41
        file.write_bytes(data)
        with log.consumer("one") as consumer:
            assert consumer.committed == 20


@pytest.mark.parametrize("damaged", [range(SLOT_BYTES), range(SLOT_BYTES, CHECKPOINT_BYTES)])
def test_a_damaged_consumer_is_reported_and_can_be_removed(log: Log, damaged: range) -> None:
    with log.consumer("one") as consumer:
        consumer.commit(20)
    damage(log, damaged)
    for _ in range(2):
        with pytest.raises(CorruptionError, match="committed offset"):
            log.consumer("one", start="end")
    assert [info.committed for info in log.consumers()] == [0]  # nobody knows what it still needs
    assert log.remove_consumer("one")
    assert log.consumer("one").position == 0


def test_a_consumer_that_committed_nothing_keeps_its_start_without_its_header(log: Log) -> None:
    log.consumer("one", start=20).close()
    damage(log, range(SLOT_BYTES))
    assert log.consumer("one", start="end").position == 20


def damage(log: Log, places: range) -> None:
    with Path(log.path, "one.consumer").open("r+b") as file:
        file.seek(places.start)
        file.write(bytes(len(places)))


def test_records_read_before_damage_are_not_lost_with_it(path: str) -> None:
    with open_log(path) as log:
        for value in lines(60):
            log.append(value)
            log.sync()  # a frame of its own
        data = bytearray(Path(log.segments()[0].path).read_bytes())
        at = data.index(lines(60)[40])
        data[at] ^= 1
        Path(log.segments()[0].path).write_bytes(data)
        with log.consumer("one") as consumer:
            assert [r.offset for r in consumer.poll(100)] == list(range(40))
            with pytest.raises(CorruptionError) as caught:
                consumer.poll(100)
            assert consumer.position == 40
            consumer.seek(caught.value.offsets.stop)
            assert [r.offset for r in consumer.poll(100)] == list(range(41, 60))


@pytest.mark.parametrize("max_records", [1, 3, 7, 1000])
@pytest.mark.parametrize("damaged", [range(1), range(17, 30), range(55, 60), range(60)])
def test_poll_goes_past_damage_on_request_and_commit_keeps_it_behind(
    path: str, max_records: int, damaged: range
) -> None:
    with open_log(path) as log:
        for value in lines(60):
            log.append(value)
            log.sync()  # a frame of its own
        file = Path(log.segments()[0].path)
        data = bytearray(file.read_bytes())
        for offset in damaged:
            data[data.index(lines(60)[offset])] ^= 1
        file.write_bytes(data)
        left = [offset for offset in range(60) if offset not in damaged]
        with log.consumer("one") as consumer:
            got: list[int] = []
            while records := consumer.poll(max_records, errors="skip"):
                assert len(records) <= max_records
                got += [record.offset for record in records]
                assert consumer.position > got[-1]
            assert got == left
            assert (consumer.position, consumer.lost_count) == (60, 0)
            assert log.stats().damaged_records == len(damaged)  # each of them once
            log.append(b"after")
            assert [record.value for record in consumer.poll(errors="skip")] == [b"after"]
            consumer.commit()
            assert consumer.committed == 61
            with pytest.raises(ConfigError, match="'raise' or 'skip'"):
                consumer.poll(errors="ignore")  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="'raise' or 'skip'"):
                log.follow(errors="ignore")  # type: ignore[arg-type]
            log.append(b"once more")
        with log.consumer("one") as consumer:
            assert [record.offset for record in consumer.poll()] == [61]


def test_poll_that_skips_waits_behind_damage_at_the_end(path: str) -> None:
    with open_log(path) as log:
        for value in lines(10):
            log.append(value)
            log.sync()  # a frame of its own
        file = Path(log.segments()[0].path)
        data = bytearray(file.read_bytes())
        data[data.index(lines(10)[9])] ^= 1
        file.write_bytes(data)
        with log.consumer("one", start=9) as consumer:
            assert consumer.poll(errors="skip", timeout=0.01) == []
            threading.Timer(0.1, log.append, [b"late"]).start()
            assert [r.offset for r in consumer.poll(errors="skip", timeout=20)] == [10]


@pytest.mark.parametrize("mode", ["a", "r"])
def test_what_was_lost_is_known_at_once(log: Log, mode: Any) -> None:
    with open_log(log.path, mode) if mode == "r" else nullcontext(log) as source:
        consumer = source.consumer("one")

        def lost() -> tuple[int, int]:
            """By what it has read, and by what it has committed."""
            (info,) = log.consumers()
            return consumer.lost_count, info.lost_count

        consumer.poll(40)
        consumer.commit(10)
        log.trim(30)
        assert lost() == (0, 20)
        consumer.commit()
        assert lost() == (0, 0)
        log.trim(100)
        assert lost() == (60, 60)
        assert consumer.poll(1)[0].offset == 100
        assert (lost(), consumer.committed) == ((60, 60), 100)
        consumer.commit(50)
        assert lost() == (60, 110)
        consumer.close()
        consumer = source.consumer("one")
        assert lost() == (110, 110)
        assert consumer.poll(1)[0].offset == 100
        assert lost() == (110, 110)


def test_retention_that_overtakes_is_counted(path: str) -> None:
    with open_log(path, segment_size="4KiB", batch_size=512, retention_records=10) as log:
        consumer = log.consumer("one")
        log.append_many([b"x" * 50] * 5)
        consumer.poll(2)
        for _ in range(8):
            log.append_many([b"x" * 50] * 5)
            log.roll()
        report = log.sweep()
        assert report.lost_by_consumer == {"one": log.start_offset}
        assert log.start_offset > 5
        got = consumer.poll(1000)
        assert [r.offset for r in got] == list(range(log.start_offset, 45))
        assert consumer.lost_count == log.start_offset - 2
        consumer.close()
        with log.consumer("one") as consumer:
            assert consumer.lost_count == log.start_offset - 2
            assert consumer.position == log.start_offset


def test_several_at_once_each_get_everything(path: str) -> None:
    with open_log(path, segment_size="8KiB", batch_size=1024) as log:
        got: dict[str, list[bytes]] = {}
        values = lines(2000)

        def consume(name: str) -> None:
            mine = got.setdefault(name, [])
            while len(mine) < len(values):
                with log.consumer(name) as consumer:
                    records = consumer.poll(150, timeout=20)
                    mine += [r.value for r in records]
                    consumer.commit()

        threads = [threading.Thread(daemon=True, target=consume, args=(f"c{n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        for start in range(0, len(values), 100):
            log.append_many(values[start : start + 100])
            if start % 500 == 0:
                log.maintain()
        for thread in threads:
            thread.join(60)
        assert [got[f"c{n}"] == values for n in range(3)] == [True] * 3


def test_a_commit_ahead_of_a_truncated_log_does_not_skip_what_comes(log: Log) -> None:
    with log.consumer("one", start="end"):
        pass
    log.truncate(99)
    with log.consumer("one") as consumer:
        assert consumer.position == 100
        log.append(b"new")
        assert [r.value for r in consumer.poll()] == [b"new"]


def test_a_truncation_moves_a_consumer_back_before_its_offsets_are_given_again(log: Log) -> None:
    with log.consumer("closed", start="end"):
        pass
    with log.consumer("open") as consumer:
        consumer.poll(150)
        consumer.commit()
        consumer.poll(100)
        log.truncate(99)
        new = log.append_many([b"new"] * 200)
        assert {info.name: info.committed for info in log.consumers()} == {
            "closed": 100,
            "open": 100,
        }
        # What was committed says where to go on: what was not, comes again.
        assert [record.offset for record in consumer.poll(1000)] == list(new)
        consumer.commit()
        assert consumer.committed == new.stop
    with log.consumer("closed") as consumer:
        assert [record.offset for record in consumer.poll(1000)] == list(new)


def test_a_truncation_moves_the_consumer_of_another_handle_back(log: Log) -> None:
    log.sync()
    with open_log(log.path, "r") as other, other.consumer("one") as consumer:
        consumer.poll(200)
        consumer.commit()
        log.truncate(99)
        new = log.append_many([b"new"] * 200)
        consumer.commit()  # not what the position was
        assert consumer.committed == 100
        assert [record.offset for record in consumer.poll(1000)] == list(new)


@pytest.mark.parametrize("mode", ["a", "r"])
def test_an_offset_from_before_a_truncation_is_not_committed_behind_it(
    log: Log, mode: Literal["a", "r"]
) -> None:
    log.sync()
    reader = log if mode == "a" else open_log(log.path, "r")
    with reader.consumer("one") as consumer:
        consumer.poll(100)
        consumer.commit()
        seen = consumer.poll(100)
        log.truncate(149)
        new = log.append_many([b"new"] * 200)
        with pytest.raises(OffsetOutOfRangeError, match=r"'one' has read, .*0 to 99"):
            consumer.commit(seen[-1].offset + 1)
        assert consumer.committed == consumer.position == 100
        again = consumer.poll(1000)
        assert [record.offset for record in again] == list(range(100, new.stop))
        consumer.commit(again[60].offset + 1)
        assert consumer.committed == 161


def test_a_closed_consumer_refuses(log: Log) -> None:
    consumer = log.consumer("one")
    consumer.close()
    consumer.close()
    for call in (consumer.poll, consumer.commit, lambda: consumer.seek(0), lambda: iter(consumer)):
        with pytest.raises(LogClosedError):
            call()


def test_a_closed_log_refuses_its_consumers(path: str) -> None:
    log = open_log(path)
    log.append(b"x")
    consumer = log.consumer("one")
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            for _ in range(3):
                consumer.poll(10, timeout=None)
        except BaseException as error:
            waiting.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    threading.Event().wait(0.2)
    log.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(waiting[0], LogClosedError)
    consumer.close()


@pytest.mark.parametrize("mode", ["a", "r"])
def test_the_child_of_a_fork_can_not_commit_nor_keep_the_name(log: Log, mode: Any) -> None:
    source = log if mode == "a" else open_log(log.path, "r")
    consumer = source.consumer("one")
    read, write = os.pipe()
    hold_read, hold_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            consumer.commit(5)
            os.write(write, b"committed")
        except LogClosedError as error:
            os.write(write, b"refused" if "belongs to the parent" in str(error) else b"odd")
        finally:
            os.read(hold_read, 1)
            os._exit(0)
    assert os.read(read, 100) == b"refused"
    consumer.commit(7)
    consumer.close()
    source.consumer("one").close()  # the child lives, and does not hold the name
    os.write(hold_write, b"x")
    os.waitpid(child, 0)
    source.close()
    for fd in (read, write, hold_read, hold_write):
        os.close(fd)


def test_a_failed_commit_leaves_the_last_one(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = log.consumer("one")
    consumer.commit(5)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "injected")

    monkeypatch.setattr(CheckpointFile, "move", fail)
    with pytest.raises(segstore.StorageError, match="offset 9"):
        consumer.commit(9)
    assert consumer.committed == 5
    consumer.close()


def test_a_commit_of_the_last_one_takes_an_interrupted_one_back(log: Log) -> None:
    step = 0
    was_interrupted = True
    while was_interrupted:
        with log.consumer("one") as consumer:
            consumer.commit(10)
            was_interrupted = interrupted(lambda consumer=consumer: consumer.commit(20), step)
            consumer.commit(10)
            assert consumer.committed == log.consumers()[0].committed == 10
        step += 1
    assert step > 20


def test_a_name_is_let_go_of_by_a_close_once_more_after_an_interrupted_one(log: Log) -> None:
    step = 0
    was_interrupted = True
    while was_interrupted:
        consumer = log.consumer("one")
        was_interrupted = interrupted(consumer.close, step)
        consumer.close()
        log.consumer("one").close()
        step += 1
    assert step > 2


@pytest.mark.parametrize("call", [Consumer.poll, Consumer.commit, iter, lambda one: one.seek(0)])
def test_a_consumer_that_was_moved_back_and_cannot_be_read_is_a_storage_error(call: Any) -> None:
    disk = FaultyDisk(MemoryDisk())
    with Log(disk, "a", BARE) as log, log.consumer("one") as consumer:
        log.append_many(lines(50))
        consumer.poll(40)
        consumer.commit()
        log.truncate(29)
        disk.before = fail_to_read
        with pytest.raises(StorageError, match="consumer 'one'") as caught:
            call(consumer)
        assert caught.value.errno == errno.EIO
        disk.before = None
        assert (consumer.poll(), consumer.position, consumer.committed) == ([], 30, 30)


def fail_to_read(kind: str, name: str) -> None:
    if kind == "read" and name == "one.consumer":
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(errno.EIO, "once"), segstore.StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_what_a_failed_or_interrupted_poll_had_read_comes_with_the_next(
    path: str, error: BaseException, seen: type[BaseException]
) -> None:
    disk = two_segments(path)

    def fail(kind: str, name: str) -> None:
        if kind == "open" and name == segment_file(100, ".log"):
            disk.before = None
            raise error

    with Log(disk, "r", LogConfig.of({}, environment={})) as log, log.consumer("one") as consumer:
        disk.before = fail
        with pytest.raises(seen):
            consumer.poll()
        assert consumer.position == 0
        consumer.commit()
        assert consumer.committed == 0
        assert [record.offset for record in consumer.poll()] == list(range(200))


@pytest.mark.parametrize("read", [Consumer.poll, list])
@pytest.mark.parametrize(
    ("opened", "start", "given"), [(0, 100, range(100, 200)), (100, 200, range(100))]
)
def test_retention_in_the_middle_of_a_poll_is_passed_over(
    path: str, opened: int, start: int, given: range, read: Any
) -> None:
    disk = two_segments(path)
    writer = open_log(path, compression=None)
    writer.roll()

    def trim(kind: str, name: str) -> None:
        if kind == "open" and name == segment_file(opened, ".log"):
            disk.before = None
            writer.trim(start)

    with (
        writer,
        Log(disk, "r", LogConfig.of({}, environment={})) as log,
        log.consumer("one") as consumer,
    ):
        disk.before = trim
        assert [record.offset for record in read(consumer)] == list(given)
        assert read(consumer) == []
        assert consumer.lost_count == 100


def log_with_one(disk: FaultyDisk) -> Log:
    """Of 50 records, and with the consumer "one", which has committed 20 of them."""
    log = Log(disk, "a", BARE)
    log.append_many(lines(50))
    log.consumer("one", start=20).close()
    return log


@pytest.mark.parametrize("look", [Log.consumers, Log.verify])
def test_a_consumer_that_is_removed_just_then_is_none(look: Any) -> None:
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    with log_with_one(disk) as log:

        def remove(kind: str, name: str) -> None:
            if kind == "open" and name == "one.consumer" and memory.size_of(name) is not None:
                memory.unlink(name)

        disk.before = remove
        found = look(log)
        assert memory.size_of("one.consumer") is None
        assert found == () if look is Log.consumers else found.notes == ()


@pytest.mark.parametrize("step", ["open", "lock"])
def test_a_name_that_is_removed_just_then_is_taken_anew(step: str) -> None:
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    with log_with_one(disk) as log:

        def remove(kind: str, name: str) -> None:
            if (kind, name) == (step, "one.consumer"):
                disk.before = None
                memory.unlink(name)

        disk.before = remove
        with log.consumer("one", start=30) as consumer:
            assert disk.before is None
            consumer.commit(40)
        assert [info.committed for info in log.consumers()] == [40]


def test_a_registration_that_failed_can_be_tried_again() -> None:
    disk = FaultyDisk(MemoryDisk())
    with Log(disk, "a", BARE) as log:
        log.append_many(lines(50))
        disk.faults = [Fault("sync", disk.counts["sync"] + 1, errno.EIO)]
        with pytest.raises(StorageError) as caught:
            log.consumer("one", start=20)
        assert log.consumer("one", start=20).position == 20
        assert caught.value.errno == errno.EIO


def after_power_cut_behind_a_commit(seed: int) -> MemoryDisk:
    """The consumer "one" has committed 100 records, and 50 of them may be gone."""
    disk = MemoryDisk()
    log = Log(disk, "a", BARE)
    log.append_many(lines(50))
    log.sync()
    with log.consumer("one") as consumer:
        for line in lines(50):
            log.append(line)
        while consumer.poll():
            pass
        consumer.commit()
    return disk.unsynced().sample(random.Random(seed))


@pytest.mark.parametrize("seed", range(8))
def test_a_consumer_is_held_back_to_what_a_power_cut_left(seed: int) -> None:
    with Log(after_power_cut_behind_a_commit(seed), "a", BARE) as log:
        new = log.append_many([b"new"] * 100)
        with log.consumer("one") as consumer:
            found = [record.offset for record in consumer.poll(1000)]
        assert set(new) <= set(found)


@pytest.mark.parametrize("seed", range(8))
def test_a_consumer_that_is_held_back_while_somebody_has_it_commits_as_any(seed: int) -> None:
    """It was opened behind a power cut, and before the writer that moved its file back."""
    after = after_power_cut_behind_a_commit(seed)
    consumer = Log(after, "r", BARE).consumer("one")
    with Log(after, "a", BARE) as log:
        new = log.append_many([b"new"] * 50)
        assert [record.offset for record in consumer.poll()][-50:] == list(new)
        for committed in (100, log.end_offset):
            consumer.commit(committed)
            assert [info.committed for info in log.consumers()] == [committed]


@pytest.mark.parametrize("seed", range(40))
def test_a_registration_torn_by_a_power_cut_is_made_again(seed: int) -> None:
    random_ = random.Random(seed)
    states: list[MemoryDisk] = []

    def watch(disk: MemoryDisk, event: Event) -> None:
        if event.kind != "create":
            unsynced = disk.unsynced()
            states.extend(unsynced.sample(random_) for _ in range(4))

    disk = MemoryDisk()
    with Log(disk, "a", BARE) as log:
        log.append_many(lines(50), durability="durable")
        disk.watch = watch
        log.consumer("one", start=20).close()
        disk.watch = None
        states.append(disk.unsynced().sample(random_))
    for after in states:
        with Log(after, "a", BARE) as log:
            assert [info.committed for info in log.consumers()] in ([], [20])
            assert not log.verify().notes
            with log.consumer("one", start=20) as consumer:
                assert consumer.poll(1)[0].offset == 20


def test_an_opened_consumer_stands_on_what_is_durable() -> None:
    """Two commits that no sync covered must not be in both slots when the power goes."""
    disk = MemoryDisk()
    log = Log(disk, "a", BARE)
    log.append_many(lines(50), durability="durable")
    with log.consumer("one") as consumer:
        consumer.commit(10)
        consumer.commit(20)
        killed = []

        def kill(disk: MemoryDisk, event: Event) -> None:
            if event.kind == "sync" and not killed:
                killed.append(disk.after_kill())

        disk.watch = kill
        consumer.commit(30)
    after = killed[0]
    log = Log(after, "a", BARE)
    with log.consumer("one") as consumer:
        assert consumer.committed == 30  # as the cache has it
        assert _committed_after_power_cuts(after) == {30}
        consumer.commit()
        consumer.poll(5)
        cuts: set[int] = set()
        after.watch = lambda disk, _: cuts.update(_committed_after_power_cuts(disk))
        consumer.commit()
        assert cuts <= {30, 35}


def _committed_after_power_cuts(disk: MemoryDisk) -> set[int]:
    unsynced = disk.unsynced()
    found = set()
    for seed in range(40):
        with Log(unsynced.sample(random.Random(seed)), "r", BARE) as log:
            found.update(info.committed for info in log.consumers())
    return found


def test_what_was_lost_counts_once_whatever_is_interrupted(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Consumer, *values: int) -> None:
        move(self, *values)
        raise KeyboardInterrupt

    with open_log(path) as log, log.consumer("one") as consumer:
        log.append_many(lines(100))
        consumer.poll(20)
        log.trim(50)
        move = Consumer._move
        with monkeypatch.context() as patch:
            patch.setattr(Consumer, "_move", interrupted)
            with pytest.raises(KeyboardInterrupt):
                consumer.poll()
        assert consumer.poll(1)[0].offset == 50
        assert consumer.lost_count == 30


def test_what_was_committed_is_not_lost_where_it_went_back_to_it(path: str) -> None:
    with open_log(path) as log, log.consumer("one") as consumer:
        log.append_many(lines(100))
        consumer.commit(80)
        consumer.seek(10)
        log.trim(50)
        assert consumer.poll(1)[0].offset == 50
        assert (consumer.committed, consumer.lost_count) == (80, 0)
