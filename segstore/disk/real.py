"""The operating system as a disk.

Directories are made 0700 and files 0600, whatever the umask. What root makes belongs to the owner
of the directory. Where the group of the directory may read and enter it and others may not, new
files belong to that group and have the group bits of the directory. One that is open to others
changes nothing: 0755 is what a plain `mkdir` leaves, and no decision to show records to anybody.

Data files are opened without following links and must be regular: a FIFO would block for ever.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from select import epoll

from segstore.disk.base import Disk, File, LockHeldError
from segstore.disk.futex import Futex
from segstore.disk.handle import Handle
from segstore.errors import LogClosedError
from segstore.format.buffers import Buffer

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

_GROUP_ENTERS = stat.S_IRGRP | stat.S_IXGRP
_GROUP_SHARES = stat.S_IRGRP | stat.S_IWGRP
_IOV_MAX = 1024
_LOCK_NOTE_BYTES_MAX = 200
# Of Linux on 64 bits, where alone there is btrfs: ioctl_iflags(2).
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_NO_COPY_ON_WRITE = 0x00800000
# Without a futex a waiter looks this often: 2 to 3 % of a core.
_POLL_S = 0.002


class OsMapping(Handle):
    """A shared mapping of a file."""

    def __init__(self, descriptor: int, size_bytes: int, *, write: bool) -> None:
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        self._map = mmap.mmap(descriptor, size_bytes, access=access)
        self.view = memoryview(self._map)
        self._is_writable = write
        self._futex_made: Futex | None = None

    def wait(self, at: int, value: int, timeout_s: float) -> None:
        """By futex where the system has it and the mapping is writable, else by sleeping."""
        if self._futex is None:
            time.sleep(min(timeout_s, _POLL_S))
        else:
            self._futex.wait(at, value, timeout_s)

    def wake(self, at: int) -> None:
        """By futex where the system has it."""
        if self._futex is not None:
            self._futex.wake(at)

    def uncache(self) -> None:
        """By madvise: the pages stay in the cache, and come back when they are looked at."""
        with suppress(OSError):
            self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def _futex(self) -> Futex | None:
        if self._futex_made is None and self._is_writable:
            # What it takes is imported only here, where an append is already done: too few
            # descriptors for that, or too little memory, must not make it fail.
            with suppress(ImportError, OSError, MemoryError):
                self._futex_made = Futex.of(self.view)
        return self._futex_made

    def close(self) -> None:
        """Unmap, or leave that to the collector while a column view is still in use."""
        self._futex_made = None
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            pass


class OsFile(Handle):
    """An open regular file."""

    def __init__(self, owner: epoll, name: str, *, write: bool) -> None:
        """`owner` is what `_open` gave."""
        self._owner = owner
        self.descriptor = owner.fileno()
        self._is_writable = write
        self.name = name

    def read(self, size_bytes: int, position: int) -> bytes:
        """pread, repeated until all is there or the file ends."""
        try:
            data = os.pread(self.descriptor, size_bytes, position)
            if len(data) == size_bytes or not data:
                return data
            pieces = [data]
            missing = size_bytes - len(data)
            while missing and (
                data := os.pread(self.descriptor, missing, position + size_bytes - missing)
            ):
                pieces.append(data)
                missing -= len(data)
        except OSError as error:
            error.filename = self.name
            raise
        return b"".join(pieces)

    def write(self, parts: Sequence[Buffer], position: int) -> None:
        """Repeated until all is written: a full disk takes a part and says nothing."""
        written = 0
        if len(parts) == 1:  # which takes less, and is what most appends have
            written = os.pwrite(self.descriptor, parts[0], position)
        elif len(parts) <= _IOV_MAX:
            written = os.pwritev(self.descriptor, parts, position)
        if written == sum(map(len, parts)):
            return
        rest = memoryview(b"".join(parts))[written:]
        position += written
        while rest:
            written = os.pwrite(self.descriptor, rest, position)
            if written == 0:
                raise OSError(errno.EIO, "a write took no bytes", self.name)
            rest = rest[written:]
            position += written

    def size(self) -> int:
        """By fstat."""
        return os.fstat(self.descriptor).st_size

    def is_shared(self) -> bool:
        """By fstat."""
        return os.fstat(self.descriptor).st_nlink > 1

    def truncate(self, size_bytes: int) -> None:
        """Ftruncate."""
        os.ftruncate(self.descriptor, size_bytes)

    def allocate(self, size_bytes: int) -> None:
        """posix_fallocate, undone when it fails: ext4 leaves the file grown (56 of 210 MB)."""
        before = self.size()
        if before == 0:
            self._overwrite_in_place()
        try:
            os.posix_fallocate(self.descriptor, 0, size_bytes)
        except OSError:
            os.ftruncate(self.descriptor, before)
            raise

    def _overwrite_in_place(self) -> None:
        """Have btrfs write to the blocks that are allocated, which else it copies: to new ones.

        On a full disk it has none, and a store into the mapping would end the process with SIGBUS.
        Other file systems refuse the flag.
        """
        with suppress(OSError):
            flags = int.from_bytes(fcntl.ioctl(self.descriptor, _GET_FLAGS, bytes(8))[:4], "little")
            wanted = (flags | _NO_COPY_ON_WRITE).to_bytes(8, "little")
            fcntl.ioctl(self.descriptor, _SET_FLAGS, wanted)

    def uncache(self, size_bytes: int, position: int) -> None:
        """By posix_fadvise: Linux starts to write the dirty bytes, and forgets the clean."""
        with suppress(OSError):
            os.posix_fadvise(self.descriptor, position, size_bytes, os.POSIX_FADV_DONTNEED)

    def sync(self, *, data_only: bool = False) -> None:
        """Fdatasync (which covers the size that reading needs) or fsync.

        Either covers stores into mappings, too; `mmap.flush`, which is for them, would hold the
        interpreter's lock while the device writes.
        """
        (os.fdatasync if data_only else os.fsync)(self.descriptor)

    def map(self, size_bytes: int) -> OsMapping:
        """A shared mapping, writable as the file is."""
        if size_bytes > self.size():  # an access behind the end is SIGBUS, which Python can't catch
            raise OSError(errno.EINVAL, "the file is shorter than its mapping", self.name)
        return OsMapping(self.descriptor, size_bytes, write=self._is_writable)

    def lock(self, *, shared: bool = False) -> None:
        """flock, because it also refuses a second open in the same process, which lockf does not.

        A process that another thread is just starting shares it until then, and so does a forked
        child: `close` lets go for all, and a child closes its descriptor only.
        """
        _LOCKED.add(self)  # before it is: another thread may fork at any moment
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            note = os.pread(self.descriptor, _LOCK_NOTE_BYTES_MAX, 0)
            holder = note.decode("ascii", "replace").strip()
            raise LockHeldError(holder if holder.isprintable() and holder else "a writer") from None

    def close(self) -> None:
        """Close once.

        Files that several threads read are never closed but dropped: a descriptor number closed
        under a running pread may already name another file.
        """
        if self in _LOCKED:
            _LOCKED.discard(self)
            with suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self._close_here()

    def _close_here(self) -> None:
        self.descriptor = -1
        self._owner.close()


_LOCKED: weakref.WeakSet[OsFile] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for file in list(_LOCKED):
        file._close_here()  # the parent keeps its lock
    _LOCKED.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


class OsDisk(Handle):
    """A directory of the file system."""

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        """Open the directory at `path`; `create` makes it, and fsyncs its parent, if needed."""
        self.path = os.fspath(path)
        if create and not os.path.isdir(self.path):
            _make_directories(os.path.abspath(self.path))
        owner = _open(self.path, os.O_DIRECTORY)
        self._directory: OsFile | None = OsFile(owner, self.path, write=False)

    def names(self) -> list[str]:
        """By listdir, each time by a descriptor of its own.

        How far a listing got is kept with the open directory: two threads, or a process and its
        fork, that list by one descriptor get each a part of the names, or some of them twice.
        """
        directory = self._in_use()
        own = _open(".", os.O_DIRECTORY, directory)
        return os.listdir(own.fileno())

    def size_of(self, name: str) -> int | None:
        """By lstat."""
        directory = self._in_use()
        try:
            found = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def is_named(self, file: File, name: str) -> bool:
        """By device and inode."""
        directory = self._in_use()
        try:
            named = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return isinstance(file, OsFile) and os.path.samestat(named, os.fstat(file.descriptor))

    def open(self, name: str, *, write: bool = False, create: bool = False) -> OsFile:
        """Openat with O_NOFOLLOW, and O_NONBLOCK until it is known to be a regular file."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        file = OsFile(_open(name, flags, self._in_use()), name, write=write)
        if not stat.S_ISREG(os.fstat(file.descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        if create:
            os.fchmod(file.descriptor, FILE_MODE | self._given_to_owners(file.descriptor))
        return file

    def _given_to_owners(self, descriptor: int) -> int:
        """Give a new file to the directory's owner and group; the mode bits that the group gets.

        To the owner where root makes it, as one command under sudo would leave files that the
        writer can't open. Where it can't be given to the group, that gets no bits: a file must not
        be opened to another group.
        """
        directory = os.fstat(self._in_use().descriptor)
        if os.geteuid() == 0:
            with suppress(OSError):  # not everywhere: in a container it may be root in name only
                os.fchown(descriptor, directory.st_uid, -1)
        if directory.st_mode & (_GROUP_ENTERS | stat.S_IRWXO) != _GROUP_ENTERS:
            return 0
        try:
            os.fchown(descriptor, -1, directory.st_gid)
        except OSError:  # the writer is no member, and the directory has no setgid bit
            return 0
        return directory.st_mode & _GROUP_SHARES

    def rename(self, name: str, new_name: str) -> None:
        """Renameat."""
        directory = self._in_use()
        os.rename(name, new_name, src_dir_fd=directory.descriptor, dst_dir_fd=directory.descriptor)

    def link(self, name: str, target: Disk) -> bool:
        """A hard link; False for another file system, or one without links."""
        if not isinstance(target, OsDisk):
            return False
        source, other = self._in_use(), target._in_use()
        try:
            os.link(name, name, src_dir_fd=source.descriptor, dst_dir_fd=other.descriptor)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            return False
        return True

    def unlink(self, name: str) -> None:
        """Unlinkat."""
        directory = self._in_use()
        os.unlink(name, dir_fd=directory.descriptor)

    def sync_directory(self) -> None:
        """Fsync of the directory."""
        directory = self._in_use()
        os.fsync(directory.descriptor)

    def close(self) -> None:
        """Let go; it is closed once no call uses it any more."""
        self._directory = None

    def _in_use(self) -> OsFile:
        """The directory, for a call to hold: its descriptor then stays open for as long.

        A number closed under a running call may already name another directory, of another log.
        """
        directory = self._directory
        if directory is None:
            raise LogClosedError()
        return directory


def _open(path: str, flags: int, directory: OsFile | None = None) -> epoll:
    """Open a file, in a directory; what comes back closes it when it goes.

    Which any object of C does that holds a descriptor: a `__del__` would swallow a Ctrl-C that
    comes in it, and leave the file open. (io.FileIO warns of what was not closed, and that may be
    a read that somebody did not go on with.) And `map` lets no Ctrl-C come between the two calls.
    """
    directory_descriptor = None if directory is None else directory.descriptor
    opening = partial(os.open, dir_fd=directory_descriptor)
    return next(map(epoll.fromfd, map(opening, (path,), (flags,), (FILE_MODE,))))


def is_directory(path: str | os.PathLike[str]) -> bool:
    """Whether there is a directory.

    Raises:
        OSError: that can't be told, as without the permission to look.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def publish_directory(path: str, new_path: str) -> None:
    """Give a finished directory its name, durably."""
    os.rename(path, new_path)
    _sync_path(os.path.dirname(os.path.abspath(new_path)))


def remove_directory(path: str) -> None:
    """Remove an empty directory; one that is not is left."""
    with suppress(OSError):
        os.rmdir(path)


def _sync_path(path: str) -> None:
    os.fsync(_open(path, os.O_DIRECTORY))


def _make_directories(path: str) -> None:
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_directories(parent)
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        return
    os.chmod(path, DIRECTORY_MODE)
    _sync_path(parent)
