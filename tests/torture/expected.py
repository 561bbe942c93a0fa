"""The model, a plain list, and the one check of a log against it: I1 to I6 and I8."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from segstore.config import LogConfig
from segstore.disk import Disk
from segstore.errors import CorruptionError, LogNotFoundError
from segstore.format.names import (
    OFFSET_MAX,
    is_aside,
    is_temporary,
    parse_consumer_file,
    parse_segment_file,
)
from segstore.log.consumer import ConsumerInfo
from segstore.log.log import Log
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError


class Sent(NamedTuple):
    """A record as it was handed over; `timestamp` None where the log picked it."""

    key: bytes | None
    value: bytes
    timestamp: int | None


NOTHING = Sent(None, b"", None)
# By consumer, what a crash may leave as its committed offset; None where it may be unknown.
Committed = dict[str, frozenset[int | None]]


class Expected:
    """What was sent, in order of the offsets.

    Attributes:
        records: by offset; all but the last few were acknowledged.
        written: what is below was acknowledged and survives a kill.
        durable: what is below survives a power cut.
        attempts: what may follow `records`: sent, and not acknowledged (yet).
        start: what is below was deleted on purpose; `start_max` while that is under way.
        truncation: the end offset of a truncation under way, which happens whole or not at all.
        committed: see `Committed`.
    """

    def __init__(self) -> None:
        self.records: list[Sent] = []
        self.written = 0
        self.durable = 0
        self.attempts: list[Sent] = []
        self.start = 0
        self.start_max = 0
        self.truncation: int | None = None
        self.committed: Committed = {}

    def copy(self) -> Expected:
        other = Expected()
        vars(other).update(vars(self))
        other.records = list(self.records)
        other.attempts = list(self.attempts)
        other.committed = dict(self.committed)
        return other

    def acknowledge(self, records: list[Sent], *, durable: bool) -> None:
        self.records += records
        self.written = len(self.records)
        if durable:
            self.durable = self.written
        self.attempts = []

    def truncate(self, end_offset: int) -> None:
        """A truncation is through."""
        del self.records[end_offset:]
        self.attempts = []
        self.written = min(self.written, end_offset)
        self.durable = min(self.durable, end_offset)
        self.truncation = None
        self.hold_back(end_offset)

    def commits(self, name: str, *offsets: int) -> None:
        """A consumer's committed offset is about to be one of these."""
        self.committed[name] = self.committed.get(name, frozenset([None])).union(offsets)

    def committed_is(self, name: str, offset: int | None) -> None:
        """It is that now, durably."""
        self.committed[name] = frozenset([offset])

    def hold_back(self, end_offset: int) -> None:
        """Offsets from there on are given out again."""
        for name, offsets in self.committed.items():
            self.committed[name] = held_back(offsets, end_offset)

    def settle(self, start_offset: int, end_offset: int) -> None:
        """After a reopening: what survived is the log now."""
        self.start = self.start_max = start_offset
        self.truncation = None
        self.records = (self.records + self.attempts)[:end_offset]
        self.written = end_offset
        self.durable = min(self.durable, end_offset)
        self.attempts = []
        self.hold_back(end_offset)


def check_consumers(
    log: Log, expected: Expected, *, end: int | None = None, floor: int | None = None
) -> None:
    """C1, C2: no commit is lost, and none is ahead of what was committed to, or of the log.

    `end` is where a writer found the log to end; what was committed above it counts for no more
    than that. Before there is one, recovery that was interrupted may have held it back to `floor`.
    """
    end = OFFSET_MAX if end is None else end
    floor = end if floor is None else floor
    allowed = {name: held_back(offsets, end) for name, offsets in expected.committed.items()}
    check_all_committed(log.consumers(), allowed, floor)


def check_all_committed(
    infos: Iterable[ConsumerInfo], allowed: Committed, floor: int = OFFSET_MAX
) -> None:
    """Of all consumers that a log has; recovery may have held them back to `floor`."""
    found = {info.name: info.committed for info in infos}
    for name, offsets in allowed.items():
        check_committed(name, found.get(name), offsets, floor)
    for name in found.keys() - allowed.keys():
        raise BrokenError(f"C2: nobody registered consumer {name}")


def check_committed(
    name: str, found: int | None, allowed: frozenset[int | None], floor: int = OFFSET_MAX
) -> None:
    """One of them; `found` is None where it is not registered."""
    offsets = [offset for offset in allowed if offset is not None]
    if found is None:
        if None not in allowed:
            raise BrokenError(f"C1: consumer {name} is gone, and had one of {sorted(offsets)}")
    elif not offsets:
        raise BrokenError(f"C2: consumer {name} is at {found}, and was removed")
    elif found > (highest := max(offsets)):
        raise BrokenError(f"C2: consumer {name} is at {found}, above {highest}")
    elif found < (least := min([*offsets, floor])) and None not in allowed:
        raise BrokenError(f"C1: consumer {name} is at {found}, below {least}")


def held_back(offsets: frozenset[int | None], end_offset: int) -> frozenset[int | None]:
    """Committed offsets once those from `end_offset` on are given out again."""
    return frozenset(None if offset is None else min(offset, end_offset) for offset in offsets)


def check_consuming(log: Log, expected: Expected) -> None:
    """C3: each consumer goes on with just the record that its committed offset says."""
    for name, allowed in list(expected.committed.items()):
        expected.commits(name, log.start_offset)
        with log.consumer(name) as consumer:
            position = max(consumer.committed, log.start_offset)
            for number, record in enumerate(consumer.poll(3)):
                if record.offset != position + number:
                    raise BrokenError(
                        f"C3: consumer {name} gets {record.offset}, not {position + number} "
                        f"(of {sorted(map(str, allowed))})"
                    )
                compare(record, expected.records[record.offset])
            expected.commits(name, consumer.position)
            consumer.commit()
            expected.committed_is(name, consumer.committed)


def check_records(log: Log, expected: Expected, floor: int, *, random: Random | None) -> int:
    """I1, I2, I4: every record is the one that was sent, and none below `floor` is missing."""
    start, end = log.start_offset, log.end_offset
    known = expected.records + expected.attempts
    if not expected.start <= start <= expected.start_max:
        raise BrokenError(f"start {start}, not {expected.start} to {expected.start_max}")
    if end < floor and end != expected.truncation:
        raise BrokenError(f"I1: end {end}, but {floor} records were acknowledged")
    if end > len(known):
        raise BrokenError(f"I4: end {end}, but only {len(known)} records were ever sent")
    offset = start
    try:
        for record in log.read():
            if record.offset != offset:
                raise BrokenError(f"I4: offset {record.offset} follows {offset - 1}")
            compare(record, known[offset])
            offset += 1
    except CorruptionError as error:
        raise BrokenError(f"I1: {error}") from error
    if offset != end:
        raise BrokenError(f"I1: reading ends at {offset}, the log at {end}")
    if random is not None and end > start:
        for _ in range(3):
            at = random.randrange(start, end)
            compare(log[at], known[at])
            compare(next(log.read(at)), known[at])
    return end


def compare(record: object, sent: Sent) -> None:
    """I2: a record is byte for byte what was sent."""
    offset, timestamp, key, value = record  # type: ignore[misc]
    if value != sent.value or key != sent.key:
        raise BrokenError(
            f"I2: offset {offset} is {key!r}: {value[:60]!r}, not {sent.key!r}: {sent.value[:60]!r}"
        )
    if sent.timestamp is not None and timestamp != sent.timestamp:
        raise BrokenError(f"I2: the timestamp of {offset} is {timestamp}, not {sent.timestamp}")


def check_names(disk: Disk) -> None:
    """I6: nothing temporary is left, and nothing unknown."""
    for name in disk.names():
        if is_temporary(name):
            raise BrokenError(f"I6: {name} is left behind")
        is_known = name in ("lock", "tail", "start", "doorbell") or is_aside(name)
        if not is_known and parse_segment_file(name) is None and parse_consumer_file(name) is None:
            raise BrokenError(f"I6: an unknown file, {name}")


def files_of(disk: MemoryDisk) -> dict[str, bytes]:
    """Every file but the lock, whose text is information."""
    return {name: data for name, data in disk.contents().items() if name != "lock"}


def check_state(
    disk: MemoryDisk,
    expected: Expected,
    floor: int,
    config: LogConfig,
    random: Random,
    *,
    thorough: bool = True,
    lost_is_fine: bool = False,
) -> None:
    """All of it, for what a crash left: as a reader, as a writer, again, and after appends."""
    expected = expected.copy()
    before = disk.contents()
    read_end = None
    try:
        reader = Log(disk, "r", config)
    except LogNotFoundError:
        if floor > expected.start_max:
            raise BrokenError("I1: a reader finds no log") from None
    else:
        read_end = check_records(reader, expected, floor, random=random)
        check_consumers(reader, expected, floor=floor)
        reader.close()
    if disk.contents() != before:
        raise BrokenError("I5: a reader changed a file")
    if thorough and random.random() < 0.3:
        _check_without_indexes(before, expected, floor, config, random)

    log = Log(disk, "a", config)
    end = check_records(log, expected, floor, random=random)
    if read_end is not None and read_end > end and expected.truncation is None:
        raise BrokenError(f"I4: a reader saw up to {read_end}, the writer found {end}")
    if log.recovery.lost and not lost_is_fine:
        raise BrokenError(f"damage reported where there was none: {log.recovery.lost}")
    if log.durable_offset > end:
        raise BrokenError(f"durable offset {log.durable_offset} is above the end {end}")
    check_names(disk)
    check_consumers(log, expected, end=end)
    expected.settle(log.start_offset, end)
    if not thorough:
        log.close()
        return
    mark = b"after recovery %d " % end
    count = random.choice((0, 1, 3, 20))
    for number in range(count):
        sent = Sent(None, mark + b"%d" % number + bytes(random.choice((0, 10, 300))), None)
        expected.attempts = [sent]
        if log.append(sent.value) != end + number:
            raise BrokenError("I4: an append after recovery got another offset")
        expected.acknowledge([sent], durable=False)
    check_records(log, expected, expected.written, random=random)
    check_consuming(log, expected)
    if random.random() < 0.5:
        killed = disk.after_kill()
        again = Log(killed, "a", config)
        check_records(again, expected, expected.written, random=random)
        check_consumers(again, expected, end=expected.written)
        if again.recovery.lost and not lost_is_fine:
            raise BrokenError(f"damage after a kill: {again.recovery.lost}")
        again.close()
        _check_stays(killed, expected, config)
    log.close()
    _check_stays(disk, expected, config)


def _check_stays(disk: MemoryDisk, expected: Expected, config: LogConfig) -> None:
    """I5: once closed, another opening changes nothing, and all is still there.

    Also where a failed sync had left a record, or an old frame of the tail, in the cache only.
    """
    disk.drop_caches()
    before = files_of(disk)
    log = Log(disk, "a", config)
    check_records(log, expected, expected.written, random=None)
    check_consumers(log, expected, end=expected.written)
    if log.recovery.cut or log.recovery.removed:
        raise BrokenError(f"I5: a second opening still repairs: {log.recovery}")
    log.close()
    after = files_of(disk)
    if before != after:
        changed = sorted(name for name in before | after if before.get(name) != after.get(name))
        raise BrokenError(f"I5: a second opening changed {changed}")


def _check_without_indexes(
    files: dict[str, bytes], expected: Expected, floor: int, config: LogConfig, random: Random
) -> None:
    """I8: indexes are hints."""
    changed = {}
    for name, data in files.items():
        if name.endswith(".index"):
            kind = random.choice(("missing", "garbage", "lies"))
            if kind == "missing":
                continue
            if kind == "garbage":
                data = random.randbytes(len(data))
            else:  # entries that look right, and point behind their frames
                entries = memoryview(bytearray(data[192 : len(data) - len(data) % 16])).cast("Q")
                for slot in range(0, len(entries), 2):
                    entries[slot] += 8 if entries[slot] else 0
                data = data[:192] + bytes(entries.cast("B"))
        changed[name] = data
    for mode in ("r", "a"):
        try:
            log = Log(MemoryDisk.of(changed), mode, config)  # type: ignore[arg-type]
        except LogNotFoundError:
            continue
        except OSError as error:
            raise BrokenError(f"I8: opening raised {error!r}") from error
        try:
            check_records(log, expected, floor, random=random)
        except BrokenError as error:
            raise BrokenError(f"I8 (indexes deleted or wrong, mode {mode}): {error}") from error
        log.close()
