import subprocess
import sys

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstore.format.chunk import (
    CHUNK_RAW_BYTES_MAX,
    chunk_raw_bytes,
    decode_chunk,
    encode_chunk,
)

raw = st.one_of(
    st.binary(min_size=1, max_size=2000),
    st.builds(lambda piece, count: piece * count, st.binary(min_size=1, max_size=20),
              st.integers(1, 20000)),
).map(lambda data: data + bytes(-len(data) % 8))  # as frames are  # fmt: skip


@given(raw, st.sampled_from(["lz4", "lz4hc"]))
def test_a_chunk_comes_back(data, codec):
    data *= 8  # as the sizes of all that chunks hold are
    chunk = encode_chunk(data, codec)
    assert decode_chunk(chunk) == data
    assert chunk_raw_bytes(chunk, 0) == len(data)


@given(raw)
def test_a_chunk_is_a_standard_lz4_frame(data):
    assert lz4.frame.decompress(encode_chunk(data, "lz4")) == data


@given(raw, st.data())
def test_a_shortened_or_lengthened_chunk_is_refused(data, draw):
    chunk = encode_chunk(data, "lz4")
    size = draw.draw(st.integers(0, len(chunk) - 1))
    with pytest.raises(ValueError, match=r"."):
        decode_chunk(chunk[:size])
    with pytest.raises(ValueError, match=r"."):
        decode_chunk(chunk + b"\0")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_chunk(data):
    with pytest.raises(ValueError, match=r"."):
        decode_chunk(data)


@given(raw, st.data())
def test_a_flipped_bit_never_crashes_or_changes_the_size(data, draw):
    chunk = bytearray(encode_chunk(data, "lz4"))
    chunk[draw.draw(st.integers(0, len(chunk) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        assert len(decode_chunk(bytes(chunk))) == chunk_raw_bytes(bytes(chunk), 0)
    except ValueError:
        pass


@pytest.mark.parametrize("size", [CHUNK_RAW_BYTES_MAX + 1, 2**31, 2**63, 0])
def test_a_forged_size_is_refused_before_anything_is_allocated(size):
    chunk = bytearray(encode_chunk(b"x" * 104, "lz4"))
    chunk[6:14] = size.to_bytes(8, "little")
    assert chunk_raw_bytes(bytes(chunk), 0) is None
    with pytest.raises(ValueError, match=r"."):
        decode_chunk(bytes(chunk))


def test_a_size_that_so_few_bytes_cannot_hold_is_refused():
    chunk = bytearray(encode_chunk(b"x" * 104, "lz4"))
    chunk[6:14] = CHUNK_RAW_BYTES_MAX.to_bytes(8, "little")
    with pytest.raises(ValueError, match="can't hold"):
        decode_chunk(bytes(chunk))


IN_LITTLE_MEMORY = """
import os, resource
from segstore.format.chunk import decode_chunk, encode_chunk

data = os.urandom(8 << 20)
chunk = encode_chunk(data, "lz4")
unlimited = resource.RLIM_INFINITY
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
found = []
for spare in range(0, 40 << 20, 1 << 18):
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, unlimited))
    try:
        {call}
        found.append("whole")
    except Exception as error:
        found.append(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
print(*sorted(set(found)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.parametrize(
    "call", ["decode_chunk(chunk)", 'encode_chunk(data, "lz4")', 'encode_chunk(data, "lz4hc")']
)
def test_too_little_memory_for_a_chunk_is_called_that(call):
    command = [sys.executable, "-c", IN_LITTLE_MEMORY.format(call=call)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["MemoryError", "whole"]
