"""persist-queue: its SQLite queue, which its docs recommend over the file queue for durability."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import persistqueue


class PersistQueue:
    levels = ("written",)
    threads = False

    def __init__(self, path: str, level: str) -> None:
        assert level in self.levels
        self.path = path
        self.queue = persistqueue.SQLiteQueue(path, auto_commit=True, multithreading=False)
        self.batched: persistqueue.SQLiteQueue | None = None
        self.append: Callable[[bytes], object] = self.queue.put

    @staticmethod
    def settings(level: str) -> str:
        return "SQLiteQueue(auto_commit=True); batches: auto_commit=False, put each, then task_done"

    def append_many(self, values: Sequence[bytes]) -> None:
        if self.batched is None:
            self.batched = persistqueue.SQLiteQueue(self.path, name="many", auto_commit=False)
        put = self.batched.put
        for value in values:
            put(value)
        self.batched.task_done()

    def close(self) -> None:
        self.queue.close()
        if self.batched is not None:
            self.batched.close()
