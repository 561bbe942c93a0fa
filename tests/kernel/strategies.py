"""Inputs for both sides: what the engine passes, and everything else somebody could."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from segstore.testing.strategies import long_values


class BytesSubclass(bytes):
    pass


class IntSubclass(int):
    pass


def _wide(data: bytes) -> memoryview:
    return memoryview(data[: len(data) // 4 * 4]).cast("I")


odd_values = st.one_of(
    st.binary(max_size=20).map(bytearray),
    st.binary(max_size=20).map(memoryview),
    st.binary(max_size=20).map(BytesSubclass),
    st.binary(max_size=20).map(_wide),
    st.binary(max_size=20).map(lambda data: memoryview(data)[::2]),
    st.sampled_from([None, "text", 7, 1.5, [b"x"], memoryview(b"abcd").cast("c")]),
)
values = st.one_of(
    st.lists(st.binary(max_size=40), max_size=30),
    st.lists(st.binary(max_size=40) | long_values, max_size=6),
    st.lists(st.one_of(st.binary(max_size=20), odd_values), max_size=8),
    st.lists(st.binary(max_size=9), max_size=5).map(tuple),
    st.sampled_from([None, b"bytes", "text", 5, {b"a": 1}]),
)
numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64]),
    st.sampled_from([None, "1", 1.0, True, IntSubclass(4)]),
)


@st.composite
def columns(draw):
    """(data, offsets position, start, stop, position) of a column: whole, hurt, or nonsense."""
    kind = draw(st.sampled_from(["whole", "hurt", "hostile"]))
    if kind == "hostile":
        data = draw(st.binary(max_size=64))
        return _dressed(draw, data), *(draw(numbers) for _ in range(4))
    items = draw(st.lists(st.binary(max_size=12), max_size=8))
    offsets = [0]
    for item in items:
        offsets.append(offsets[-1] + len(item))
    before = draw(st.integers(0, 9))
    stop = len(items)
    start = draw(st.integers(0, stop))
    if kind == "hurt":
        what = draw(st.sampled_from(["offset", "range", "cut"]))
        if what == "offset":
            place = draw(st.integers(0, stop))
            offsets[place] = draw(st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 60))
        elif what == "range":
            stop += draw(st.integers(-stop - 2, 5) | st.sampled_from([2**29, 2**31, 2**61]))
            start = draw(st.integers(-2, 9) | st.sampled_from([start, stop, 2**61]))
    data = bytes(before) + struct.pack(f"<{len(offsets)}i", *offsets)
    position = len(data)
    data += b"".join(items) + draw(st.binary(max_size=3))
    if kind == "hurt" and what == "cut":
        data = data[: draw(st.integers(0, len(data)))]
    return _dressed(draw, data), before, start, stop, position


def _dressed(draw, data: bytes):
    dress = draw(st.sampled_from([*DRESSES, bytes, memoryview]))
    return dress(data)


DRESSES = [
    bytearray,
    BytesSubclass,
    lambda data: memoryview(data).cast("b"),
    lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(data + data)[::2],
    _wide,
    lambda data: None,
]
