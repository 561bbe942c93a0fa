"""Every error segstore raises on purpose.

One root, so that ``except SegstoreError`` catches them all; where Python has a built-in meaning
for the mistake (an index out of range, a bad value, a failed system call), the error is that too.
Each message says what happened, where, and what to do. Errors can be pickled and copied.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any


class SegstoreError(Exception):
    """The root of all errors that segstore raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which would call the class with the message, where it takes other things."""
        file = getattr(self, "filename", None)  # of an OSError, which keeps it out of `args`
        arguments = self.args if file is None else (*self.args, file)
        return _made_again, (type(self), arguments, vars(self))


def _made_again(
    kind: type[SegstoreError], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> SegstoreError:
    error = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    return error


class ConfigError(SegstoreError, ValueError):
    """An option has a value that can't be used, or options contradict each other."""


class CorruptionError(SegstoreError):
    """Bytes on disk are not what was written; the records in `offsets` can't be returned.

    The rest of the log reads on: start again at ``error.offsets.stop``.

    Attributes:
        path: the file that holds the damage, or the directory where no file has the records.
        position: the byte where it starts; of the plain segment, for a compressed file.
        offsets: the offsets that can't be read, as a ``range``.
        reason: what check failed.
    """

    def __init__(self, path: str, position: int, offsets: range, reason: str) -> None:
        what = f"{path}: damaged at byte {position}: {reason}"
        if offsets:
            what += (
                f"; offsets {offsets.start} to {offsets.stop - 1} can't be read. The rest of the "
                f"log can: go on at offset {offsets.stop}, or read with errors='skip'."
            )
        super().__init__(what)
        self.path = path
        self.position = position
        self.offsets = offsets
        self.reason = reason


class UnsupportedFormatError(SegstoreError):
    """A file is intact, but of a format version or with features this release does not know."""


def in_words(start: int, end: int) -> str:
    """The offsets from `start` to below `end`."""
    return f"offsets {start} to {end - 1}" if end > start else f"no records; the next is {end}"


class OffsetOutOfRangeError(SegstoreError, IndexError):
    """An offset lies outside the log, or outside the batch that was asked for it.

    Attributes:
        offset: the offset asked for.
        start: the log start offset, the first that can be read.
        end: the log end offset, one past the last that can be read.
    """

    def __init__(self, offset: int, start: int, end: int, what: str = "the log") -> None:
        held = in_words(start, end)
        super().__init__(f"offset {offset} is outside {what}, which holds {held}")
        self.offset = offset
        self.start = start
        self.end = end


class RecordTooLargeError(SegstoreError, ValueError):
    """A record (key and value together) is larger than the format allows.

    Attributes:
        size_bytes: the size of key and value together.
        limit_bytes: the largest size allowed.
    """

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"a record of {size_bytes} bytes (key and value together) is over the limit of "
            f"{limit_bytes} bytes; nothing was appended. Split it, or store it elsewhere and "
            f"append a reference."
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class LogLockedError(SegstoreError):
    """Another writer holds the log. A log has one writer at a time, and any number of readers.

    Attributes:
        holder: what the lock file says of the holder (information only).
    """

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(
            f"{path} is being written by {holder}; a log has one writer at a time. Close that "
            f"one first, or open this one with mode='r' to read while it writes."
        )
        self.holder = holder


class ConsumerLockedError(SegstoreError):
    """Another program holds the consumer; one at a time may read under a name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"consumer {name!r} is held by another program or another part of this one; close "
            f"that one first, or read under another name"
        )


class LogClosedError(SegstoreError, ValueError):
    """The log was closed, or belongs to the parent of this forked process."""

    def __init__(self, message: str = "the log was closed; open it again") -> None:
        super().__init__(message)


class LogNotFoundError(SegstoreError, FileNotFoundError):
    """There is no log at the path."""


class ReadOnlyError(SegstoreError):
    """The log was opened with mode "r", and the call would change it."""


class StorageError(SegstoreError, OSError):
    """A system call failed (a full disk, an I/O error); `errno` says which way.

    Nothing of the call it interrupted was acknowledged, and the log stays readable. Appends work
    again as soon as the cause is gone.
    """


class SyncFailedError(StorageError):
    """An fsync failed, so what the disk holds is unknown.

    No later append is acknowledged through this handle: the kernel may have dropped the unwritten
    pages, and the next fsync would report success without having written them. Close the log and
    open it again; opening checks what is really there.
    """


def once_more(error: SegstoreError) -> SegstoreError:
    """A kept error, to be raised: itself it would keep the frames of all who ever met it."""
    made = copy(error)
    made.__cause__ = error.__cause__
    return made


@contextmanager
def storage_errors(what: str, *, if_denied: str = "") -> Iterator[None]:
    """Say what a failed system call kept from being done, and what to do where it is forbidden."""
    try:
        yield
    except SegstoreError:
        raise
    except OSError as error:
        raise storage_error(error, what, if_denied=if_denied) from error


def storage_error(error: OSError, what: str, *, if_denied: str = "") -> StorageError:
    """The error for a failed system call: what it kept from being done, and why."""
    if isinstance(error.filename, str) and error.filename not in what:
        what += f": {error.filename}"
    what += f": {error.strerror or repr(error)}"
    if if_denied and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what += f"; {if_denied}"
    return StorageError(error.errno or errno.EIO, what)
