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
from collections.abc import Sequence
from itertools import accumulate, repeat
from typing import Any

from segstore.format.buffers import Buffer, padding

_OFFSET_BYTES = 4


def join_column(values: Sequence[Buffer], /) -> tuple[Buffer, bytes]:
    """Values to a column: (int32 offsets as a buffer of bytes, the bytes of all values).

    Raises:
        TypeError: a value is not bytes, a bytearray or a contiguous memoryview.
        OverflowError: the values are over 2 GiB together.
    """
    data = b"".join(values)
    offsets = array("i", accumulate(map(len, values), initial=0))
    if offsets[-1] != len(data):  # len() of a memoryview counts items, and these are wider
        return join_column([bytes(value) for value in values])
    return memoryview(offsets).cast("B"), data


def join_times(timestamps: Sequence[int], /) -> tuple[int, int, Buffer]:
    """Timestamps to a column: (the lowest, the highest, all of them as int64 in a buffer of bytes).

    Raises:
        TypeError: one is not an int.
        OverflowError: one does not fit 64 bits.
        ValueError: there are none.
    """
    column = memoryview(array("q", timestamps)).cast("B")
    return min(timestamps), max(timestamps), column


def measure(values: Sequence[object], /) -> Sequence[int] | None:
    """How many bytes the first, the first two, ... values take in a column, offsets included.

    None unless every value is bytes, and of no subclass.
    """
    if not set(map(type, values)) <= {bytes}:
        return None
    sizes = map(_OFFSET_BYTES.__add__, map(len, values))  # type: ignore[arg-type]
    return list(accumulate(sizes))


def join_body(
    values: Sequence[Buffer], start: int, stop: int, timestamps: int | Sequence[int], /
) -> tuple[int, int, bytes]:
    """The body of a frame without keys: (lowest timestamp, highest timestamp, the body).

    It holds the values from `start` to below `stop`, and the timestamps at the same places unless
    all are the same. `timestamps` is one number then, or has an item for each value.

    Raises:
        TypeError: a value is not bytes, a bytearray or a contiguous memoryview; a timestamp is
            not an int.
        OverflowError: the values are over 2 GiB together; a timestamp does not fit 64 bits.
        ValueError: there are timestamps, but none at these places.
    """
    offsets, data = join_column(values[start:stop])
    times: Buffer = b""
    if isinstance(timestamps, int):
        lowest = highest = timestamps
    else:
        lowest, highest, times = join_times(timestamps[start:stop])
        if lowest == highest:
            times = b""
    parts = (offsets, bytes(padding(len(offsets))), times, data, bytes(padding(len(data))))
    return lowest, highest, b"".join(parts)


def split_column(data: Buffer, offsets_position: int, count: int, position: int, /) -> list[bytes]:
    """A column to values: `count` of them, offsets and bytes each at their place in `data`.

    Raises:
        ValueError: the offsets don't start at 0, step back, or reach past the end of `data`.
    """
    view = memoryview(data)
    offsets_end = offsets_position + 4 * (count + 1)
    if min(offsets_position, count, position) < 0 or offsets_end > len(view):
        raise ValueError("column reaches past the end of its batch")
    offsets = view[offsets_position:offsets_end].cast("i").tolist()
    size = offsets[-1]
    if size < 0 or position + size > len(view):
        raise ValueError("column reaches past the end of its batch")
    column = bytes(view[position : position + size])
    # Sorting what is sorted is one pass in C. The lengths of the slices would not tell: an offset
    # below 0 or behind the end is a slice too, and their sum can come out right.
    if offsets[0] != 0 or offsets != sorted(offsets):
        raise ValueError("column offsets don't rise from 0")
    return list(map(column.__getitem__, map(slice, offsets, offsets[1:])))


def make_records(
    record_type: Any,
    base_offset: int,
    timestamps: int | Sequence[int],
    keys: Sequence[bytes | None] | None,
    values: Sequence[bytes],
    /,
) -> list[Any]:
    """Columns to records: ``record_type(offset, timestamp, key, value)`` for each value.

    `record_type` is a NamedTuple of these four. `timestamps` is one number where all are the
    same, `keys` is None where there are none.

    Raises:
        ValueError: there are not as many timestamps or keys as values.
    """
    count = len(values)
    offsets = range(base_offset, base_offset + count)
    times = repeat(timestamps, count) if isinstance(timestamps, int) else timestamps
    some_keys = repeat(None, count) if keys is None else keys
    rows = zip(offsets, times, some_keys, values, strict=True)
    return list(map(record_type._make, rows))
