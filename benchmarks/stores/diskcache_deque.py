"""diskcache.Deque."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import diskcache


class DiskcacheDeque:
    levels = ("written",)
    threads = True

    def __init__(self, path: str, level: str) -> None:
        assert level in self.levels
        self.deque = diskcache.Deque(directory=path)
        self.append: Callable[[bytes], object] = self.deque.append

    @staticmethod
    def settings(level: str) -> str:
        return "as it comes (SQLite WAL, synchronous=NORMAL); batches: extend in transact()"

    def appender(self) -> Callable[[bytes], object]:
        return self.append

    def append_many(self, values: Sequence[bytes]) -> None:
        with self.deque.transact():
            self.deque.extend(values)

    def values(self) -> Iterator[bytes]:
        return iter(self.deque)

    def point(self, number: int) -> bytes:
        return self.deque[number]

    def pack(self) -> None:
        pass

    def close(self) -> None:
        self.deque.cache.close()
