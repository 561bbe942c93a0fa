"""The doorbell: how a follower in any process sleeps until there is something new.

    0              64        68                     4096
    +--------------+---------+----------------------+
    | file header  | u32     | zeros                |
    +--------------+---------+----------------------+

The u32 is 1 while somebody waits. A follower stores 1, looks once more for new records, and
sleeps on it; an append that finds it not 0 stores 0 and wakes everybody. So an append costs no
system call while nobody waits, and a follower none while there is something to read.

It holds no data, and is the one file that a waiting reader writes to. A reader that may not write
to it looks every two milliseconds instead. A wake that gets lost (the reader's store and the
writer's look may cross) costs `WAIT_S_MAX`, not more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from segstore.disk import Disk, Mapping, open_anew
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_DOORBELL,
    FileHeader,
    decode_file_header,
    encode_file_header,
)
from segstore.format.names import DOORBELL, temporary

DOORBELL_BYTES = 4096
_WORD_AT = FILE_HEADER_BYTES

# A waiter looks this often even when nobody rings.
WAIT_S_MAX = 0.05
_POLL_S = 0.002


class Doorbell:
    """The mapped doorbell file; without one, waiting falls back to looking every so often."""

    def __init__(self, mapping: Mapping | None) -> None:
        self._mapping = mapping
        view = memoryview(bytearray(4)) if mapping is None else mapping.view[_WORD_AT:][:4]
        self.word = view.cast("I")

    @classmethod
    def open(cls, disk: Disk) -> Doorbell:
        """The doorbell of a log, or a substitute where there is none that can be written to."""
        try:
            if disk.size_of(DOORBELL) != DOORBELL_BYTES:
                return cls(None)
            file = disk.open(DOORBELL, write=True)
            try:
                if decode_file_header(file.read(FILE_HEADER_BYTES, 0), KIND_DOORBELL) is None:
                    return cls(None)
                return cls(file.map(DOORBELL_BYTES))
            finally:
                file.close()
        except OSError:
            return cls(None)

    @classmethod
    def create(cls, disk: Disk, log_id: bytes, created: int) -> Doorbell:
        """The doorbell for a writer, made if need be; a substitute where it can't be made."""
        found = cls.open(disk)
        if found._mapping is not None:
            return found
        name = temporary(DOORBELL)
        try:
            file = open_anew(disk, name)
            try:
                file.allocate(DOORBELL_BYTES)
                header = FileHeader(KIND_DOORBELL, 0, log_id, created)
                file.write([encode_file_header(header)], 0)
            finally:
                file.close()
            disk.rename(name, DOORBELL)
        except OSError:  # a full disk: followers then look every so often
            with suppress(OSError):
                disk.unlink(name)
            return found
        return cls.open(disk)

    def ring(self) -> None:
        """Wake everybody who waits."""
        self.word[0] = 0
        if self._mapping is not None:
            self._mapping.wake(_WORD_AT)

    def wait(self, is_ready: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `is_ready`, at most for `timeout_s`; whether it is."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not is_ready():
            left = WAIT_S_MAX if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            if self._mapping is None:
                time.sleep(min(left, _POLL_S))
                continue
            try:
                self.word[0] = 1
                if is_ready():
                    return True
                self._mapping.wait(_WORD_AT, 1, min(left, WAIT_S_MAX))
            except ValueError:  # the log was closed, which `is_ready` is the one to say
                return is_ready()
        return True

    def close(self) -> None:
        """Unmap."""
        self.word.release()
        if self._mapping is not None:
            self._mapping.close()
