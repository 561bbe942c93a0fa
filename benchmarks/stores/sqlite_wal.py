"""SQLite in WAL mode: one table, the row id is the offset."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

INSERT = "INSERT INTO log (value) VALUES (?)"


class SqliteWal:
    """synchronous=OFF survives the process, FULL survives power loss."""

    levels = ("written", "durable")
    threads = True
    written = "OFF"

    def __init__(self, path: str, level: str) -> None:
        self.file = os.path.join(path, "log.db")
        self.synchronous = "FULL" if level == "durable" else self.written
        self.lock = threading.Lock()
        self.connection = self._connect()
        self._reader: sqlite3.Connection | None = None
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS log (offset INTEGER PRIMARY KEY, value BLOB)"
        )
        self.append = self._appender(self.connection)

    @classmethod
    def settings(cls, level: str) -> str:
        synchronous = "FULL" if level == "durable" else cls.written
        return (
            f"journal_mode=WAL, synchronous={synchronous}, autocommit for each append; batches by "
            f"executemany in one transaction; threads share one connection under a lock"
        )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.file, timeout=60, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self.synchronous}")
        return connection

    def _appender(self, connection: sqlite3.Connection) -> Callable[[bytes], None]:
        execute = connection.execute

        def append(value: bytes) -> None:
            execute(INSERT, (value,))

        return append

    def appender(self) -> Callable[[bytes], None]:
        # SQLite has one writer at a time. Threads with connections of their own wait for it in a
        # busy loop that sleeps, some hundred times slower than a lock around one connection.
        append, lock = self.append, self.lock

        def append_alone(value: bytes) -> None:
            with lock:
                append(value)

        return append_alone

    def append_many(self, values: Sequence[bytes]) -> None:
        connection = self.connection
        connection.execute("BEGIN")
        connection.executemany(INSERT, [(value,) for value in values])
        connection.execute("COMMIT")

    def values(self) -> Iterator[bytes]:
        for (value,) in self.connection.execute("SELECT value FROM log ORDER BY offset"):
            yield value

    def records(self) -> Iterator[Any]:
        return iter(self.connection.execute("SELECT offset, value FROM log ORDER BY offset"))

    def since(self, number: int) -> Iterator[Any]:
        """By a connection of its own."""
        if self._reader is None:
            self._reader = self._connect()
        query = "SELECT offset, value FROM log WHERE offset > ? ORDER BY offset"
        return self._reader.execute(query, (number,))

    def point(self, number: int) -> bytes:
        row = self.connection.execute("SELECT value FROM log WHERE offset = ?", (number + 1,))
        return row.fetchone()[0]

    def pack(self) -> None:
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self.connection.close()


class SqliteNormal(SqliteWal):
    """synchronous=NORMAL, what most programs run: it syncs at checkpoints only."""

    levels = ("written",)
    written = "NORMAL"
