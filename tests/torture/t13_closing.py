"""T13: threads use a log while another closes it, and each ends with LogClosedError: nothing that
was acknowledged is lost, and no other file of the process is touched. Threads that look at a log
while it is truncated and trimmed see no damage, and it ends as it should.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import segstore
from segstore import Log, LogClosedError, OffsetOutOfRangeError
from tests.torture.campaign import BrokenError, Run

ROUNDS = 600
THREADS = 6
# A thread that needs longer to see that the log was closed is waiting for something.
ENDS_S_MAX = 30.0
# So short that threads meet in the middle of everything.
SWITCH_S = 1e-5

LOOKS: dict[str, Callable[[Log], object]] = {
    "read the last": lambda log: list(log.read(max(log.start_offset, log.end_offset - 50))),
    "read all": lambda log: list(log.batches()),
    "point": lambda log: len(log) and log[log.end_offset - 1],
    "find": lambda log: list(log.find(b"key")),
    "time": lambda log: log.offset_for_time(0),
    "follow": lambda log: next(log.follow(timeout=0.02), None),
    "consumers": Log.consumers,
    "segments": Log.segments,
    "stats": Log.stats,
    "verify": Log.verify,
    "durable offset": lambda log: log.durable_offset,
}
WORK: dict[str, Callable[[Log], object]] = {
    "sync": Log.sync,
    "roll": Log.roll,
    "compress": Log.compress,
    "sweep": Log.sweep,
    "repair": Log.repair,
    "consume": lambda log: _consume(log),
}


def _consume(log: Log) -> None:
    name = f"thread-{threading.get_ident()}"
    with log.consumer(name) as consumer:
        consumer.poll(20)
        consumer.commit()


def run(run: Run) -> None:
    run_rounds(run, closing, run.wanted(ROUNDS * 2 / 3))
    run_rounds(run, changing, run.wanted(ROUNDS / 3))


def run_rounds(run: Run, kind: Callable[[Run, str, Random], None], count: int) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        while run.counts[kind.__name__] < count and not run.is_over:
            seed = run.random.getrandbits(32)
            with tempfile.TemporaryDirectory(prefix="segstore-") as place:
                try:
                    kind(run, place, Random(seed))
                except BrokenError as error:
                    raise BrokenError(f"{error} ({kind.__name__}, seed {seed})") from error
            run.count(kind.__name__)
    finally:
        sys.setswitchinterval(before)


class Crew:
    """Threads that each do one thing again and again, until the log says that it was closed."""

    def __init__(self) -> None:
        self.odd: list[str] = []
        self.is_over = False
        self._threads: list[threading.Thread] = []

    def start(self, name: str, step: Callable[[], object]) -> None:
        def work() -> None:
            while not self.is_over:
                try:
                    step()
                except LogClosedError:
                    return
                except OffsetOutOfRangeError:
                    pass  # retention, a trim or a truncation was faster
                except BaseException as error:
                    self.odd.append(f"{name}: {error!r}")
                    return

        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(ENDS_S_MAX)
            if thread.is_alive():
                self.odd.append(f"{thread.name} hangs")
        if self.odd:
            raise BrokenError(f"I7: {self.odd}")


def closing(run: Run, place: str, random: Random) -> None:
    """Close a writer and a reader under the hands of threads that use them."""
    path = os.path.join(place, "log")
    before = open_files()
    log = segstore.open(path, segment_size="64KiB", retention_size="1MiB", sync_interval=0.01)
    reader = segstore.open(path, "r")
    acknowledged: list[tuple[int, bytes]] = []
    number = iter(range(10**9))

    def append() -> None:
        value = b"%d " % next(number) * random.randrange(1, 40)
        acknowledged.append((log.append(value), value))

    def append_many() -> None:
        values = [b"%d of many" % next(number)] * random.choice((1, 20, 500))
        acknowledged.extend(zip(log.append_many(values, keys=[b"key"] * len(values)), values))

    crew = Crew()
    with bystander(place) as look_at_bystander:
        crew.start("append", append)
        crew.start("append many", append_many)
        for name in random.sample([*LOOKS, *WORK], THREADS // 2):
            call = {**LOOKS, **WORK}[name]
            crew.start(name, lambda call=call: call(log))  # type: ignore[misc]
        for name in random.sample(list(LOOKS), THREADS // 2):
            call = LOOKS[name]
            crew.start(f"reader's {name}", lambda call=call: call(reader))  # type: ignore[misc]
        crew.start("bystander", look_at_bystander)
        time.sleep(random.random() * 0.05)
        for handle in random.sample([log, reader], 2):
            handle.close()
        crew.is_over = True
        crew.join()
    del append, append_many, crew, handle, call
    gc.collect()
    if left := open_files() - before:
        raise BrokenError(f"I6: left open: {left}")
    with segstore.open(path, background=False) as log:
        if log.recovery.cut or log.recovery.lost or not log.verify().is_intact:
            raise BrokenError(f"I1: {log.recovery}, {log.verify()}")
        found = {record.offset: record.value for record in log.read()}
        for offset, value in acknowledged:
            if offset >= log.start_offset and found.get(offset) != value:
                raise BrokenError(f"I1: offset {offset} is {found.get(offset)!r}, not {value!r}")
        run.count("records", len(acknowledged))


def changing(run: Run, place: str, random: Random) -> None:
    """Truncate and trim a log that threads look at; it ends as the list does."""
    path = os.path.join(place, "log")
    log = segstore.open(path, segment_size="16KiB", background=False, compression=None)
    expected: list[bytes] = []
    crew = Crew()
    with segstore.open(path, "r") as reader:
        for name in random.sample(list(LOOKS), THREADS // 2):
            call = LOOKS[name]
            crew.start(name, lambda call=call: call(log))  # type: ignore[misc]
            crew.start(f"reader's {name}", lambda call=call: call(reader))  # type: ignore[misc]
        for turn in range(12):
            values = [b"%d of turn %d" % (place, turn) for place in range(random.randrange(900))]
            expected += values
            log.append_many(values, durability=random.choice((None, "durable")))
            if random.random() < 0.3:
                log.trim(random.randint(log.start_offset, len(expected)))
            if random.random() < 0.7:
                end = random.randint(log.start_offset, len(expected))
                log.truncate(end - 1)
                del expected[end:]
            if random.random() < 0.3:
                log.compress()
        crew.is_over = True
        crew.join()
    log.close()
    with segstore.open(path, background=False) as log:
        if list(log.values()) != expected[log.start_offset :] or log.end_offset != len(expected):
            raise BrokenError(f"I2: {log.start_offset} to {log.end_offset}, not the list")
        run.count("records", len(expected))


@contextmanager
def bystander(place: str) -> Iterator[Callable[[], None]]:
    """Files of nobody's concern, opened and closed all the time, so that numbers are used again."""
    folder = Path(place, "bystander")
    folder.mkdir()
    text = b"not a log " * 50

    def look() -> None:
        files = []
        for number in range(8):
            file = open(folder / f"{number}", "w+b", buffering=0)  # noqa: SIM115
            file.write(text)
            files.append(file)
        for file in files:
            file.seek(0)
            if file.read() != text:
                raise BrokenError("I2: a file that is no log's was written to")
            file.close()

    yield look
    names = sorted(os.listdir(folder))
    if not set(names) <= {f"{number}" for number in range(8)}:
        raise BrokenError(f"I6: files of a log in another directory: {names}")


def open_files() -> set[tuple[str, str]]:
    """The numbers of the open descriptors, and what each is of."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of this listing
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found
