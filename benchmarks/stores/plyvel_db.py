"""LevelDB through plyvel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import plyvel


class PlyvelDb:
    levels = ("written", "durable")
    threads = True

    def __init__(self, path: str, level: str) -> None:
        self.db = plyvel.DB(path, create_if_missing=True, compression=None, bloom_filter_bits=10)
        self.sync = level == "durable"
        self.next = 0
        self.append = self._appender()

    @staticmethod
    def settings(level: str) -> str:
        return (
            f"put(sync={level == 'durable'}), no compression, bloom filter of 10 bits, compacted "
            f"before reads; batches by write_batch"
        )

    def _appender(self) -> Callable[[bytes], None]:
        put, sync = self.db.put, self.sync

        def append(value: bytes) -> None:
            number = self.next
            self.next = number + 1
            put(number.to_bytes(8, "big"), value, sync=sync)

        return append

    def appender(self) -> Callable[[bytes], None]:
        return self.append

    def append_many(self, values: Sequence[bytes]) -> None:
        with self.db.write_batch(sync=self.sync) as batch:
            put = batch.put
            for number, value in enumerate(values, self.next):
                put(number.to_bytes(8, "big"), value)
        self.next += len(values)

    def values(self) -> Iterator[bytes]:
        return self.db.iterator(include_key=False)

    def records(self) -> Iterator[Any]:
        return self.db.iterator()

    def point(self, number: int) -> bytes:
        return self.db.get(number.to_bytes(8, "big"))

    def pack(self) -> None:
        self.db.compact_range()

    def close(self) -> None:
        self.db.close()
