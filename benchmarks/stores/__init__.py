"""Who is measured: segstore, its peers, and the controls, all with the same few methods.

A store is made with an empty directory (or the one it left) and a level: "written" survives the
process, "durable" survives power loss, "buffered" survives neither. It has what it can do of

    append(value), append_many(values), close()
    values() -> an iterator of values, records() -> one of whole entries
    point(number) -> the value at that number, from 0
    appender() -> an `append` for one thread

`append` is bound as directly as the library allows, so that nobody pays for this layer.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Name to module and class; imported when needed, because a peer may not be installed.
STORES = {
    "segstore": ("segstore_log", "SegstoreLog"),
    "lmdb": ("lmdb_env", "LmdbEnv"),
    "lmdb-writemap": ("lmdb_env", "LmdbWritemapEnv"),
    "lmdb-put": ("lmdb_env", "LmdbPutEnv"),
    "rocksdict": ("rocksdict_db", "RocksdictDb"),
    "sqlite": ("sqlite_wal", "SqliteWal"),
    "sqlite-normal": ("sqlite_wal", "SqliteNormal"),
    "plyvel": ("plyvel_db", "PlyvelDb"),
    "persist-queue": ("persist_queue", "PersistQueue"),
    "diskcache": ("diskcache_deque", "DiskcacheDeque"),
    "logging": ("logging_handler", "LoggingHandler"),
    "file": ("plain_file", "PlainFile"),
}
CONTROLS = {
    "buffered file.write": ("plain_file", "BufferedFile"),
    "os.write": ("plain_file", "BareWrite"),
    "os.write + fdatasync": ("plain_file", "BareWriteSync"),
}


def load(name: str) -> Any:
    """The class of a store.

    Raises:
        ImportError: its library is not installed.
    """
    module, kind = {**STORES, **CONTROLS}[name]
    return getattr(import_module(f"benchmarks.stores.{module}"), kind)


def available(names: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The classes of those that are installed, and why the others are not here."""
    found, absent = {}, {}
    for name in names:
        try:
            found[name] = load(name)
        except ImportError as error:
            absent[name] = f"can't be imported: {error}"
    return found, absent
