"""RocksDB through rocksdict, raw bytes in raw mode, with its write-ahead log on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)


class RocksdictDb:
    levels = ("written", "durable")
    threads = True

    def __init__(self, path: str, level: str, *, compressed: bool = False) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        kind = DBCompressionType.lz4() if compressed else DBCompressionType.none()
        options.set_compression_type(kind)
        table = BlockBasedOptions()
        table.set_bloom_filter(10, False)
        options.set_block_based_table_factory(table)
        self.db = Rdict(path, options)
        writing = WriteOptions()
        writing.sync = level == "durable"
        self.db.set_write_options(writing)
        self.next = 0
        self.append = self._appender()

    @staticmethod
    def settings(level: str) -> str:
        return (
            f"raw_mode, write-ahead log on, WriteOptions.sync={level == 'durable'}, bloom filter "
            f"of 10 bits, no compression (lz4 where compared with compressed segstore), compacted "
            f"before reads; batches by WriteBatch"
        )

    def _appender(self) -> Callable[[bytes], None]:
        put = self.db.put

        def append(value: bytes) -> None:
            number = self.next
            self.next = number + 1
            put(number.to_bytes(8, "big"), value)

        return append

    def appender(self) -> Callable[[bytes], None]:
        return self.append

    def append_many(self, values: Sequence[bytes]) -> None:
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for number, value in enumerate(values, self.next):
            put(number.to_bytes(8, "big"), value)
        self.db.write(batch)
        self.next += len(values)

    def values(self) -> Iterator[bytes]:
        return iter(self.db.values())

    def records(self) -> Iterator[Any]:
        return iter(self.db.items())

    def point(self, number: int) -> bytes:
        return self.db[number.to_bytes(8, "big")]

    def pack(self) -> None:
        self.db.flush()
        self.db.compact_range(None, None, CompactOptions())

    def close(self) -> None:
        self.db.close()
