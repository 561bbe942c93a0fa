"""Spreading keys over several logs."""

from __future__ import annotations

from segstore.format.buffers import Buffer

# Do not change: callers rely on a key staying where it is.
SEED = 0x9747B28C


def partition_for(key: Buffer, count: int) -> int:
    """Which of `count` logs a key belongs to: the same one every time, evenly spread.

    MurmurHash3 x86 32 of the key (through mmh3, unsigned, a fixed seed) modulo `count`. This is
    not Kafka's partitioner, which uses murmur2: the same key goes elsewhere there.

    Raises:
        ValueError: `count` is below 1.
        TypeError: `key` is no buffer of bytes, or `count` no int.
    """
    import mmh3

    if not isinstance(count, int):
        raise TypeError(f"the number of partitions is an int, not {type(count).__name__}")
    if count < 1:
        raise ValueError(f"there must be at least one partition, not {count}")
    if isinstance(key, str):
        raise TypeError("a key is bytes, not str; encode it first, such as key.encode()")
    return mmh3.hash(bytes(key), SEED, signed=False) % count
