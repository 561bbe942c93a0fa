"""The tail: a small mapped file that holds the newest records until they fill a frame.

    0              64                   4096
    +--------------+--------------------+---------+---------+-----+
    | file header  | registers          | frame   | frame   | ... |   1 MiB in all
    +--------------+--------------------+---------+---------+-----+

    register, 32 bytes: two copies of | value u64 | its complement u64 |, written in turn
    at 64: the end offset of the segments, at 96: below which the segments are durable,
    at 128: the recovery point, at 160: the epoch, which rises whenever offsets are given out again,
    at 192: below which segments and tail together are durable

A store into a shared mapping is in the page cache at once, so a record in the tail survives the
process without a system call. A sync of the tail has it survive a power cut as well. The tail is
drained into the active segment as full frames, and then used again from its start.

Rule 1: the file is allocated before it is mapped and never changes its size.
Rule 2: frames follow one another in the file as their offsets do. What an earlier round left
        behind has lower offsets, so it can't be taken for new. A word of zeros behind each
        frame, stored before the frame counts, says the same of values that hold frames.
Rule 3: giving offsets out a second time (`truncate`, or recovery after it cut) voids the tail
        first, because rule 2 rests on offsets that only rise.
Rule 4: a register is one aligned 8-byte store, and what it says is true whenever it says it:
        durable is stored after the sync returned, end after the write returned.
Rule 5: what the tail alone holds durably is not stored over before the segments do.
"""

from segstore.disk import Disk, File, open_anew
from segstore.errors import LogClosedError
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_TAIL,
    FileHeader,
    decode_file_header,
    encode_file_header,
)
from segstore.format.names import OFFSET_MAX, TAIL, temporary

TAIL_BYTES = 1 << 20
FRAMES_POSITION = 4096

_END_AT = FILE_HEADER_BYTES
_SEGMENTS_DURABLE_AT = _END_AT + 32
_RECOVERY_POINT_AT = _SEGMENTS_DURABLE_AT + 32
_EPOCH_AT = _RECOVERY_POINT_AT + 32
_TAIL_DURABLE_AT = _EPOCH_AT + 32
_ALL_ONES = 2**64 - 1
# A writer that died in the middle of a store leaves one copy as it is.
_LOOKS_MAX = 4


class Register:
    """One number in the tail's header that other processes and the next open can rely on."""

    def __init__(self, view: memoryview, at: int) -> None:
        self._words = view[at : at + 32].cast("Q")
        self._newest: tuple[int, int] | None = None  # what `advance` stored last, and in which copy

    def read(self) -> int | None:
        """The number, or None when neither copy is whole.

        Raises:
            LogClosedError: the tail was closed.
        """
        try:
            first, first_mark, second, second_mark = self._words.tolist()
            if (
                first ^ first_mark == _ALL_ONES
                and second ^ second_mark == _ALL_ONES
                and first <= OFFSET_MAX
                and second <= OFFSET_MAX
            ):
                return first if first > second else second
            return self._read_again()
        except ValueError:  # released in another thread
            raise LogClosedError() from None

    def _read_again(self) -> int | None:
        """The number, after a look in the middle of a store.

        Whoever stood still between two words, while the writer went on, may have a half of each
        copy; then neither counts, or the older one.
        """
        whole: list[int] = []
        for _ in range(_LOOKS_MAX):
            first, first_mark, second, second_mark = self._words.tolist()
            copies = (first, first_mark), (second, second_mark)
            whole = [
                value for value, mark in copies if value ^ mark == _ALL_ONES and value <= OFFSET_MAX
            ]
            if len(whole) == len(copies):
                break
        return max(whole, default=None)

    def token(self) -> bytes:
        """Something that changes when the number does, at the price of one copy."""
        try:
            return self._words.tobytes()
        except ValueError:
            raise LogClosedError() from None

    def advance(self, value: int) -> None:
        """Store a higher number; a crash in between leaves the last one."""
        if self._newest is None:
            current = self.read()
            self._newest = (
                -1 if current is None else current,
                0 if self._words[0] == current else 2,
            )
        current, turn = self._newest
        if value != current:
            turn ^= 2
            words = self._words
            words[turn] = value
            words[turn + 1] = value ^ _ALL_ONES
            self._newest = (value, turn)

    def set(self, value: int) -> None:
        """Store any number, lower ones too, in both copies."""
        for turn in (0, 2):
            self._words[turn] = value
            self._words[turn + 1] = value ^ _ALL_ONES
        self._newest = None

    def release(self) -> None:
        """Let go of the mapping."""
        self._words.release()


class Tail:
    """The tail file, opened and mapped."""

    def __init__(self, file: File, header: FileHeader | None) -> None:
        """`header` is None where it is damaged: the frames say themselves whose they are."""
        self._file = file
        self._mapping = file.map(TAIL_BYTES)
        self.log_id = None if header is None else header.log_id
        self.view = self._mapping.view
        self.end = Register(self.view, _END_AT)
        self.segments_durable = Register(self.view, _SEGMENTS_DURABLE_AT)
        self.tail_durable = Register(self.view, _TAIL_DURABLE_AT)
        self.recovery_point = Register(self.view, _RECOVERY_POINT_AT)
        self.epoch = Register(self.view, _EPOCH_AT)
        self._offsets = (self.end, self.segments_durable, self.recovery_point, self.tail_durable)

    @staticmethod
    def is_in(disk: Disk) -> bool:
        """Whether the log has a tail of the right size.

        Raises:
            OSError: that can't be told.
        """
        return disk.size_of(TAIL) == TAIL_BYTES

    @classmethod
    def open(cls, disk: Disk, *, write: bool) -> "Tail | None":
        """The tail of the log, or None where there is none of the right size.

        Raises:
            UnsupportedFormatError: it is of a later format version.
            OSError: it can't be read.
        """
        if not cls.is_in(disk):
            return None
        file = disk.open(TAIL, write=write)
        try:
            header = decode_file_header(file.read(FILE_HEADER_BYTES, 0), KIND_TAIL)
            if write:  # a copy may have holes, and a store into one on a full disk is SIGBUS
                file.allocate(TAIL_BYTES)
                file.sync(data_only=True)  # for `uncache`, too
            tail = cls(file, header)
            if not write:  # who only reads needs no more than the mapping
                file.close()
            return tail
        except BaseException:
            file.close()
            raise

    @classmethod
    def create(
        cls, disk: Disk, log_id: bytes, created: int, end_offset: int, durable_offset: int
    ) -> "Tail":
        """A new, empty tail in place of any other, durably.

        `durable_offset` is below what data and index of the segments are durable.

        Raises:
            OSError: the blocks can't be allocated; nothing is left behind.
        """
        name = temporary(TAIL)
        file = open_anew(disk, name)
        try:
            file.allocate(TAIL_BYTES)
            header = FileHeader(KIND_TAIL, 0, log_id, created)
            file.write([encode_file_header(header)], 0)
            tail = cls(file, header)
            for register in tail._offsets:
                register.set(durable_offset)
            tail.end.set(end_offset)
            tail.epoch.set(1)
            file.sync()
        except OSError:
            file.close()
            disk.unlink(name)
            raise
        disk.rename(name, TAIL)
        disk.sync_directory()
        return tail

    def mend_header(self, log_id: bytes, created: int) -> None:
        """Write the header anew where it is damaged."""
        if self.log_id is None:
            self.log_id = log_id
            header = FileHeader(KIND_TAIL, 0, log_id, created)
            self.view[:FILE_HEADER_BYTES] = encode_file_header(header)

    def void(self, end_offset: int) -> None:
        """Forget every frame and lower every register, durably, before offsets are given again."""
        size = len(self.view) - FRAMES_POSITION
        self.view[FRAMES_POSITION:] = bytes(size)
        for register in self._offsets:
            register.set(min(end_offset, register.read() or 0))
        self.begin_epoch()
        self.sync()

    def begin_epoch(self) -> None:
        """Have readers, here and in other processes, rely on nothing that they know so far."""
        self.epoch.advance((self.epoch.read() or 0) + 1)

    def uncache(self) -> None:
        """Have the cache forget it, of which nothing is needed: the segments have it durably.

        Whoever wrote or read much of it at once, as `cp` does, left it in the cache in large
        pieces, and a sync brings all of a piece to the device. But after a failed sync the cache
        may be all that has a record.
        """
        self._mapping.uncache()
        self._file.uncache(TAIL_BYTES, 0)

    def sync(self) -> None:
        """Bring the tail to the device."""
        self._file.sync(data_only=True)

    def close(self) -> None:
        """Unmap and close."""
        for register in (*self._offsets, self.epoch):
            register.release()
        self._mapping.close()
        self._file.close()
