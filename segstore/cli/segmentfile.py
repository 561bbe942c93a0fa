"""One segment file by itself, without the log it belongs to and under any name."""

from __future__ import annotations

import os
from collections.abc import Iterator

from segstore.disk import OsDisk, is_directory
from segstore.disk.real import OsFile
from segstore.errors import SegstoreError
from segstore.format.chunk import LZ4_MAGIC
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_CONSUMER,
    KIND_DOORBELL,
    KIND_INDEX,
    KIND_SEGMENT,
    KIND_START,
    KIND_TAIL,
    MAGIC,
    FileHeader,
    decode_file_header,
)
from segstore.format.names import parse_segment_file
from segstore.format.scanner import Damage, Frame, Scanner
from segstore.segment.scanning import scan
from segstore.segment.source import Lz4Source, RawSource, Source, UnreadableError

_KINDS = {
    KIND_INDEX: "the index of a segment",
    KIND_TAIL: "the tail",
    KIND_START: "the log start offset",
    KIND_CONSUMER: "the committed offset of a consumer",
    KIND_DOORBELL: "the doorbell",
}


class _OneFile(OsDisk):
    """A directory in which every name is the same file, whatever it is really called."""

    def __init__(self, path: str) -> None:
        directory, self._name = os.path.split(os.path.realpath(path))
        super().__init__(directory)

    def open(self, name: str, *, write: bool = False, create: bool = False) -> OsFile:  # noqa: ARG002
        return super().open(self._name)


class NotASegmentError(SegstoreError):
    """The file is something else; the message says what."""


class SegmentFile:
    """A plain or compressed segment file.

    Attributes:
        header: its file header, or None where that is damaged.
        is_compressed: whether it is an LZ4 file.
        base_offset: by the header, else by the file's name, else 0.
        source: its bytes, as of a plain segment.
    """

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            NotASegmentError: it is another kind of file.
            UnsupportedFormatError: it is of a later format version.
            OSError: it can't be read.
        """
        if is_directory(path):
            raise NotASegmentError(f"{path} is a directory; name one of the .log files in it")
        disk = _OneFile(path)
        named = parse_segment_file(os.path.basename(path))
        start = disk.open("").read(FILE_HEADER_BYTES, 0)
        self.is_compressed = start.startswith(LZ4_MAGIC)
        if not self.is_compressed and start.startswith(MAGIC):
            kind = start[len(MAGIC) + 4 :][:4]
            if kind != KIND_SEGMENT:
                raise NotASegmentError(
                    f"{path} is {_KINDS.get(kind, 'another file')} of a log, not a segment"
                )
        elif not self.is_compressed and (named is None or not named[1].startswith(".log")):
            raise NotASegmentError(f"{path} is no segment, by its first bytes and by its name")
        self.source: Source = Lz4Source(disk, 0, None) if self.is_compressed else RawSource(disk, 0)
        try:
            first = self.source.read(FILE_HEADER_BYTES, 0)
        except UnreadableError:
            first = b""
        self.header: FileHeader | None = decode_file_header(first, KIND_SEGMENT)
        if self.header is not None:
            self.base_offset = self.header.base_offset
        else:
            self.base_offset = 0 if named is None else named[0]

    def events(self) -> Iterator[Frame | Damage]:
        """Every frame and all damage, in order, checked.

        Raises:
            UnsupportedFormatError: a frame is of a later format version.
            OSError: the file can't be read.
        """
        tag = None if self.header is None else self.header.log_tag
        scanner = Scanner(tag, self.base_offset, FILE_HEADER_BYTES)
        return scan(self.source, scanner, self.source.size(), reads_on=True)
