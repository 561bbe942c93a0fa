"""What callers give to append, as plain bytes and ints, in lists that nobody else changes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import countOf
from typing import Any, SupportsFloat, SupportsIndex

from segstore.format.buffers import AnyBuffer, as_bytes, as_int
from segstore.format.framelayout import TIMESTAMP_MAX, TIMESTAMP_MIN
from segstore.format.kernel import measure
from segstore.segment.tailbuffer import STAGED_FRAME_BYTES_MAX

# They can be iterated over, and what that gives is not what whoever passes them means.
_NO_SEQUENCES = (bytes, bytearray, memoryview, str, dict)


def value_column(values: Iterable[AnyBuffer]) -> tuple[list[bytes], Sequence[int]]:
    """The values as bytes, and how many the first 0, 1, 2 ... take.

    Raises:
        TypeError: they are no sequence of buffers.
    """
    if isinstance(values, _NO_SEQUENCES):
        raise TypeError(f"append_many takes a sequence of values, not a {type(values).__name__}")
    plain, ends = with_ends(values if type(values) is list else list(values))
    if plain is values and ends[-1] <= STAGED_FRAME_BYTES_MAX:
        # It may be staged, and what is drained has to be what was framed, whoever has the list too.
        plain, ends = with_ends(plain.copy())
    return plain, ends


def with_ends(values: Sequence[Any]) -> tuple[list[bytes], Sequence[int]]:
    """The values as bytes, and how many the first 0, 1, 2 ... take.

    Raises:
        TypeError: one of them is no buffer.
    """
    measured = measure(values) or measure([as_bytes(value, "value") for value in values])
    assert measured is not None
    return measured


def checked_timestamp(timestamp: SupportsIndex) -> int:
    """A time in ns as an int.

    Raises:
        TypeError: it is not an int.
        ValueError: it does not fit 64 bits.
    """
    time_ns = as_int(timestamp, "a timestamp is an int of ns since the epoch")
    if not TIMESTAMP_MIN <= time_ns <= TIMESTAMP_MAX:
        raise ValueError(f"timestamp {time_ns} does not fit 64 bits; give ns since the epoch")
    return time_ns


def checked_timeout(timeout_s: SupportsFloat | None) -> float | None:
    """How long to wait.

    Raises:
        TypeError: it is neither a number nor None.
    """
    if timeout_s is None or type(timeout_s) is float:
        return timeout_s
    if not isinstance(timeout_s, SupportsFloat):
        what = type(timeout_s).__name__
        raise TypeError(f"a timeout is a number of seconds, or None for ever, not {what}")
    return float(timeout_s)


def key_column(keys: Iterable[AnyBuffer | None], value_count: int) -> list[bytes | None] | None:
    """The keys as bytes, or None where no record has one.

    Raises:
        TypeError: one of them is no buffer, or they are a single one.
        ValueError: there are not as many as values.
    """
    if isinstance(keys, _NO_SEQUENCES):
        raise TypeError(f"keys is a sequence of one key or None a value, not {type(keys).__name__}")
    plain: list[Any] = list(keys)
    if countOf(map(type, plain), bytes) != len(plain):
        plain = [None if key is None else as_bytes(key, "key") for key in plain]
    _check_count(len(plain), value_count, "keys")
    return None if all(key is None for key in plain) else plain


def time_column(timestamps: Iterable[SupportsIndex], value_count: int) -> Sequence[int]:
    """The timestamps, all of them checked.

    Raises:
        TypeError: one of them is not an int, or they are a single one.
        ValueError: there are not as many as values, or one does not fit 64 bits.
    """
    if isinstance(timestamps, int):
        raise TypeError("timestamps is a sequence of one int of ns a value, not an int")
    times: list[Any] = list(timestamps)
    _check_count(len(times), value_count, "timestamps")
    if countOf(map(type, times), int) == len(times):
        with suppress(OverflowError):
            return array("q", times)
    return [checked_timestamp(time) for time in times]


def _check_count(count: int, value_count: int, what: str) -> None:
    if count != value_count:
        raise ValueError(f"{value_count} values and {count} {what}; there must be one for each")
