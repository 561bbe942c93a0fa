"""What every layer shares about bytes: the buffer type and the alignment."""

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

ALIGNMENT_BYTES = 8


def padding(size_bytes: int) -> int:
    """How many zero bytes align `size_bytes` to 8."""
    return -size_bytes % ALIGNMENT_BYTES


# Twice that is more than all the frames of a batch of 100,000 lines, or a few records of 1 MiB.
_KEPT_BYTES = 8 << 20


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to this size for the next ones.

    glibc takes the largest block that was freed so far for how much to keep: twice its size. Until
    a process frees a large one, the memory of every frame goes back to the system, which zeroes it
    again page by page for the next: a fifth of an append, a quarter of reading compressed segments.
    `mallopt` would say the same by a number, but for good, whatever else the process may need.
    """
    bytes(_KEPT_BYTES)  # never touched, so that it costs two system calls
