"""A checkpoint file: one number on disk, moved durably and in place."""

from __future__ import annotations

import errno
from contextlib import suppress

from segstore.disk import Disk, File, open_anew
from segstore.format.checkpoint import (
    CHECKPOINT_BYTES,
    SEQUENCE_MAX,
    SLOT_BYTES,
    Checkpoint,
    decode_slots,
    encode_slot,
    intact_slots,
    slot_position,
)
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    FileHeader,
    decode_file_header,
    encode_file_header,
)
from segstore.format.names import temporary


class CheckpointFile:
    """An open checkpoint file.

    Attributes:
        current: what it holds.
        is_settled: False once a move failed or was interrupted: it may hold what that was to store.
        log_id: the log it belongs to.
    """

    def __init__(self, file: File, header: FileHeader, current: Checkpoint) -> None:
        self._file = file
        self.log_id = header.log_id
        self.current = current
        self.is_settled = True
        # What the file held at the last look, as bytes and decoded.
        self._seen: tuple[bytes, Checkpoint | None] = b"", None

    @classmethod
    def open(cls, disk: Disk, name: str, kind: bytes, *, write: bool) -> CheckpointFile | None:
        """The file of that name, or None where there is no intact one.

        Raises:
            OSError: it can't be read.
            UnsupportedFormatError: it is of a later format version.
        """
        if disk.size_of(name) is None:
            return None
        file = disk.open(name, write=write)
        data = file.read(CHECKPOINT_BYTES, 0)
        header = decode_file_header(data[:FILE_HEADER_BYTES], kind)
        current = decode_slots(data)
        if header is None or current is None:
            file.close()
            return None
        return cls(file, header, current)

    @classmethod
    def create(cls, disk: Disk, name: str, header: FileHeader, value: int) -> CheckpointFile:
        """A new file in place of any other, durably.

        Raises:
            OSError: it can't be written.
        """
        aside = temporary(name)
        file = open_anew(disk, aside)
        try:
            first = Checkpoint(1, value, header.created)
            file.allocate(CHECKPOINT_BYTES)
            file.write([encode_file_header(header)], 0)
            file.write([encode_slot(first)], slot_position(first.sequence))
            file.sync()
        except OSError:
            file.close()
            disk.unlink(aside)
            raise
        disk.rename(aside, name)
        disk.sync_directory()
        return cls(file, header, first)

    @classmethod
    def take(cls, disk: Disk, name: str, header: FileHeader, value: int) -> CheckpointFile | None:
        """The file of that name, locked, made with `value` if it is new; None if it is damaged.

        It is made under its own name and under its lock, never put in place of another: whoever
        holds the lock of a file that lost its name would hold nothing. The header comes last, when
        the rest is durable: without one the file was never finished, and is begun again.

        Raises:
            LockHeldError: somebody else holds it.
            OSError: it can't be made, written or read.
        """
        while True:
            try:
                file = disk.open(name, write=True, create=True)
            except FileExistsError:
                try:
                    file = disk.open(name, write=True)
                except FileNotFoundError:
                    continue
            try:
                file.lock()
                if not disk.is_named(file, name):
                    file.close()
                    continue
                data = file.read(CHECKPOINT_BYTES, 0)
                found, current = decode_file_header(data, header.kind), decode_slots(data)
                if found is None and _may_be_new(data):
                    found, current = header, current or Checkpoint(1, value, header.created)
                    slot_at = slot_position(current.sequence)
                    zeros = bytes(slot_at), bytes(CHECKPOINT_BYTES - slot_at - SLOT_BYTES)
                    file.write([zeros[0], encode_slot(current), zeros[1]], 0)
                    file.sync()
                    file.write([encode_file_header(header)], 0)
                if found is None or current is None:
                    file.close()
                    return None
                taken = cls(file, found, current)
                # Whoever had it before may have been killed ahead of a sync. Of two slots that are
                # not durable, the next power cut could take both.
                taken.prove()
                disk.sync_directory()
            except BaseException:
                file.close()
                raise
            return taken

    @staticmethod
    def remove(disk: Disk, name: str) -> bool:
        """Remove the file of that name, durably; False where there is none.

        Raises:
            LockHeldError: somebody holds it.
            OSError: it can't be opened or removed.
        """
        while True:
            try:
                file = disk.open(name)
            except FileNotFoundError:
                # A power cut could bring back what somebody removed whose sync failed or is to
                # come.
                disk.sync_directory()
                return False
            try:
                file.lock()
                if disk.is_named(file, name):
                    disk.unlink(name)
                    disk.sync_directory()
                    return True
            finally:
                file.close()

    def reload(self) -> Checkpoint | None:
        """What the file holds now, as another process may have moved it; None if damaged."""
        data = self._file.read(CHECKPOINT_BYTES, 0)
        seen, found = self._seen
        if data != seen:  # readers ask before each record
            found = decode_slots(data)
            self._seen = data, found
        if found is not None:
            self.current = found
        return found

    def move(self, value: int, time: int, *, lost_count: int | None = None) -> None:
        """Store a value durably; a crash at any moment leaves the old one or the new.

        Raises:
            OSError: it can't be written or synced. The old one counts; where it can't be put back
                either, a power cut or the next opening may find the new one.
        """
        current = self.current
        if current.sequence == SEQUENCE_MAX:  # which no count of writes reaches: somebody forged it
            raise OSError(errno.EOVERFLOW, "the checkpoint is damaged; delete it", self._file.name)
        lost = current.lost_count if lost_count is None else lost_count
        following = Checkpoint(current.sequence + 1, value, time, lost)
        self.is_settled = False
        try:
            self._store(following)
        except OSError:
            # The cache has it all the same, and so would the next opening. In its place, as the
            # other slot may be the only durable one.
            with suppress(OSError):
                self._store(current._replace(sequence=following.sequence))
            raise
        self.current = following
        self.is_settled = True

    def prove(self) -> None:
        """Store durably what it holds, which an earlier process may have written without a sync.

        Raises:
            OSError: it can't be written or synced.
        """
        self._store(self.current)

    def _store(self, checkpoint: Checkpoint) -> None:
        self._file.write([encode_slot(checkpoint)], slot_position(checkpoint.sequence))
        self._file.sync(data_only=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def may_exceed(disk: Disk, name: str, kind: bytes, value: int) -> bool:
    """Whether an intact file is above `value`, or a power cut might have it so again.

    Raises:
        OSError, UnsupportedFormatError: as `look_into`.
    """
    data = _contents(disk, name)
    if decode_file_header(data, kind) is None:
        return False
    return any(slot.value > value for slot in intact_slots(data))


def look_into(disk: Disk, name: str, kind: bytes) -> tuple[Checkpoint | None, bool]:
    """What a file holds, None if damaged; and whether `CheckpointFile.take` is through with it.

    Raises:
        OSError: it can't be read (FileNotFoundError where there is none).
        UnsupportedFormatError: it is of a later format version.
    """
    data = _contents(disk, name)
    if decode_file_header(data, kind) is None:
        return None, not _may_be_new(data)
    return decode_slots(data), True


def _contents(disk: Disk, name: str) -> bytes:
    file = disk.open(name)
    try:
        return file.read(CHECKPOINT_BYTES, 0)
    finally:
        file.close()


def _may_be_new(data: bytes) -> bool:
    """Whether the value was never moved; `data` has no intact header."""
    second = slot_position(2)
    return not any(data[second : second + SLOT_BYTES])
