"""The first 64 bytes of every file: what it is, of which log, from which offset on.

    0        8        12       16       18       24            32         48         56       64
    +--------+--------+--------+--------+--------+-------------+----------+----------+--------+
    | magic  | crc32c | kind   | version| zero   | base offset | log id   | created  | zero   |
    | 8s     | u32    | 4s     | u16    | 6 bytes| u64         | 16 bytes | i64 ns   | u64    |
    +--------+--------+--------+--------+--------+-------------+----------+----------+--------+

The CRC covers every byte after itself. A compressed segment carries the same header inside its
first LZ4 frame.
"""

from struct import Struct
from typing import NamedTuple

from segstore.errors import UnsupportedFormatError
from segstore.format.buffers import Buffer
from segstore.format.checksum import crc32c

FILE_HEADER_BYTES = 64
MAGIC = b"segstore"
# 2: a segment and a tail may hold frames of version BLOCKS.
VERSION = 2

# Do not change: these tags are on disk.
KIND_SEGMENT = b"slog"
KIND_INDEX = b"sidx"
KIND_TAIL = b"tail"
KIND_START = b"strt"
KIND_CONSUMER = b"cons"
KIND_DOORBELL = b"bell"
KIND_TRUNCATE = b"trnc"

_HEADER = Struct("<8sI4sH6xQ16sq8x")
_CRC_END = 12
assert _HEADER.size == FILE_HEADER_BYTES


class FileHeader(NamedTuple):
    """What a file says of itself; `created` is in ns since the epoch and information only.

    `version` is what was read; what is written is always of VERSION.
    """

    kind: bytes
    base_offset: int
    log_id: bytes
    created: int
    version: int = VERSION

    @property
    def log_tag(self) -> int:
        """The 32 bits of the log id that every frame of this log repeats."""
        return log_tag(self.log_id)


def log_tag(log_id: bytes) -> int:
    """The first four bytes of the log id, as every frame of the log repeats them."""
    return int.from_bytes(log_id[:4], "little")


def encode_file_header(header: FileHeader) -> bytes:
    """The 64 bytes of `header`."""
    fields = (header.kind, VERSION, header.base_offset, header.log_id, header.created)
    crc = crc32c(_HEADER.pack(MAGIC, 0, *fields)[_CRC_END:])
    return _HEADER.pack(MAGIC, crc, *fields)


def decode_file_header(data: Buffer, kind: bytes) -> FileHeader | None:
    """The header at the start of `data`, or None where there is no intact one of that kind.

    Raises:
        UnsupportedFormatError: the header is intact and its version is a later one.
    """
    if len(data) < FILE_HEADER_BYTES:
        return None
    data = bytes(data[:FILE_HEADER_BYTES])
    magic, crc, found_kind, version, base_offset, log_id, created = _HEADER.unpack(data)
    if magic != MAGIC or crc != crc32c(data[_CRC_END:]) or found_kind != kind:
        return None
    if not 1 <= version <= VERSION:
        raise UnsupportedFormatError(
            f"the file is of format version {version}; this release reads up to {VERSION}. "
            f"Install a release of segstore that knows it; nothing was changed."
        )
    return FileHeader(found_kind, base_offset, log_id, created, version)
