"""One writer per log: the lock that the writer holds for its life."""

from __future__ import annotations

import gc
import os
import time
from contextlib import suppress

from segstore.disk import Disk, File, LockHeldError
from segstore.errors import LogLockedError
from segstore.format.names import LOCK
from segstore.segment.indexfile import unreadable_as_missing

LOCK_MAGIC = b"process "
# Longer than any look of `is_writer_there`, also of a reader that has to wait for the processor.
_LOOK_S_MAX = 1.0
_POLL_S = 0.001


def take_lock(disk: Disk) -> File:
    """Lock the log against every other writer; closing the file lets go.

    The file is never removed, because a lock on a removed name guards nothing. What it says of its
    holder is for people and is never relied on.

    Raises:
        LogLockedError: another writer holds it, in this process or another.
        OSError: the lock file can't be made or opened.
    """
    try:
        file = disk.open(LOCK, write=True, create=True)
    except FileExistsError:
        file = disk.open(LOCK, write=True)
    try:
        try:
            file.lock()
        except LockHeldError:
            # A log of this process that was abandoned holds it until it is collected.
            gc.collect()
            _outwait_looks(disk, file)
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with suppress(OSError):  # a full disk must not keep the log from opening
            file.truncate(0)
            file.write([LOCK_MAGIC + f"{os.getpid()} since {started}\n".encode()], 0)
    except LockHeldError as error:
        file.close()
        raise LogLockedError(disk.path, error.holder) from None
    except BaseException:
        file.close()
        raise
    return file


def _outwait_looks(disk: Disk, file: File) -> None:
    """Lock a file that nobody but `is_writer_there` may have.

    Raises:
        LockHeldError: a writer has it.
    """
    deadline = time.monotonic() + _LOOK_S_MAX
    while True:
        try:
            file.lock()
            return
        except LockHeldError:
            # By another file: two that wait here and share this one would keep each other out.
            if is_writer_there(disk) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def is_writer_there(disk: Disk) -> bool:
    """Whether a writer has the log now, in this process or another.

    A writer that opens the log at this very moment waits until the look is over.

    Where that can't be told there is none.

    Raises:
        OSError: there were not enough descriptors, or not enough memory, to look.
    """
    with unreadable_as_missing():
        try:
            file = disk.open(LOCK)
            try:
                file.lock(shared=True)
            finally:
                file.close()
        except LockHeldError:
            return True
    return False


def is_in_place(disk: Disk, file: File) -> bool:
    """Whether the lock still guards its log, which nobody deleted or put another in place of.

    Where that can't be told, it does.
    """
    try:
        return disk.is_named(file, LOCK)
    except OSError:
        return True


def leave_lock(file: File) -> None:
    """Let go of the lock."""
    with suppress(OSError):
        file.truncate(0)
    file.close()
