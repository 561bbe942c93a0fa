"""Write the golden logs of format version 2.

    SEGSTORE_PURE=1 python tests/golden/make_golden.py

The C kernel has a clock of its own, so it stays out. Run once, and its output committed: the
tests open those files, never new ones, so that a release that reads something else is seen. A
log that is there already is left as it is; a new format version gets a new directory.
"""

import os
import shutil
from unittest import mock

import segstore
from segstore.disk import OsDisk
from segstore.format.fileheader import KIND_START, FileHeader
from segstore.format.names import START
from segstore.log.truncation import begin_truncation
from segstore.segment.checkpointfile import CheckpointFile

HERE = os.path.dirname(os.path.abspath(__file__))
VERSION = "v2"
SEGMENT_SIZE = 128 * 1024  # which keeps the indexes small
NOW = 1_700_000_000_000_000_000
LOG_ID = bytes(range(0x10, 0x20))
TAIL_KEPT = 8192  # and multiples of it: the rest is zeros, and is put back by who opens it


def write_plain(path: str) -> None:
    """One active segment: values only, keys, timestamps, and both; closed."""
    with segstore.open(
        path, background=False, compression=None, segment_size=SEGMENT_SIZE, batch_size=4096
    ) as log:
        log.append_many([b"first", b"", b"third\x00\xff"])
        log.sync()
        log.append_many([b"keyed", b"not", b"empty key"], keys=[b"k1", None, b""])
        log.sync()
        log.append_many([b"early", b"late"], timestamps=[-1, 2**63 - 1])
        log.sync()
        log.append_many([b"a", b"b"], keys=[b"ka", b"kb"], timestamps=[7, 5])


def write_sealed(path: str) -> None:
    """Three segments: one sealed without keys, one sealed with keys, one active; closed."""
    options = {
        "background": False,
        "compression": None,
        "segment_size": SEGMENT_SIZE,
        "batch_size": 256,
        "index_interval": 256,
    }
    with segstore.open(path, **options) as log:
        log.append_many([b"line %04d" % n for n in range(100)], timestamps=range(1000, 1100))
        log.roll()
        log.append_many(
            [b"v%d" % n for n in range(50)], keys=[b"key%d" % (n % 7) for n in range(50)]
        )
        log.roll()
        log.append_many([b"active %d" % n for n in range(30)])


def write_compressed(path: str) -> None:
    """A compressed segment with its index, and an active one; closed."""
    with segstore.open(
        path, background=False, compression=None, segment_size=SEGMENT_SIZE, batch_size=4096
    ) as log:
        log.append_many([b"compress me %06d" % n for n in range(2000)], keys=[b"k"] * 2000)
        log.roll()
        log.compress()
        log.append(b"active")


def write_staged(path: str) -> None:
    """Records that stand in the tail only: the writer died."""
    with segstore.open(
        path + ".live", background=False, compression=None, segment_size=SEGMENT_SIZE
    ) as log:
        log.append_many([b"drained"] * 3)
        log.sync()
        log.append(b"staged")
        log.append(b"", key=b"k", timestamp=42)
        log.append_many([b"two", b"more"])
        shutil.copytree(path + ".live", path)
    shutil.rmtree(path + ".live")


def write_trimmed(path: str) -> None:
    """A log whose start offset lies in the middle of its one segment; closed."""
    with segstore.open(path, background=False, compression=None, segment_size=SEGMENT_SIZE) as log:
        log.append_many([b"gone", b"gone too", b"kept", b"kept too"])
    os.unlink(os.path.join(path, START))
    disk = OsDisk(path)
    header = FileHeader(KIND_START, 0, LOG_ID, NOW)
    checkpoint = CheckpointFile.create(disk, START, header, 0)
    checkpoint.move(1, NOW)
    checkpoint.move(2, NOW)
    checkpoint.close()
    disk.close()


def _fill(log: segstore.Log) -> None:
    """Four segments of 300 records, every third without a key; the last one is active."""
    for base in range(0, 1200, 300):
        if base:
            log.roll()
        numbers = range(base, base + 300)
        log.append_many(
            [b"value %04d" % n for n in numbers],
            keys=[b"key %d" % n if n % 3 else None for n in numbers],
            timestamps=[10_000 - n for n in numbers],
        )


def write_swept(path: str) -> None:
    """Trimmed into the middle of a compressed segment with a key filter; consumers; closed.

    The consumers: one that committed twice, one that lost records to the trim, and a new one.
    """
    options = {"background": False, "compression": None, "segment_size": SEGMENT_SIZE}
    with segstore.open(path, **options) as log:
        _fill(log)
        with log.consumer("reader.1") as reader, log.consumer("late") as late:
            reader.commit(500)
            reader.commit(700)
            log.compress()
            log.trim(450)
            late.poll(1)
            late.commit(451)
        log.consumer("new", start="end").close()


def write_truncating(path: str) -> None:
    """A truncation to offset 450 was committed to, and nothing of it carried out."""
    with segstore.open(path, background=False, compression=None, segment_size=SEGMENT_SIZE) as log:
        _fill(log)
        log.compress()
    disk = OsDisk(path)
    begin_truncation(disk, LOG_ID, NOW, 450)
    disk.close()


def write_chunked(path: str) -> None:
    """A compressed segment of several chunks, with times, keys and nulls; closed."""
    with segstore.open(
        path, background=False, compression=None, segment_size=2 * SEGMENT_SIZE, batch_size=1024
    ) as log:
        log.append_many(
            [b"chunk me %06d" % n for n in range(5000)],
            keys=[None if n % 5 else b"k%d" % (n % 3) for n in range(5000)],
            timestamps=range(5000),
        )
        log.roll()
        log.compress()


def write_blocks(path: str) -> None:
    """Frames of several blocks of values: values only, with times, keys and nulls; closed.

    And one of one large record, which has no checks of its blocks.
    """
    numbers = range(300)
    with segstore.open(path, background=False, compression=None, segment_size=SEGMENT_SIZE) as log:
        log.append_many([b"block %04d " % n * 4 for n in numbers])
        log.sync()
        log.append_many([b"timed %04d " % n * 4 for n in numbers], timestamps=numbers)
        log.sync()
        log.append_many(
            [b"keyed %04d " % n * 4 for n in numbers],
            keys=[b"key%d" % (n % 7) if n % 3 else None for n in numbers],
            timestamps=numbers,
        )
        log.sync()
        log.append(b"large " * 2000)
        log.sync()
        log.append_many([b"", b"two blocks " * 400, b"", b"three " * 1000, b""])


def main() -> None:
    """Write the logs that are not there yet."""
    root = os.path.join(HERE, VERSION)
    os.makedirs(root, exist_ok=True)
    with (
        mock.patch("time.time_ns", return_value=NOW),
        mock.patch("segstore.segment.tailbuffer.time_ns", return_value=NOW),
        mock.patch("os.urandom", lambda n: LOG_ID[:n]),
    ):
        for write in (
            write_plain,
            write_sealed,
            write_compressed,
            write_staged,
            write_trimmed,
            write_swept,
            write_truncating,
            write_chunked,
            write_blocks,
        ):
            path = os.path.join(root, write.__name__.removeprefix("write_"))
            if os.path.exists(path):
                continue
            write(path)
            for name in ("lock", "doorbell"):
                os.unlink(os.path.join(path, name))
            tail = os.path.join(path, "tail")
            with open(tail, "rb") as file:
                used = len(file.read().rstrip(b"\0"))
            os.truncate(tail, -(-used // TAIL_KEPT) * TAIL_KEPT)


if __name__ == "__main__":
    main()
