"""Kill a writer with four threads at a random moment, reopen, compare; again and again.

    python -m tests.kill_rounds 200 [SEED]

The writer prints what was acknowledged, and only after the append returned: an offset and the
checksum of key and value. Whatever it printed has to be there after the kill, byte for byte.
"""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import segstore
from segstore.format.checksum import crc32c

START_S = 30.0
RUN_S_MAX = 0.5


class Round(NamedTuple):
    """What one kill left."""

    acknowledged: int
    recovered_from_tail: int
    cuts: int


def checksum(key: bytes | None, value: bytes) -> int:
    """Of a record, with None and the empty key told apart."""
    return crc32c(value, crc32c(b"-" if key is None else b"+" + key))


def write(path: str, seed: int) -> None:
    """The writer: four threads, each with its own way of appending, until killed."""
    import threading

    chance = random.Random(seed)
    log = segstore.open(
        path,
        segment_size=chance.choice([20_000, 300_000, "64MiB"]),
        batch_size=chance.choice([500, 4_000, 20_000]),
        sync_interval=chance.choice([0.005, 0.05, 1.0]),
        compression=chance.choice([None, "lz4"]),
        segment_age=chance.choice([0.02, 1000]),
    )

    def acknowledge(records) -> None:
        lines = b"".join(b"%d %d\n" % (offset, checksum(k, v)) for offset, k, v in records)
        os.write(1, lines)  # one write of under PIPE_BUF bytes is never torn by another

    def plain(chance: random.Random) -> None:
        value = chance.randbytes(chance.choice([0, 10, 100, 3000]))
        acknowledge([(log.append(value), None, value)])

    def many(chance: random.Random) -> None:
        size = chance.choice([5, 50, 2000, 20_000])
        values = [chance.randbytes(chance.randrange(size)) for _ in range(chance.randrange(1, 60))]
        acknowledge(zip(log.append_many(values), [None] * len(values), values))

    def durable(chance: random.Random) -> None:
        value = b"durable" + chance.randbytes(20)
        acknowledge([(log.append(value, durability="durable"), None, value)])

    def keyed(chance: random.Random) -> None:
        key, value = chance.choice([b"", b"k", chance.randbytes(30)]), chance.randbytes(40)
        offset = log.append(value, key=key, timestamp=chance.randrange(10**6))
        acknowledge([(offset, key, value)])

    def run(append, seed: int) -> None:
        own = random.Random(seed)
        while True:
            append(own)

    print("ready", flush=True)
    for number, append in enumerate([plain, many, durable, keyed]):
        threading.Thread(target=run, args=(append, chance.randrange(2**60) + number)).start()


def run_round(path: str, seed: int) -> Round:
    """One writer, one kill, one look; AssertionError says what was lost or wrong.

    The log goes on from round to round, and what earlier rounds left must stay as it was.
    """
    chance = random.Random(seed)
    before: list[segstore.Record] = []
    if os.path.isdir(path):
        with segstore.open(path, "r") as log:
            before = list(log)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.kill_rounds", "--write", path, str(seed)],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    acknowledged = _kill_at_a_random_moment(child, chance)
    with segstore.open(path, "r") as log:
        seen_by_a_reader = list(log)
    with segstore.open(path, background=False) as log:
        found = list(log)
        report = log.recovery
        assert report.lost == (), report
        assert log.verify().is_intact
        assert log.append(b"one more") == len(found)
    assert [record.offset for record in found] == list(range(len(found)))
    assert found[: len(before)] == before, "records of an earlier round changed"
    # A batch that was written and not acknowledged yet may be there for the next writer only.
    assert found[: len(seen_by_a_reader)] == seen_by_a_reader, "a reader saw something else"
    for offset, crc in acknowledged:
        assert offset < len(found), f"offset {offset} was acknowledged and is gone"
        assert offset < len(seen_by_a_reader), f"offset {offset} is hidden from a reader"
        record = found[offset]
        assert checksum(record.key, record.value) == crc, f"offset {offset} holds another record"
    with segstore.open(path, background=False) as log:
        assert list(log)[:-1] == found
        assert log.recovery.was_clean, log.recovery
    return Round(len(acknowledged), report.from_tail, len(report.cut))


def _kill_at_a_random_moment(
    child: "subprocess.Popen[bytes]", chance: random.Random
) -> list[tuple[int, int]]:
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    data = b""
    kill_at = time.monotonic() + START_S
    try:
        while (left := kill_at - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                piece = os.read(descriptor, 1 << 16)
                if not piece:
                    break
                if not data:
                    kill_at = time.monotonic() + chance.random() * RUN_S_MAX
                data += piece
    finally:
        child.send_signal(signal.SIGKILL)
        while piece := os.read(descriptor, 1 << 16):
            data += piece
        child.wait()
        child.stdout.close()
    assert data.startswith(b"ready\n"), "the writer did not start"
    lines = data.split(b"\n")[1:-1]  # the last may be cut by the kill
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def run_rounds(count: int, seed: int, rounds_a_log: int = 10) -> list[Round]:
    """Some rounds, a new log every few of them."""
    results = []
    for first in range(0, count, rounds_a_log):
        root = tempfile.mkdtemp(prefix="segstore-kill-")
        try:
            for number in range(first, min(count, first + rounds_a_log)):
                try:
                    results.append(run_round(os.path.join(root, "log"), seed + number))
                except BaseException as error:
                    error.add_note(f"round with seed {seed + number}")
                    raise
        finally:
            shutil.rmtree(root, ignore_errors=True)
    return results


def main(arguments: list[str]) -> None:
    """The entry point."""
    if arguments and arguments[0] == "--write":
        write(arguments[1], int(arguments[2]))
        return
    count = int(arguments[0]) if arguments else 200
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(2**32)
    print(f"{count} rounds, seed {seed}", flush=True)
    results = run_rounds(count, seed)
    print(
        f"{len(results)} kills; {sum(r.acknowledged for r in results)} records acknowledged, "
        f"all there; {sum(r.recovered_from_tail for r in results)} came out of the tail; "
        f"{sum(r.cuts for r in results)} torn ends were set aside"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
