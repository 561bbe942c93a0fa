"""The chunks of a compressed segment: standard, independent LZ4 frames.

Each holds whole frames of the plain segment (the first also the file header), so one offset costs
one chunk, and ``lz4 -d`` turns the file back into the plain segment. The LZ4 frame carries the
decompressed size and no LZ4 checksum: the CRC-32C of the frames inside covers every byte that
comes out, and the LZ4 one let most bit flips through when it was on by default settings.

Source: LZ4 Frame Format 1.6.4 (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md).
"""

from __future__ import annotations

from typing import Literal

from segstore.format.buffers import ALIGNMENT_BYTES, Buffer
from segstore.format.fileheader import FILE_HEADER_BYTES
from segstore.format.framelayout import FRAME_BYTES_MAX

CHUNK_RAW_BYTES_MAX = FILE_HEADER_BYTES + FRAME_BYTES_MAX
# What can't be compressed is stored, with a few bytes a block around it.
CHUNK_BYTES_MAX = CHUNK_RAW_BYTES_MAX + (1 << 16)
LZ4_MAGIC = b"\x04\x22\x4d\x18"

Codec = Literal["lz4", "lz4hc"]

# Version 1, independent blocks, content size present, no checksums, no dictionary.
_FLAGS = 0b01_1_0_1_0_0_0
DESCRIPTOR_BYTES = 15  # magic, flags, block descriptor, content size, header checksum
_LEVELS: dict[Codec, int] = {"lz4": 0, "lz4hc": 9}
STORED_BLOCK = 1 << 31  # in a block's size: its bytes are as they were
BLOCK_RAW_BYTES_MIN = 1 << 16  # no encoder cuts blocks smaller, but for the last


def encode_chunk(data: Buffer, codec: Codec) -> bytes:
    """`data` as one LZ4 frame.

    Raises:
        MemoryError: there is not enough memory.
    """
    import lz4.frame

    compressed: bytes
    try:
        compressed = lz4.frame.compress(
            data,
            compression_level=_LEVELS[codec],
            block_size=(
                lz4.frame.BLOCKSIZE_MAX256KB if len(data) <= 1 << 18 else lz4.frame.BLOCKSIZE_MAX4MB
            ),
            block_linked=False,
            content_checksum=False,
            block_checksum=False,
            store_size=True,
        )
    except RuntimeError as error:
        raise _as_shortage(error) or error from None
    return compressed


def chunk_raw_bytes(data: Buffer, at: int) -> int | None:
    """The decompressed size that the LZ4 frame at `at` states, or None for no frame of ours."""
    if data[at : at + 4] != LZ4_MAGIC or len(data) < at + DESCRIPTOR_BYTES:
        return None
    if data[at + 4] != _FLAGS:
        return None
    size = int.from_bytes(data[at + 6 : at + 14], "little")
    is_possible = 0 < size <= CHUNK_RAW_BYTES_MAX and size % ALIGNMENT_BYTES == 0
    return size if is_possible else None


def decode_chunk(data: Buffer) -> bytes:
    """The plain bytes of one LZ4 frame.

    Raises:
        ValueError: it is not one whole, intact LZ4 frame of ours, or states an impossible size.
        MemoryError: there is not enough memory, which says nothing of the frame.
    """
    import lz4.frame

    size = chunk_raw_bytes(data, 0)
    if size is None:
        raise ValueError("not an LZ4 frame of a segment")
    if size > 255 * len(data):  # LZ4 can't do better: a size that only asks for memory
        raise ValueError(f"{len(data)} bytes can't hold the {size} they claim")
    try:
        raw: bytes
        raw, read_bytes = lz4.frame.decompress(data, return_bytes_read=True)
    except RuntimeError as error:  # also for a frame that is cut short
        raise _as_shortage(error) or ValueError(f"LZ4: {error}") from None
    if read_bytes != len(data) or len(raw) != size:
        raise ValueError("the LZ4 frame is not whole")
    return raw


def _as_shortage(error: RuntimeError) -> MemoryError | None:
    """What LZ4 calls ERROR_allocation_failed, as Python does; None for another error."""
    return MemoryError(f"LZ4: {error}") if "allocation" in str(error) else None
