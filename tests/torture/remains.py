"""What remains of a log that damage or a plain copy took records from: it is right, what is missing
is reported, and whoever writes behind it and ends in any way leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random
from typing import NamedTuple, TypeVar

from segstore.config import LogConfig
from segstore.errors import CorruptionError, LogNotFoundError, SegstoreError
from segstore.format.batch import Record
from segstore.format.names import LZ4_SUFFIX, RAW_SUFFIX, parse_segment_file
from segstore.log.log import Log
from segstore.log.report import LostRange
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import Sent, check_names, compare, files_of
from tests.torture.workload import any_config, small_tail

T = TypeVar("T")

# By offset, the records that were ever sent with it, which are several where a log was truncated.
History = dict[int, list[Sent]]
DATA_SUFFIXES = (RAW_SUFFIX, LZ4_SUFFIX)
# How many of the states that one power cut may leave.
CUTS = 3


class Remains(NamedTuple):
    """What can be had of a log.

    Attributes:
        offsets: from its start to its end.
        found: those whose records can be read.
        lost: those that are reported as lost.
    """

    offsets: range
    found: set[int]
    lost: set[int]


def run_trials(
    run: Run,
    what: str,
    wanted: int,
    count_per_log: int,
    prepare: Callable[[LogConfig, Random], T],
    look_at_one: Callable[[T, LogConfig, Random], None],
) -> None:
    """Workloads, as `prepare` runs them, until so many of `what` they left were looked at."""
    while run.counts[what] < wanted and not run.is_over:
        seed = run.random.getrandbits(32)
        random = Random(seed)
        config = any_config(random)
        with small_tail(random.choice((8192, 12288, 65536))):
            left = prepare(config, random)
            run.count("logs")
            for number in range(count_per_log if left else 0):
                if run.counts[what] >= wanted or run.is_over:
                    return
                run.count(what)
                try:
                    look_at_one(left, config, Random(f"{seed} {number}"))
                except Exception as error:
                    raise BrokenError(
                        f"{error!r} (log seed {seed}, {number} of its {what})"
                    ) from error


def check_opens(
    disk: MemoryDisk,
    history: History,
    config: LogConfig,
    check: Callable[[Log, Remains], None],
) -> tuple[Log, Remains]:
    """I7: it opens for a reader, who changes nothing, and for the writer, who is returned."""
    before = disk.contents()
    try:
        reader = Log(disk, "r", config)
    except LogNotFoundError:
        if segments_in(before):
            raise BrokenError("I7: there are segments, and a reader finds no log") from None
    else:
        check(reader, look(reader, history))
        reader.close()
    if disk.contents() != before:
        raise BrokenError("I5: a reader changed a file")
    try:
        log = Log(disk, "a", config)
    except (OSError, SegstoreError) as error:
        raise BrokenError(f"I7: opening raised {error!r}") from error
    remains = look(log, history)
    check(log, remains)
    check_names(disk)
    for consumer in log.consumers():
        if consumer.committed > log.end_offset:
            raise BrokenError(f"C2: {consumer} is above the end {log.end_offset}")
    return log, remains


def segments_in(names: Iterable[str]) -> list[int]:
    """The base offsets of the segments whose data is there, in order."""
    parsed = filter(None, map(parse_segment_file, names))
    return sorted({base_offset for base_offset, suffix in parsed if suffix in DATA_SUFFIXES})


def look(log: Log, history: History) -> Remains:
    """I1, I2, I4: every record was sent with its offset, and what can't be read is reported."""
    offsets = range(log.start_offset, log.end_offset)
    if log.start_offset > log.end_offset:
        raise BrokenError(f"I4: start {log.start_offset} is above the end {log.end_offset}")
    found: list[int] = []
    for record in log.read(errors="skip"):
        if record.offset not in offsets or (found and record.offset <= found[-1]):
            raise BrokenError(f"I4: offset {record.offset} follows {found[-1:]} in {offsets}")
        _compare(record, history)
        found.append(record.offset)
    lost = _offsets(log.recovery.lost) | _offsets(log.verify().lost)
    missing = sorted(set(offsets).difference(found))
    if unreported := [offset for offset in missing if offset not in lost]:
        raise BrokenError(f"I1: {unreported} are lost in {offsets}, and nothing says so")
    whole = [offset for offset in found if offset not in lost]
    for offset in whole[:1] + whole[-1:]:
        _compare(log[offset], history)
    for offset in missing[:1] + missing[-1:]:
        with suppress(CorruptionError):  # the tail may have it still, behind what a segment lost
            _compare(log[offset], history)
    return Remains(offsets, set(found), lost)


def check_stays(
    disk: MemoryDisk,
    log: Log,
    remains: Remains,
    history: History,
    config: LogConfig,
    random: Random,
    promised: int,
) -> None:
    """I4, I5: appends get the offsets behind it, and a close, a kill or a power cut takes nothing.

    A power cut takes nothing below `promised`, and what `log` itself says is durable.
    """
    if random.random() < 0.2:
        log.repair()
    end = remains.offsets.stop
    added: History = {}
    for offset in range(end, end + random.choice((0, 1, 5, 40))):
        sent = Sent(None, b"added %d " % offset + bytes(random.choice((0, 100))), None)
        durability = random.choice(("written", "durable"))
        if log.append(sent.value, durability=durability) != offset:  # type: ignore[arg-type]
            raise BrokenError(f"I4: an append gets another offset than {offset}")
        added[offset] = [sent]
    end = safe_end = end + len(added)
    how = random.choice(("close", "kill", "power cut"))
    if how == "close":
        log.close()
        left = [disk]
    elif how == "kill":
        left = [disk.after_kill()]
    else:
        safe_end = max(promised, log.durable_offset)
        unsynced = disk.unsynced()
        left = [unsynced.sample(random) for _ in range(CUTS)]
    for found in left:
        try:
            _check_is_as_before(
                found, remains, added, history, config, range(safe_end, end + 1), how
            )
        except BrokenError as error:
            raise BrokenError(f"{error} (after {len(added)} appends and a {how})") from error


def _check_is_as_before(
    disk: MemoryDisk,
    remains: Remains,
    added: History,
    history: History,
    config: LogConfig,
    ends: range,
    how: str,
) -> None:
    log = Log(disk, "a", config)
    again = look(log, {**history, **added})
    if again.offsets.start != remains.offsets.start or again.offsets.stop not in ends:
        raise BrokenError(f"I4: {again.offsets}, and was {remains.offsets}, ends in {ends}")
    # What is lost and can be read all the same, the tail has: until somebody writes over it.
    expected = (remains.found - remains.lost).union(added)
    if gone := [offset for offset in expected - again.found if offset < ends.start]:
        raise BrokenError(f"I1: {sorted(gone)} could be read before; {log.recovery}")
    if came := again.lost - remains.lost:
        raise BrokenError(f"I1: {sorted(came)} are reported now, and were not; {log.recovery}")
    if how != "power cut" and log.recovery.cut:
        raise BrokenError(f"I5: a second opening still cuts: {log.recovery}")
    log.close()
    before = files_of(disk)
    Log(disk, "a", config).close()
    if files_of(disk) != before:
        raise BrokenError("I5: an opening after a close changes files")


def _compare(record: Record, history: History) -> None:
    sent = history.get(record.offset)
    if sent is None:
        raise BrokenError(f"I2: offset {record.offset} is {record.value[:60]!r}, never sent")
    of_it = [one for one in sent if (one.key, one.value) == (record.key, record.value)]
    if not any(one.timestamp in (None, record.timestamp) for one in of_it):
        compare(record, (of_it or sent)[-1])


def _offsets(lost: Iterable[LostRange]) -> set[int]:
    return {offset for part in lost for offset in part.offsets}
