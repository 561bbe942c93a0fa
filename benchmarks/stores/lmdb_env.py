"""LMDB: big-endian numbers as keys, put with append=True as its docs say for sorted keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lmdb


class LmdbEnv:
    levels = ("written", "durable")
    threads = True
    writemap = False

    def __init__(self, path: str, level: str, *, map_bytes: int = 16 << 30) -> None:
        sync = level == "durable"
        self.env = lmdb.open(
            path, map_size=map_bytes, sync=sync, metasync=sync, writemap=self.writemap
        )
        self.next = self.env.stat()["entries"]
        self.append = self._appender()

    @classmethod
    def settings(cls, level: str) -> str:
        sync = level == "durable"
        return (
            f"sync={sync}, metasync={sync}, writemap={cls.writemap}, put(append=True) in one "
            f"transaction for each append; batches by cursor.putmulti(append=True)"
        )

    def _appender(self) -> Callable[[bytes], None]:
        begin = self.env.begin

        def append(value: bytes) -> None:
            with begin(write=True) as transaction:
                number = self.next
                transaction.put(number.to_bytes(8, "big"), value, append=True)
                self.next = number + 1

        return append

    def appender(self) -> Callable[[bytes], None]:
        return self.append

    def append_many(self, values: Sequence[bytes]) -> None:
        with self.env.begin(write=True) as transaction:
            first = self.next
            keys = [number.to_bytes(8, "big") for number in range(first, first + len(values))]
            with transaction.cursor() as cursor:
                cursor.putmulti(zip(keys, values, strict=True), append=True)
            self.next = first + len(values)

    def values(self) -> Iterator[bytes]:
        with self.env.begin() as transaction, transaction.cursor() as cursor:
            yield from cursor.iternext(keys=False, values=True)

    def records(self) -> Iterator[Any]:
        with self.env.begin() as transaction, transaction.cursor() as cursor:
            yield from cursor.iternext(keys=True, values=True)

    def since(self, number: int) -> Iterator[Any]:
        with self.env.begin() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(number.to_bytes(8, "big")):
                yield from cursor.iternext(keys=True, values=True)

    def point(self, number: int) -> bytes:
        with self.env.begin() as transaction:
            return transaction.get(number.to_bytes(8, "big"))

    def pack(self) -> None:
        self.env.sync(True)

    def close(self) -> None:
        self.env.close()


class LmdbWritemapEnv(LmdbEnv):
    """The same through a writable map: its docs call it faster, and open to stray writes."""

    writemap = True


class LmdbPutEnv(LmdbEnv):
    """A batch as most programs write it: one `put` for each record, in one transaction."""

    levels = ("written",)

    @classmethod
    def settings(cls, level: str) -> str:
        return LmdbEnv.settings(level).replace(
            "cursor.putmulti(append=True)", "transaction.put(append=True) for each"
        )

    def append_many(self, values: Sequence[bytes]) -> None:
        with self.env.begin(write=True) as transaction:
            put = transaction.put
            for number, value in enumerate(values, self.next):
                put(number.to_bytes(8, "big"), value, append=True)
            self.next += len(values)
