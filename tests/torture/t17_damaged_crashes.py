"""T17: one damage to one file of what a kill or a power cut left: every record that can be read is
right; no other file loses any; what was promised, by what is still there, keeps its offset, and
where it is gone that is reported; and once the log was opened, nothing that could be read goes.

What says that records were promised is the tail, and what is not synced yet nothing says. So damage
to the end of a segment is taken for a write that was cut short where the tail has not promised the
records (docs/explanation/recovery.md), and damage to the tail costs what it alone held. Crashes in
the middle of a truncation are left out: damage to its file decides whether it is carried out.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from segstore.config import LogConfig
from segstore.format.fileheader import FILE_HEADER_BYTES, log_tag
from segstore.format.names import DOORBELL, LOCK, START, TAIL, is_aside, parse_segment_file
from segstore.log.log import Log
from segstore.segment.tail import FRAMES_POSITION, Tail
from segstore.segment.tailreader import TailReader
from segstore.testing.memory import SECTOR_BYTES, Event, MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import Expected
from tests.torture.remains import (
    DATA_SUFFIXES,
    Remains,
    check_opens,
    check_stays,
    run_trials,
    segments_in,
)
from tests.torture.t04_damage import Damaged
from tests.torture.workload import Workload

DAMAGES = 12_000
DAMAGES_PER_LOG = 60
STEPS = 50


class Crash(NamedTuple):
    """What a crash left, and what was in the log by then.

    Attributes:
        is_kill: else the power was cut.
        floor: what is below was acknowledged, for a power cut as durable.
    """

    is_kill: bool
    files: dict[str, bytes]
    expected: Expected
    floor: int

    @property
    def end_max(self) -> int:
        """One past the last record that may be in it."""
        return len(self.expected.records) + len(self.expected.attempts)


class Promise(NamedTuple):
    """What a damage must not cost.

    Attributes:
        end: offsets below are not given out again, and what is lost of them is reported.
        kept: offsets whose records can be read.
        staged: those that the tail makes up for, provided that `before` can be read.
    """

    end: int
    kept: set[int]
    staged: range = range(0)
    before: range = range(0)


class Told(NamedTuple):
    """What an intact tail tells.

    Attributes:
        end: where the segments end.
        segments_durable: what is below is durable in the segments.
        durable: what is below is durable.
        held: what it has, and an opening looks for in the segments, if a segment had promised
            its first.
        staged: what it has to the end of the log, if so far, and an opening looks for in the
            segments.
    """

    end: int
    segments_durable: int
    durable: int
    held: range
    staged: range


def tell(crash: Crash) -> Told:
    tail = Tail.open(MemoryDisk.of(crash.files), write=False)
    if tail is None or tail.log_id is None:
        return Told(0, 0, 0, range(0), range(0))
    registers = (tail.end, tail.segments_durable, tail.tail_durable, tail.recovery_point)
    end, segments_durable, durable, recovery_point = (one.read() or 0 for one in registers)
    durable = max(segments_durable, durable)
    staged = TailReader(tail.view, log_tag(tail.log_id)).offsets()
    is_all = staged.start <= durable and staged.stop >= crash.end_max
    first = max(staged.start, recovery_point, crash.expected.start_max)
    held = range(first, staged.stop if staged.start <= segments_durable else 0)
    staged = range(first, staged.stop if is_all else 0)
    return Told(end, segments_durable, durable, held, staged)


def promise(crash: Crash, damaged: Damaged) -> Promise:
    told, start, floor = tell(crash), crash.expected.start_max, crash.floor
    segment = parse_segment_file(damaged.name)
    if damaged.name == TAIL:
        # After a power cut its register may be ahead of the segments.
        in_segments = min(floor, told.end if crash.is_kill else told.segments_durable)
        before, after = crash.files[TAIL], damaged.data or b""
        is_told = before[:FRAMES_POSITION] == after[:FRAMES_POSITION] and len(before) == len(after)
        durable = min(floor, told.durable) if is_told else 0
        return Promise(max(in_segments, durable), set(range(start, in_segments)))
    if segment is None or segment[1] not in DATA_SUFFIXES:
        return Promise(floor, set(range(start, floor)))
    end = min(floor, told.durable)
    following = next((base for base in segments_in(crash.files) if base > segment[0]), None)
    kept = set(range(start, end))
    if following is not None:  # an opening may not look into it, as it may be sealed
        return Promise(end, kept.difference(range(segment[0], following)))
    kept = kept.difference(range(segment[0], end))
    if len(damaged.data or b"") < len(crash.files[damaged.name]):
        return Promise(end, kept, told.staged or told.held)
    # A bad spot that begins before what the tail has, and that something follows, stays as it is
    # where no segment had promised what is between.
    is_promised = told.staged.start <= told.segments_durable
    before = range(0) if is_promised else range(max(segment[0], start), told.staged.start)
    return Promise(end, kept, told.staged, before)


def damage(files: dict[str, bytes], random: Random) -> Damaged:
    """Any one, mostly to what is written to, and there to what came last."""
    names = sorted(
        name
        for name, data in files.items()
        if data and name not in (LOCK, DOORBELL) and not is_aside(name)
    )
    data_names = [name for name in names if name.endswith(DATA_SUFFIXES)]
    name = random.choice([random.choice(names), *data_names[-1:], *({TAIL} & set(names))])
    data = bytearray(files[name])
    size_bytes = len(data.rstrip(b"\0")) or len(data)
    at = random.randrange(size_bytes)
    if random.random() < 0.5:
        at = size_bytes - 1 - at // 8
    kind = random.choice(("flip", "flip", "zeros", "cut", "header", "garbage", "missing"))
    if kind == "flip":
        data[at] ^= 1 << random.randrange(8)
    elif kind == "zeros":
        first = at // SECTOR_BYTES * SECTOR_BYTES
        hit = slice(first, first + SECTOR_BYTES * random.choice((1, 1, 8)))
        data[hit] = bytes(len(data[hit]))
    elif kind == "cut":
        del data[at:]
    elif kind == "header":
        del data[random.choice((0, FILE_HEADER_BYTES // 2, FILE_HEADER_BYTES)) :]
    elif kind == "garbage":
        data[at : at + 64] = random.randbytes(len(data[at : at + 64]))
    else:
        return Damaged(name, None, kind, None)
    return Damaged(name, bytes(data), f"{kind} at {at}", None, at if kind == "flip" else None)


def check(crash: Crash, damaged: Damaged, config: LogConfig, random: Random) -> None:
    expected, promised = crash.expected, promise(crash, damaged)
    known = expected.records + expected.attempts
    history = {offset: [sent] for offset, sent in enumerate(known)}

    def check_promised(log: Log, remains: Remains) -> None:
        offsets = remains.offsets
        is_start = damaged.name == START
        if not (0 if is_start else expected.start) <= offsets.start <= expected.start_max:
            raise BrokenError(
                f"start {offsets.start}, not {expected.start} to {expected.start_max}"
            )
        end = offsets.stop
        if log.mode == "r" and remains.lost.issuperset(range(end, promised.end)):
            end = max(end, promised.end)  # it shows the log up to there, and tells of the rest
        kept, least = promised.kept, promised.end
        if remains.found.issuperset(promised.before):
            kept, least = kept.union(promised.staged), max(least, promised.staged.stop)
        if not least <= end <= crash.end_max:
            raise BrokenError(f"I4: end {end}, not {least} to {crash.end_max}")
        gone = set(range(expected.start_max, crash.floor)) - remains.found - remains.lost
        if gone and damaged.flipped is not None and log.mode == "a" and not log.recovery.cut:
            raise BrokenError(f"I1: {sorted(gone)} are gone, and nothing says so")
        if gone := kept - remains.found:
            raise BrokenError(f"I3: {sorted(gone)} are gone")

    files = {name: data for name, data in crash.files.items() if name != damaged.name}
    if damaged.data is not None:
        files[damaged.name] = damaged.data
    disk = MemoryDisk.of(files)
    log, remains = check_opens(disk, history, config, check_promised)
    check_stays(disk, log, remains, history, config, random, promised.end)


def crashes(config: LogConfig, random: Random) -> list[Crash]:
    """What one workload would have left at some of its moments, had it ended there."""
    share, chances = random.choice((0.02, 0.1, 0.3)), Random(random.getrandbits(32))
    found: list[Crash] = []
    workload: Workload | None = None

    def take(disk: MemoryDisk) -> None:
        if workload is None or workload.disk is not disk or chances.random() > share:
            return
        expected = workload.expected.copy()
        if expected.truncation is not None:
            return
        is_kill = chances.random() < 0.5
        left = disk.after_kill() if is_kill else disk.unsynced().sample(chances)
        floor = expected.written if is_kill else expected.durable
        found.append(Crash(is_kill, left.contents(), expected, floor))

    def watch(disk: MemoryDisk, _: Event) -> None:
        take(disk)

    living = MemoryDisk(watch=watch)
    workload = Workload(living, config, random)
    for _ in range(STEPS):
        workload.step()
        take(living)
        if random.random() < 0.03:
            living = living.after_kill()
            living.watch = watch
            workload.revive(living)
    return found


def run(run: Run) -> None:
    run_damages(run, run.wanted(DAMAGES))


def run_damages(run: Run, wanted: int) -> None:
    """Workloads until so many damages were looked at."""

    def prepare(config: LogConfig, random: Random) -> list[Crash]:
        left = crashes(config, random)
        run.count("crashes", len(left))
        return left

    def look_at_one(left: list[Crash], config: LogConfig, random: Random) -> None:
        crash = random.choice(left)
        damaged = damage(crash.files, random)
        run.state([damaged.name, damaged.data, *crash.files.items()])
        try:
            check(crash, damaged, config, random)
        except Exception as error:
            kind = "kill" if crash.is_kill else "power cut"
            raise BrokenError(
                f"{error!r} ({damaged.what} of {damaged.name} after a {kind})"
            ) from error

    run_trials(run, "damages", wanted, DAMAGES_PER_LOG, prepare, look_at_one)
