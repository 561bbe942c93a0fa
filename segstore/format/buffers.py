"""What every layer shares about bytes: the buffer type and the alignment."""

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

ALIGNMENT_BYTES = 8


def padding(size_bytes: int) -> int:
    """How many zero bytes align `size_bytes` to 8."""
    return -size_bytes % ALIGNMENT_BYTES
