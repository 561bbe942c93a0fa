"""The key filter of a sealed segment: a Bloom filter that says "not here" or "maybe here".

Stored behind the entries of the sealed index. A key sets `hash_count` bits: with h1 and h2 the two
unsigned 64-bit halves of MurmurHash3 x64 128 of the key with seed 0x5E65, bit i is
(h1 + i * h2) mod 2**64 mod (8 * size), i from 0; bit b is bit b % 8 (LSB first) of byte b // 8.
Ten bits a key and seven hashes let 0.8 % of the absent keys through.

Sources: Bloom 1970; Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006; MurmurHash3
by Austin Appleby, through mmh3.
"""

from __future__ import annotations

from collections.abc import Iterable

from segstore.format.buffers import Buffer, padding

# Do not change: these are part of the format.
SEED = 0x5E65
BITS_PER_KEY = 10
HASH_COUNT = 7
FILTER_BYTES_MAX = 1 << 27


class KeyFilter:
    """A set of keys that may say yes to a few it does not have, and never no to one it has."""

    def __init__(self, bits: bytearray | bytes, hash_count: int) -> None:
        self._bits = bits
        self.hash_count = hash_count

    @classmethod
    def sized(cls, key_count: int) -> KeyFilter:
        """A filter without any key, of the size for so many."""
        size = max(8, (key_count * BITS_PER_KEY + 7) // 8)
        return cls(bytearray(min(size + padding(size), FILTER_BYTES_MAX)), HASH_COUNT)

    def add(self, keys: Iterable[bytes]) -> None:
        """Add keys to one that was `sized` for them."""
        from mmh3 import mmh3_x64_128_utupledigest

        bits = self._bits
        assert isinstance(bits, bytearray)
        bit_count = len(bits) * 8
        for key in keys:  # as `_places`, whose list would take as long again
            place, step = mmh3_x64_128_utupledigest(key, SEED)
            for _ in range(HASH_COUNT):
                bit = place % bit_count
                bits[bit >> 3] |= 1 << (bit & 7)
                place = (place + step) & 0xFFFFFFFFFFFFFFFF

    @classmethod
    def from_bytes(cls, data: Buffer, hash_count: int) -> KeyFilter | None:
        """The filter stored in `data`, or None where there is none."""
        return cls(bytes(data), hash_count) if len(data) and 0 < hash_count <= 64 else None

    @property
    def size_bytes(self) -> int:
        """How large it is."""
        return len(self._bits)

    def __contains__(self, key: bytes) -> bool:
        bits = self._bits
        places = _places(key, self.hash_count, len(bits) * 8)
        return all(bits[bit >> 3] >> (bit & 7) & 1 for bit in places)

    def to_bytes(self) -> bytes:
        """The bits."""
        return bytes(self._bits)


def _places(key: bytes, hash_count: int, bit_count: int) -> list[int]:
    import mmh3

    first, second = mmh3.hash64(key, SEED, x64arch=True, signed=False)
    return [((first + i * second) & 0xFFFFFFFFFFFFFFFF) % bit_count for i in range(hash_count)]
