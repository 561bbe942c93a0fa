"""segstore: an embedded, Kafka-style segmented append-only log. One directory, no server.

import segstore

with segstore.open("events") as log:
    offset = log.append(b"hello")
    print(log[offset].value)
"""

from typing import TYPE_CHECKING

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
from segstore.format.frame import Record, RecordBatch
from segstore.log.log import Log
from segstore.log.log import open_log as open  # noqa: A004
from segstore.log.report import (
    CutTail,
    LostRange,
    RecoveryReport,
    SegmentInfo,
    Stats,
    VerifyReport,
)
from segstore.log.retention import SweepReport, SweptSegment

if TYPE_CHECKING:
    from segstore.log.consumer import Consumer, ConsumerInfo
    from segstore.log.follow import Follower
    from segstore.log.repair import RepairReport
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

# What most programs never name is imported when it is named: importing is a cost of each start.
_LATER = {
    "Consumer": "segstore.log.consumer",
    "ConsumerInfo": "segstore.log.consumer",
    "Follower": "segstore.log.follow",
    "RepairReport": "segstore.log.repair",
    "SnapshotReport": "segstore.log.snapshot",
    "partition_for": "segstore.partition",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'segstore' has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
