"""T14: other processes read, follow, consume and copy a log whose writer truncates, trims and is
killed again and again. Each sees whole records of one history only, and no damage; and what the
kills leave is what the writer had acknowledged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import segstore
from segstore import Log, OffsetOutOfRangeError, Record
from tests.torture.campaign import BrokenError, Run

KILLS = 600
READERS = 3
LIVES_PER_LOG = 6
# A reader that needs longer to end, once it is told to, is waiting for something.
ENDS_S_MAX = 60.0
KEY = b"every third"

_WRITER = """
import sys
from tests.torture.t14_truncating import write_on
write_on(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""
_READER = """
import sys
from tests.torture.t14_truncating import look_on
look_on(sys.argv[1], int(sys.argv[2]))
"""


def value_of(turn: int, offset: int) -> bytes:
    """Says when it was appended, and where: turns never fall from one record to the next."""
    return b"%d %d " % (turn, offset) + bytes([turn % 251]) * (offset * 7919 % 200)


def run(run: Run) -> None:
    kills = run.wanted(KILLS)
    while run.counts["kills"] < kills and not run.is_over:
        with tempfile.TemporaryDirectory(prefix="segstore-") as place:
            _run_in(run, place, min(LIVES_PER_LOG, kills - run.counts["kills"]))


class Model:
    """The turn of each record, by offset, and the step that was under way at a kill."""

    def __init__(self) -> None:
        self.turns: list[int] = []
        self.start = 0
        self.turn = 0
        self.pending: tuple[str, int] | None = None

    def follow(self, lines: Iterable[str]) -> None:
        """What a writer said: each step when it begins, and when it is done."""
        for line in lines:
            words = line.split()
            if words[0] == "done":
                assert self.pending is not None
                step, number = self.pending
                if step == "append":
                    self.turns += [self.turn] * number
                elif step == "truncate":
                    del self.turns[number:]
                elif step == "trim":
                    self.start = number
                self.pending = None
            else:
                self.turn += 1
                self.pending = words[0], int(words[1])

    def check(self, log: Log) -> None:
        """The log holds what was acknowledged, with the pending step done or not, or in part."""
        step, number = self.pending or ("none", 0)
        count = len(self.turns)
        starts, ends = range(self.start, self.start + 1), range(count, count + 1)
        if step == "append":
            ends = range(count, count + number + 1)
        elif step == "trim":
            starts = range(self.start, number + 1)
        is_cut = step == "truncate" and log.end_offset == number
        if log.start_offset not in starts or not (is_cut or log.end_offset in ends):
            raise BrokenError(f"I1: {log!r}, not {starts} to {ends} ({step} {number})")
        turns = (self.turns + [self.turn] * number)[: log.end_offset]
        found = [record.value for record in log.read()]
        places = range(log.start_offset, log.end_offset)
        if found != [value_of(turns[place], place) for place in places]:
            raise BrokenError(f"I2: {log!r} holds other records than the list ({step} {number})")
        self.turns, self.start, self.pending = turns, log.start_offset, None


def _run_in(run: Run, place: str, lives: int) -> None:
    path = os.path.join(place, "log")
    segstore.open(path).close()
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READER, place, str(run.random.getrandbits(32))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(READERS)
    ]
    model = Model()
    try:
        for _ in range(lives):
            model.follow(_live(run, path, model.turn))
            with segstore.open(path, background=False) as log:
                if log.recovery.lost:
                    raise BrokenError(f"a kill damaged the log: {log.recovery}")
                model.check(log)
                run.count("records at the end", len(log))
        Path(place, "stop").touch()
        for reader in readers:
            said, _ = reader.communicate(timeout=ENDS_S_MAX)
            if reader.returncode != 0:
                raise BrokenError(f"a reader ended with {reader.returncode}")
            for what, number in json.loads(said).items():
                run.count(what, number)
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def _live(run: Run, path: str, turn: int) -> list[str]:
    """One life of the writer; what it said."""
    seed = run.random.getrandbits(32)
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, path, str(seed), str(turn)], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    with writer.stdout as pipe:
        said = pipe.readline()  # and so it lives
        time.sleep(run.random.random() * 0.4)
        writer.kill()
        said += pipe.read()
    status = writer.wait()
    if status != -9:
        raise BrokenError(f"the writer ended with {status} (seed {seed})")
    run.count("kills")
    return said[: said.rfind(b"\n") + 1].decode().splitlines()


def write_on(path: str, seed: int, turn: int) -> None:
    """What the writer process does, until it is killed."""
    random = Random(seed)

    def tell(text: str) -> None:
        os.write(1, text.encode() + b"\n")

    with segstore.open(path, segment_size="16KiB", batch_size=4096, sync_interval=0.01) as log:
        while True:
            start, end = log.start_offset, log.end_offset
            step = random.choice(["append"] * 6 + ["truncate"] * 2 + ["trim", "roll", "compress"])
            number = {
                "append": random.choice((1, random.randrange(30), random.randrange(900))),
                "truncate": random.randint(max(start, end - random.randrange(1500)), end),
                "trim": random.randint(start, max(start, end - random.randrange(3000))),
            }.get(step, 0)
            turn += 1
            tell(f"{step} {number}")
            if step == "append" and number < 30:
                for offset in range(end, end + number):
                    log.append(value_of(turn, offset))
            elif step == "append":
                values = [value_of(turn, offset) for offset in range(end, end + number)]
                keys = [None if offset % 3 else KEY for offset in range(end, end + number)]
                log.append_many(values, keys=random.choice((keys, None)))
            elif step == "truncate":
                log.truncate(number - 1)
            elif step == "trim":
                log.trim(number)
            elif step == "roll":
                log.roll()
            else:
                log.compress()
            tell("done")


class Seen(NamedTuple):
    """The last record that was seen in a row: when it was appended, and where."""

    turn: int = -1
    offset: int = -1


def seen(records: Iterable[Record], last: Seen, *, in_a_row: bool) -> tuple[Seen, int]:
    """The last of them, and how many; each is whole, and of the same history as those before.

    A record was appended after every one below it, so that turns never fall. Nor do they in the
    order of time: what was seen before a truncation was appended before what came after it.
    """
    count = 0
    for record in records:
        turn, offset = map(int, record.value.split(b" ", 2)[:2])
        if record.offset != offset or record.value != value_of(turn, offset):
            raise BrokenError(f"I2: offset {record.offset} is {record.value[:60]!r}")
        if turn < last.turn:
            raise BrokenError(f"I4: {Seen(turn, offset)} after {last}")
        if in_a_row and count and offset != last.offset + 1:
            raise BrokenError(f"I4: {Seen(turn, offset)} follows {last}")
        last = Seen(turn, offset)
        count += 1
    return last, count


class Looker:
    """A process that looks at the log in every way, with one handle or with another each time."""

    def __init__(self, place: str, random: Random) -> None:
        self.place = place
        self.random = random
        self.counts: dict[str, int] = {}
        self.polled = Seen()

    def count(self, what: str, number: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def ways(self) -> list[Callable[[Log], None]]:
        return [
            *[self.read, self.read_a_part, self.batches, self.points, self.follow, self.find],
            *[self.consume, self.verify, self.snapshot, self.look],
        ]

    def read(self, log: Log) -> None:
        self.count("records read", seen(log.read(), Seen(), in_a_row=True)[1])

    def read_a_part(self, log: Log) -> None:
        start = self.random.randint(log.start_offset, log.end_offset)
        records = log.read(start, start + self.random.randrange(400))
        self.count("records read", seen(records, Seen(), in_a_row=True)[1])

    def batches(self, log: Log) -> None:
        records = (record for batch in log.batches() for record in batch.records())
        self.count("records read", seen(records, Seen(), in_a_row=True)[1])

    def points(self, log: Log) -> None:
        for _ in range(20):
            offset = self.random.randint(log.start_offset, max(log.start_offset, log.end_offset))
            with suppress(OffsetOutOfRangeError):
                record = log[offset]
                if record.offset != offset:
                    raise BrokenError(f"I2: log[{offset}] is of {record.offset}")
                self.count("points", seen([record], Seen(), in_a_row=True)[1])

    def follow(self, log: Log) -> None:
        start = self.random.randint(log.start_offset, log.end_offset)
        last, lost = Seen(), 0
        follower = log.follow(start, timeout=0.05, on_lost="continue")
        for _ in range(3000):
            record = next(follower, None)
            if record is None:
                break
            is_behind_a_gap = last != Seen() and record.offset > last.offset + 1
            if is_behind_a_gap and follower.lost_count == lost:
                raise BrokenError(f"I4: offset {record.offset} follows {last}, and none was lost")
            lost = follower.lost_count
            last, _ = seen([record], last, in_a_row=False)
            self.count("records followed", 1)

    def find(self, log: Log) -> None:
        for record in log.find(KEY):
            if record.key != KEY or record.offset % 3:
                raise BrokenError(f"I2: {record} is not of that key")
            seen([record], Seen(), in_a_row=True)
            self.count("records found", 1)

    def consume(self, log: Log) -> None:
        with log.consumer(f"process-{os.getpid()}") as consumer:
            for _ in range(3):
                records = consumer.poll(self.random.randrange(1, 600))
                self.polled, count = seen(records, self.polled, in_a_row=True)
                self.count("records polled", count)
                if self.random.random() < 0.7:
                    consumer.commit()
                # What was not committed comes again: as nobody did it, or as a truncation between
                # the two took the consumer back.
                if consumer.committed != self.polled.offset + 1:
                    self.polled = Seen()

    def verify(self, log: Log) -> None:
        report = log.verify()
        if not report.is_intact:
            raise BrokenError(f"I1: damage where there is none: {report}")
        self.count("verified", 1)

    def snapshot(self, log: Log) -> None:
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            path = os.path.join(folder, "copy")
            report = log.snapshot(path)
            with segstore.open(path, "r") as copy:
                self.verify(copy)
                count = seen(copy.read(), Seen(), in_a_row=True)[1]
                if count != len(copy) or copy.end_offset != report.end_offset:
                    raise BrokenError(f"I1: {copy!r} has {count} records ({report})")
        self.count("snapshots", 1)

    def look(self, log: Log) -> None:
        log.stats()
        log.segments()
        log.consumers()
        log.offset_for_time(time.time_ns() - self.random.randrange(10**9))
        if not 0 <= log.start_offset <= log.end_offset:
            raise BrokenError(f"I4: {log!r}")


def look_on(place: str, seed: int) -> None:
    """What a reader process does, until it is told to stop; it fails at the first wrong thing."""
    looker = Looker(place, Random(seed))
    path, stop = os.path.join(place, "log"), Path(place, "stop")
    while not stop.exists():
        with segstore.open(path, "r") as log:
            for _ in range(looker.random.choice((1, 5, 50))):
                way = looker.random.choice(looker.ways())
                with suppress(OffsetOutOfRangeError):  # a trim or a truncation was faster
                    way(log)
                if stop.exists():
                    break
    print(json.dumps(looker.counts))
