"""Does a disk keep the rules of the seam? Tests to run against your own, with pytest.

    class TestMyDisk(DiskConformance):
        @pytest.fixture
        def disk(self, tmp_path):
            return MyDisk(tmp_path)

`disk` is a new and empty one for each test. What a power cut leaves is not tested here, because
only the disk itself can tell; `MemoryDisk` shows how that may be done.
"""

from __future__ import annotations

import errno

from segstore.config import LogConfig
from segstore.disk import Disk, LockHeldError
from segstore.errors import LogLockedError
from segstore.log.log import Log

PAGE_BYTES = 4096


class DiskConformance:
    """Inherit from it, and add a fixture `disk`."""

    def test_what_is_written_is_read_back_whole_and_in_parts(self, disk: Disk) -> None:
        """Any buffers, in one write, at any position; a gap reads as zeros."""
        file = disk.open("f", write=True, create=True)
        file.write([b"ab", b"", bytearray(b"cd"), memoryview(b"ef")], 3)
        assert file.size() == 9
        assert file.read(100, 0) == b"\0\0\0abcdef"
        assert file.read(2, 4) == b"bc"
        assert file.read(2, 9) == file.read(2, 100) == b""
        file.write([b"XY"], 4)
        assert file.read(9, 0) == b"\0\0\0aXYdef"
        file.close()

    def test_a_write_takes_any_number_of_parts(self, disk: Disk) -> None:
        """More than the system's own call may take at once."""
        file = disk.open("f", write=True, create=True)
        parts = [b"%05d" % number for number in range(5000)]
        file.write(parts, 0)
        assert file.read(30_000, 0) == b"".join(parts)
        file.close()

    def test_a_second_open_sees_what_the_first_wrote_at_once(self, disk: Disk) -> None:
        """Synced or not."""
        first = disk.open("f", write=True, create=True)
        second = disk.open("f")
        first.write([b"new"], 0)
        assert second.read(3, 0) == b"new"
        assert second.name == "f"
        first.close()
        second.close()

    def test_a_file_opened_to_read_is_not_written(self, disk: Disk) -> None:
        """The error is an OSError with an errno."""
        disk.open("f", write=True, create=True).close()
        file = disk.open("f")
        assert _errno(lambda: file.write([b"x"], 0))
        assert disk.size_of("f") == 0
        file.close()

    def test_creating_needs_a_free_name_and_opening_a_taken_one(self, disk: Disk) -> None:
        """Nothing is ever overwritten by being created."""
        assert _errno(lambda: disk.open("f")) == errno.ENOENT
        assert disk.size_of("f") is None
        disk.open("f", write=True, create=True).close()
        assert _errno(lambda: disk.open("f", write=True, create=True)) == errno.EEXIST
        assert disk.names() == ["f"]
        assert disk.size_of("f") == 0

    def test_a_file_becomes_shorter_and_longer(self, disk: Disk) -> None:
        """What was cut off does not come back."""
        file = disk.open("f", write=True, create=True)
        file.write([b"abcdef"], 0)
        file.truncate(2)
        assert file.read(10, 0) == b"ab"
        file.truncate(4)
        assert file.read(10, 0) == b"ab\0\0"
        file.sync()
        file.sync(data_only=True)
        assert disk.size_of("f") == 4
        file.close()

    def test_leaving_the_cache_changes_nothing(self, disk: Disk) -> None:
        """Whatever part it names, written or not."""
        file = disk.open("f", write=True, create=True)
        file.write([bytes(range(256)) * 64], 0)
        for size_bytes, position in ((10_000, 5), (16_384, 0), (100_000, 10_000), (5, 1 << 40)):
            file.uncache(size_bytes, position)
        assert file.size() == 16_384
        assert file.read(20_000, 0) == bytes(range(256)) * 64
        file.sync()
        file.close()

    def test_renaming_replaces_and_unlinking_removes(self, disk: Disk) -> None:
        """A file that is open stays readable through its handle."""
        first = disk.open("a", write=True, create=True)
        first.write([b"first"], 0)
        disk.open("b", write=True, create=True).close()
        disk.rename("a", "b")
        assert disk.names() == ["b"]
        assert disk.size_of("b") == 5
        disk.sync_directory()
        disk.unlink("b")
        assert disk.names() == []
        assert first.read(5, 0) == b"first"
        assert _errno(lambda: disk.unlink("b")) == errno.ENOENT
        assert _errno(lambda: disk.rename("b", "c")) == errno.ENOENT
        disk.sync_directory()
        first.close()

    def test_a_file_knows_whether_it_has_its_name(self, disk: Disk) -> None:
        """Renames, removals and files of the same name tell files apart."""
        first = disk.open("a", write=True, create=True)
        again = disk.open("a")
        assert disk.is_named(first, "a")
        assert disk.is_named(again, "a")
        assert not disk.is_named(first, "b")
        assert not first.is_shared()
        disk.unlink("a")
        assert not disk.is_named(first, "a")
        second = disk.open("a", write=True, create=True)
        assert not disk.is_named(first, "a")
        disk.rename("a", "b")
        assert disk.is_named(second, "b")

    def test_a_mapping_is_the_file(self, disk: Disk) -> None:
        """Stores are seen by reads and by other mappings at once, and writes by the mapping."""
        file = disk.open("f", write=True, create=True)
        assert _errno(lambda: file.map(PAGE_BYTES))
        file.allocate(PAGE_BYTES)
        assert file.size() == PAGE_BYTES
        mapping = file.map(PAGE_BYTES)
        reader = disk.open("f")
        seen = reader.map(PAGE_BYTES)
        assert seen.view.readonly
        assert not mapping.view.readonly
        mapping.view[5:8] = b"abc"
        assert reader.read(3, 5) == bytes(seen.view[5:8]) == b"abc"
        file.sync()
        seen.wait(8, 0, 0.01)  # returns by itself
        mapping.wake(8)
        mapping.view[8] = 7
        mapping.uncache()
        file.uncache(PAGE_BYTES, 0)
        assert mapping.view[8] == seen.view[8] == 7
        mapping.view[8] = 8
        assert reader.read(1, 8) == b"\x08"
        seen.close()
        mapping.close()
        reader.close()
        file.close()

    def test_allocating_keeps_what_is_there(self, disk: Disk) -> None:
        """And the rest is zeros."""
        file = disk.open("f", write=True, create=True)
        file.write([b"abc"], 0)
        file.allocate(PAGE_BYTES)
        assert file.read(5, 0) == b"abc\0\0"
        file.close()

    def test_a_lock_is_held_until_its_file_is_closed(self, disk: Disk) -> None:
        """Against every other open, in the same process too."""
        first = disk.open("lock", write=True, create=True)
        first.lock()
        second = disk.open("lock", write=True)
        try:
            second.lock()
        except LockHeldError:
            pass
        else:
            raise AssertionError("two opens have the lock")
        first.close()
        first.close()
        second.lock()
        second.close()

    def test_a_shared_lock_keeps_out_who_wants_the_file_alone(self, disk: Disk) -> None:
        """And nobody else that shares it."""
        first = disk.open("lock", write=True, create=True)
        first.lock(shared=True)
        second = disk.open("lock")
        second.lock(shared=True)
        alone = disk.open("lock", write=True)
        for sharing in (first, second):
            try:
                alone.lock()
            except LockHeldError:
                sharing.close()
            else:
                raise AssertionError("a lock was taken that is shared")
        alone.lock()
        late = disk.open("lock")
        try:
            late.lock(shared=True)
        except LockHeldError:
            pass
        else:
            raise AssertionError("a lock was shared that somebody has alone")
        alone.close()
        late.close()

    def test_a_log_runs_on_it(self, disk: Disk) -> None:
        """Everything that a log does with a disk, and what it reads afterwards."""
        config = LogConfig.of(
            {"background": False, "segment_size": 8192, "batch_size": 1024}, environment={}
        )
        expected = [b"%d " % number + bytes(number % 200) for number in range(300)]
        log = Log(disk, "a", config)
        for value in expected[:200]:
            log.append(value)
        log.append_many(expected[200:], durability="durable")
        try:
            Log(disk, "a", config)
        except LogLockedError:
            pass
        else:
            raise AssertionError("two writers have the log")
        log.roll()
        assert log.compress() > 1
        log.truncate(249)
        log.trim(50)
        assert log.append(b"next") == 250
        expected = [*expected[50:250], b"next"]
        assert list(log.values()) == expected
        assert not log.verify().lost
        with log.consumer("one") as consumer:
            consumer.poll(10)
            consumer.commit()
        reader = Log(disk, "r", config)
        assert list(reader.values()) == expected
        assert reader[100].value == expected[50]


def _errno(call: object) -> int | None:
    """The errno of the OSError that a call raises, as it has to."""
    try:
        call()  # type: ignore[operator]
    except OSError as error:
        return error.errno
    return None
