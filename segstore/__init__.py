"""segstore: an embedded, Kafka-style segmented append-only log. One directory, no server.

import segstore

with segstore.open("events") as log:
    offset = log.append(b"hello")
    print(log[offset].value)
"""

import atexit
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # what type checkers go by; `_HOMES` says the same to a running program
    from segstore.config import LogConfig
    from segstore.errors import (
        ConfigError,
        ConsumerLockedError,
        CorruptionError,
        LogClosedError,
        LogLockedError,
        LogNotFoundError,
        OffsetOutOfRangeError,
        ReadOnlyError,
        RecordTooLargeError,
        SegstoreError,
        StorageError,
        SyncFailedError,
        UnsupportedFormatError,
    )
    from segstore.format.batch import Record, RecordBatch
    from segstore.log.consumer import Consumer, ConsumerInfo
    from segstore.log.follow import Follower
    from segstore.log.log import Log
    from segstore.log.log import open_log as open  # noqa: A004
    from segstore.log.repair import RepairReport
    from segstore.log.report import (
        CutTail,
        LostRange,
        RecoveryReport,
        SegmentInfo,
        Stats,
        VerifyReport,
    )
    from segstore.log.retention import SweepReport, SweptSegment
    from segstore.log.snapshot import SnapshotReport
    from segstore.partition import partition_for

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Consumer",
    "ConsumerInfo",
    "ConsumerLockedError",
    "CorruptionError",
    "CutTail",
    "Follower",
    "Log",
    "LogClosedError",
    "LogConfig",
    "LogLockedError",
    "LogNotFoundError",
    "LostRange",
    "OffsetOutOfRangeError",
    "ReadOnlyError",
    "Record",
    "RecordBatch",
    "RecordTooLargeError",
    "RecoveryReport",
    "RepairReport",
    "SegmentInfo",
    "SegstoreError",
    "SnapshotReport",
    "Stats",
    "StorageError",
    "SyncFailedError",
    "SweepReport",
    "SweptSegment",
    "UnsupportedFormatError",
    "VerifyReport",
    "open",
    "partition_for",
]

# Importing is a cost of every start, so each name is imported when it is first used (PEP 562);
# see docs/decisions/0013.
_HOMES = {
    "segstore.config": "LogConfig",
    "segstore.errors": (
        "ConfigError ConsumerLockedError CorruptionError LogClosedError LogLockedError "
        "LogNotFoundError OffsetOutOfRangeError ReadOnlyError RecordTooLargeError SegstoreError "
        "StorageError SyncFailedError UnsupportedFormatError"
    ),
    "segstore.format.batch": "Record RecordBatch",
    "segstore.log.consumer": "Consumer ConsumerInfo",
    "segstore.log.follow": "Follower",
    "segstore.log.log": "Log open",
    "segstore.log.repair": "RepairReport",
    "segstore.log.report": "CutTail LostRange RecoveryReport SegmentInfo Stats VerifyReport",
    "segstore.log.retention": "SweepReport SweptSegment",
    "segstore.log.snapshot": "SnapshotReport",
    "segstore.partition": "partition_for",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'segstore' has no attribute {name!r}")
    # Not at the top, behind which a type checker on another system would find no name.
    if sys.platform != "linux":
        raise ImportError(f"segstore runs on Linux only, and this is {sys.platform}")
    from importlib import import_module

    home = import_module(_HOME_OF[name])
    found = globals()[name] = getattr(home, "open_log" if name == "open" else name)
    return found


def _close_logs() -> None:
    used = sys.modules.get("segstore.log.log")
    if used is not None:
        used.close_all()


# Not where the logs are, which is imported later: what a program has registered to run at its exit
# since it imported this may still use its logs.
atexit.register(_close_logs)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
