"""Plain files: a peer that flushes as its level asks, and the controls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence


class PlainFile:
    """What a program without any library does: lines into a buffered file, flushed."""

    levels = ("written", "durable")
    threads = False

    def __init__(self, path: str, level: str) -> None:
        self.file = open(os.path.join(path, "lines"), "ab")  # noqa: SIM115
        self.sync = level == "durable"
        self.append = self._appender()

    @staticmethod
    def settings(level: str) -> str:
        return "write, flush" + (", fdatasync" if level == "durable" else "")

    def _appender(self) -> Callable[[bytes], None]:
        write, flush, sync, number = self.file.write, self.file.flush, self.sync, self.file.fileno()

        def append(value: bytes) -> None:
            write(value + b"\n")
            flush()
            if sync:
                os.fdatasync(number)

        return append

    def append_many(self, values: Sequence[bytes]) -> None:
        self.file.write(b"\n".join(values) + b"\n")
        self.file.flush()
        if self.sync:
            os.fdatasync(self.file.fileno())

    def values(self) -> Iterator[bytes]:
        with open(self.file.name, "rb") as file:
            yield from file

    def pack(self) -> None:
        pass

    def close(self) -> None:
        self.file.close()


class BufferedFile:
    """Control: `file.write` and nothing else; neither kill nor power loss is survived."""

    levels = ("written",)
    threads = False

    def __init__(self, path: str, level: str) -> None:
        self.file = open(os.path.join(path, "control"), "ab")  # noqa: SIM115
        self.append: Callable[[bytes], object] = self.file.write

    @staticmethod
    def settings(level: str) -> str:
        return "open(..., 'ab'), default buffer, no flush"

    def append_many(self, values: Sequence[bytes]) -> None:
        self.file.writelines(values)

    def close(self) -> None:
        self.file.close()


class BareWrite:
    """Control: one `os.write` for each append, of as many bytes as segstore's frames have.

    `overhead_bytes` is what a frame adds to its values; a batch is joined beforehand, so what is
    timed is the system call alone.
    """

    levels = ("written",)
    threads = False

    def __init__(self, path: str, level: str) -> None:
        self.number = os.open(os.path.join(path, "control"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.frame = b""
        number, write = self.number, os.write

        def append(value: bytes) -> None:
            write(number, value)

        def append_many(values: Sequence[bytes]) -> None:
            write(number, self.frame)

        self.append = append
        self.append_many = append_many

    @staticmethod
    def settings(level: str) -> str:
        return "one call for each append into a fresh file; batches: the bytes of segstore's frames"

    def prepare(self, values: Sequence[bytes], overhead_bytes: int) -> None:
        """Make the bytes that `append_many` writes."""
        self.frame = b"".join(values) + bytes(overhead_bytes)

    def close(self) -> None:
        os.close(self.number)


class BareWriteSync(BareWrite):
    """Control: the same, and fdatasync."""

    levels = ("durable",)

    def __init__(self, path: str, level: str) -> None:
        super().__init__(path, level)
        number, write, sync = self.number, os.write, os.fdatasync

        def append(value: bytes) -> None:
            write(number, value)
            sync(number)

        def append_many(values: Sequence[bytes]) -> None:
            write(number, self.frame)
            sync(number)

        self.append = append
        self.append_many = append_many

    @staticmethod
    def settings(level: str) -> str:
        return BareWrite.settings(level) + ", each followed by os.fdatasync"
