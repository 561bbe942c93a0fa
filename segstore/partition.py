"""Spreading keys over several logs."""

from __future__ import annotations

from typing import SupportsIndex

from segstore.format.buffers import AnyBuffer, as_bytes, as_int

# Do not change: callers rely on a key staying where it is.
SEED = 0x9747B28C


def partition_for(key: AnyBuffer, count: SupportsIndex) -> int:
    """Which of `count` logs a key belongs to: the same one every time, evenly spread.

    MurmurHash3 x86 32 of the key (through mmh3, unsigned, a fixed seed) modulo `count`. This is
    not Kafka's partitioner, which uses murmur2: the same key goes elsewhere there.

    Raises:
        ValueError: `count` is below 1.
        TypeError: `key` is no buffer of bytes, or `count` no int.
    """
    import mmh3

    count = as_int(count, "the number of partitions is an int")
    if count < 1:
        raise ValueError(f"there must be at least one partition, not {count}")
    return mmh3.hash(as_bytes(key, "key"), SEED, signed=False) % count
