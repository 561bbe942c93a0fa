import mmh3
from hypothesis import given
from hypothesis import strategies as st

from segstore.format.keyfilter import KeyFilter
from segstore.segment.keys import filter_of


@given(st.sets(st.binary(max_size=20), min_size=1, max_size=200))
def test_a_filter_never_denies_a_key_it_has(keys):
    found = filter_of(keys)
    again = KeyFilter.from_bytes(found.to_bytes(), found.hash_count)
    assert again is not None
    assert all(key in found and key in again for key in keys)


def test_few_absent_keys_are_let_through():
    found = filter_of([b"key %d" % number for number in range(5000)])
    let_through = sum(b"absent %d" % number in found for number in range(20000))
    assert let_through / 20000 < 0.02


def test_the_bits_are_those_that_the_format_defines():
    keys = [b"one", b"", b"three"]
    data = bytearray(8)
    for key in keys:
        first, second = mmh3.hash64(key, 0x5E65, x64arch=True, signed=False)
        for turn in range(7):
            bit = (first + turn * second) % 2**64 % 64
            data[bit // 8] |= 1 << bit % 8
    assert filter_of(keys).to_bytes() == data


def test_an_empty_filter_or_an_impossible_hash_count_is_none():
    assert KeyFilter.from_bytes(b"", 7) is None
    assert KeyFilter.from_bytes(bytes(8), 0) is None
    assert KeyFilter.from_bytes(bytes(8), 65) is None
