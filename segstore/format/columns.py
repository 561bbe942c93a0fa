"""The loops that touch every record of a batch: objects to columns, columns to objects.

The layout is Arrow's variable-size binary (https://arrow.apache.org/docs/format/Columnar.html):
int32 offsets, one more than there are values and starting at 0, then the bytes.

These functions are the specification and the fallback of the C kernel, which has the same ones
with the same signatures; `segstore.format.kernel` picks. They take and give buffers and lists
only, and keep to CPython's own loops (`join`, `map`, `accumulate`, slices), because one line of
Python per record would cost more than everything else here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import accumulate, repeat
from operator import countOf, length_hint, sub
from struct import pack
from typing import Any

from segstore.format.buffers import Buffer


def join_column(values: Sequence[Buffer], /) -> tuple[bytes, bytes]:
    """Values to a column: (int32 offsets as bytes, the bytes of all values).

    Raises:
        TypeError: a value is not bytes, a bytearray or a contiguous memoryview.
        OverflowError: the values are over 2 GiB together.
    """
    data = b"".join(values)
    offsets = list(accumulate(map(len, values), initial=0))
    if offsets[-1] != len(data):  # len() of a memoryview counts items, and these are wider
        return join_column([bytes(value) for value in values])
    return pack_offsets(offsets), data


def pack_offsets(numbers: Sequence[int]) -> bytes:
    """Numbers as the int32 offsets of a column: by `struct`, for a third of what an array takes.

    Raises:
        OverflowError: the last one does not fit.
    """
    if numbers[-1] >= 1 << 31:
        raise OverflowError("the values are over 2 GiB together")
    return pack(f"<{len(numbers)}i", *numbers)


def join_times(timestamps: Sequence[int], /) -> tuple[int, int, Buffer]:
    """Timestamps to a column: (the lowest, the highest, all of them as int64 in a buffer of bytes).

    Raises:
        TypeError: one is not an int.
        OverflowError: one does not fit 64 bits.
        ValueError: there are none.
    """
    column = memoryview(array("q", timestamps)).cast("B")
    return min(timestamps), max(timestamps), column


def measure(values: Iterable[object], /) -> tuple[list[bytes], Sequence[int]] | None:
    """The values as a list, and how many bytes the first 0, 1, 2 ... take.

    None unless every value is bytes, and of no subclass. The list is a copy, because `join_frame`
    relies on what was measured. (The one in C does not, and may give the list it got.)
    """
    values = list(values)
    if countOf(map(type, values), bytes) != len(values):
        return None
    return values, list(accumulate(map(len, values), initial=0))  # type: ignore[arg-type,return-value]


def iter_column(
    data: Buffer, offsets_position: int, start: int, stop: int, position: int, /
) -> Iterator[bytes]:
    """The values of a column from `start` to below `stop`; offsets and bytes at places in `data`.

    Not a list: whoever goes over them then has each in the processor's cache.

    Raises:
        ValueError: the offsets don't start at 0, step back, or reach past the end of `data`. Now,
            and not once values were given out.
    """
    view = memoryview(data)
    offsets_end = offsets_position + 4 * (stop + 1)
    is_possible = 0 <= start <= stop and min(offsets_position, position) >= 0
    if not is_possible or offsets_end > len(view):
        raise ValueError("column reaches past the end of its batch")
    offsets = view[offsets_position + 4 * start : offsets_end].cast("i").tolist()
    first, last = offsets[0], offsets[-1]
    if last < 0 or position + last > len(view):
        raise ValueError("column reaches past the end of its batch")
    # Sorting what is sorted is one pass in C.
    if first < 0 or (first > 0 and start == 0) or offsets != sorted(offsets):
        raise ValueError("column offsets don't rise from 0")
    column = bytes(view[position + first : position + last])
    stops = iter(offsets)
    next(stops)
    # A stream gives the next so many bytes for a third of what a slice costs, and shares `column`.
    return map(BytesIO(column).read, map(sub, stops, offsets))


def iter_records(
    record_type: Any,
    base_offset: int,
    timestamps: int | Sequence[int],
    keys: Sequence[bytes | None] | None,
    values: Iterable[bytes],
    count: int,
    /,
) -> Iterator[Any]:
    """Columns to records: ``record_type(offset, timestamp, key, value)`` for each value.

    `record_type` is a NamedTuple of these four. `timestamps` is one number where all are the
    same, `keys` is None where there are none. `count` is how many values there are. Not a list,
    because one of over 700 tuples has the garbage collector look at each of them: a third of the
    time.

    Raises:
        ValueError: there are not as many timestamps or keys.
    """
    offsets = range(base_offset, base_offset + count)
    times = repeat(timestamps, count) if isinstance(timestamps, int) else timestamps
    some_keys = repeat(None, count) if keys is None else keys
    if length_hint(times) != count or length_hint(some_keys) != count:
        raise ValueError("there are not as many timestamps or keys as values")
    rows = zip(offsets, times, some_keys, values, strict=True)
    # `_make` is a function in Python, and this is all that it does.
    return map(tuple.__new__, repeat(record_type), rows)
