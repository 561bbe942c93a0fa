"""What every layer shares about bytes and numbers: the types that are taken, and the alignment."""

from contextlib import suppress
from operator import index
from typing import TYPE_CHECKING, SupportsIndex, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

# What callers may give is anything with the buffer protocol, which has a type from Python 3.12 on,
# and for type checkers in any version.
if TYPE_CHECKING:
    import typing_extensions

    AnyBuffer: TypeAlias = typing_extensions.Buffer
else:
    AnyBuffer = Buffer

ALIGNMENT_BYTES = 8


def as_bytes(value: AnyBuffer, what: str) -> bytes:
    """Any buffer as bytes.

    Raises:
        TypeError: it is none; for text, what to do about it.
    """
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        raise TypeError(f"a {what} is bytes, not str; encode it first, such as {what}.encode()")
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise TypeError(
            f"a {what} is bytes, a bytearray or another buffer, not {type(value).__name__}"
        ) from None


def as_int(number: SupportsIndex, what: str) -> int:
    """A whole number of any type (numpy has its own) as an int.

    Raises:
        TypeError: it is none, and neither are True and False; it begins with `what`.
    """
    if type(number) is int:
        return number
    if not isinstance(number, bool):
        with suppress(TypeError):
            return int(index(number))
    raise TypeError(f"{what}, not {type(number).__name__}")


def as_offset(offset: SupportsIndex) -> int:
    """An offset as an int.

    Raises:
        TypeError: it is no whole number.
    """
    return as_int(offset, "an offset is an int")


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
