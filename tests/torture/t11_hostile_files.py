"""T11: whatever the files of a log hold, opening and reading it under a memory limit ends with
records or with a documented error: no signal, no hang, no unbounded memory, and no wrong record
where the checksums were not forged as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from segstore.disk import Disk, OsDisk
from segstore.errors import CorruptionError, OffsetOutOfRangeError, SegstoreError
from segstore.format.checksum import crc32c
from segstore.format.framelayout import FRAME_HEADER_BYTES, FRAME_MAGIC_BYTES
from segstore.log.log import Log
from segstore.log.truncation import begin_truncation
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.workload import small_config, small_tail

OPENS = 1_000_000
OPENS_PER_PROCESS = 4_000
MEMORY_BYTES_MAX = 512 << 20
OPEN_S_MAX = 20
TAIL_BYTES = 12288
SEGMENTS = 3
SEGMENT_RECORDS = 15
OPENS_PER_ALARM = 50
SHM = "/dev/shm"

Files = dict[str, bytes]
Known = dict[int, tuple[bytes | None, bytes]]
_WORDS = (
    0,
    1,
    7,
    8,
    63,
    64,
    2**16,
    2**24,
    2**30,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
)


def run(run: Run) -> None:
    opens = run.wanted(OPENS)
    while run.counts["opens"] < opens and not run.is_over:
        count = min(OPENS_PER_PROCESS, opens - run.counts["opens"])
        seconds = max(1.0, run.budget.seconds - run.seconds)
        _run_child(run, run.random.getrandbits(32), count, seconds)


def _run_child(run: Run, seed: int, count: int, seconds: float) -> None:
    # On a file system in memory where there is one: it is the opening that is tested here.
    scratch = SHM if os.access(SHM, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="segstore-", dir=scratch) as path:
        arguments = [path, str(seed), str(count), str(seconds)]
        child = subprocess.run(
            [sys.executable, "-m", "tests.torture.t11_hostile_files", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds + 10 * OPEN_S_MAX,
            check=False,
        )
        at = Path(path, "at").read_bytes().decode().strip()
    lines = child.stdout.splitlines()
    if child.returncode != 0 or not lines:
        raise BrokenError(
            f"child {seed}, open {at}: status {child.returncode}: {child.stderr[-1500:]}"
        )
    for part in lines[-1].split(","):
        what, number = part.rsplit("=", 1)
        run.count(what, int(number))
    run.count("processes")


def main() -> None:
    import faulthandler
    import resource
    import time

    faulthandler.enable()  # where a signal struck

    path, seconds = sys.argv[1], float(sys.argv[4])
    seed, count, first = int(sys.argv[2]), int(sys.argv[3]), int((sys.argv[5:] or ["0"])[0])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    counts: dict[str, int] = {}
    deadline = time.monotonic() + seconds
    progress = os.open(os.path.join(path, "at"), os.O_RDWR | os.O_CREAT)
    files = os.path.join(path, "log")
    os.makedirs(files, exist_ok=True)
    with small_tail(TAIL_BYTES):
        templates = [_template(Random(seed + number)) for number in range(4)]
        for number in range(first, first + count):
            if time.monotonic() > deadline:
                break
            random = Random(seed * 1_000_003 + number)
            os.pwrite(progress, b"%8d" % number, 0)
            if number % OPENS_PER_ALARM == 0:  # setting it takes as long as a good part of an open
                faulthandler.dump_traceback_later(OPEN_S_MAX, exit=True)
            for what in _open_one(random, random.choice(templates), files):
                counts[what] = counts.get(what, 0) + 1
        faulthandler.cancel_dump_traceback_later()
    print(",".join(f"{what}={number}" for what, number in counts.items()))


def _template(random: Random) -> tuple[Files, Known]:
    """A log with every kind of file, and what is in it."""
    disk = MemoryDisk()
    config = small_config(random, batch_size=512)
    log = Log(disk, "a", config)
    known: Known = {}
    for _ in range(SEGMENTS):
        for _ in range(SEGMENT_RECORDS):
            value = b"%d " % len(known) + random.randbytes(random.choice((0, 5, 60, 200)))
            key = random.choice((None, None, b"key", b"%d" % len(known)))
            known[log.append(value, key=key)] = (key, value)
        log.roll()
        if random.random() < 0.5:
            log.compress()
    known[log.append(b"active")] = (None, b"active")
    log.sync()
    log.consumer("one").commit()
    known[log.append(b"staged")] = (None, b"staged")
    if random.random() < 0.3:
        log.trim(random.randrange(SEGMENT_RECORDS + 3))
    if random.random() < 0.3:
        end_offset = random.randrange(SEGMENT_RECORDS, SEGMENTS * SEGMENT_RECORDS)
        begin_truncation(disk, log._log_id or b"", 0, end_offset)
    files = disk.contents()
    log.close()
    return {name: data for name, data in files.items() if name != "lock"}, known


def _open_one(random: Random, template: tuple[Files, Known], path: str) -> list[str]:
    files, known = dict(template[0]), template[1]
    is_forged = False
    for _ in range(random.choice((1, 1, 2, 4))):
        is_forged |= _mutate(files, random)
    config = small_config(random, batch_size=512)
    mode = random.choice("rra")
    said = ["opens", f"opens with mode {mode}"]
    disk: Disk
    if random.random() < 0.3:
        disk = _on_disk(files, path, random)
        said.append("opens of real files")
    else:
        disk = MemoryDisk.of(files)
    try:
        log = Log(disk, mode, config)  # type: ignore[arg-type]
    except (SegstoreError, OSError):
        disk.close()
        return [*said, "openings refused"]
    try:
        _use(log, random, None if is_forged else known, mode)
    except (SegstoreError, OSError):
        said.append("uses refused")
    finally:
        try:
            log.close()
        except (SegstoreError, OSError):
            said.append("closings refused")
    return said


def _use(log: Log, random: Random, known: Known | None, mode: str) -> None:
    for count, record in enumerate(log.read(errors="skip")):
        _check(record, known)
        if count > 100_000:
            raise BrokenError("there are more records than bytes for them")
    start, end = log.start_offset, log.end_offset
    for offset in (start, end - 1, random.randrange(2 * SEGMENTS * SEGMENT_RECORDS)):
        try:
            _check(log[offset], known)
        except (CorruptionError, OffsetOutOfRangeError):
            pass
    # One or two of the rest for each open, so that there are more opens.
    uses = random.sample(("time", "find", "verify", "list"), random.choice((1, 2)))
    if "time" in uses:
        log.offset_for_time(random.choice((0, 2**62, 1_700_000_000 * 10**9)))
    if "find" in uses:
        for record in log.find(b"key", errors="skip"):
            _check(record, known)
    if "verify" in uses:
        log.verify()
    if "list" in uses:
        log.segments()
        log.consumers()
        log.stats()
    if mode == "a":
        log.append(b"after all")
        log.maintain()
        log.repair()


def _check(record: Any, known: Known | None) -> None:
    if known is not None and known.get(record.offset) != (record.key, record.value):
        raise BrokenError(f"I2: offset {record.offset} is {record.key!r}: {record.value[:60]!r}")


def _mutate(files: Files, random: Random) -> bool:
    """Change the files somehow; True if a checksum was made to fit."""
    name = random.choice(sorted(files) or [f"{0:020d}.log"])
    data = bytearray(files.get(name, b""))
    kind = random.choice(
        [
            "flip",
            "word",
            "word",
            "cut",
            "grow",
            "splice",
            "gone",
            "double",
            "zeros",
            "garbage",
            "frame",
            "frame",
            "header",
            "stamp",
            "stamp",
            "rename",
            "other",
        ]
    )
    at = random.randrange(len(data) + 1)
    is_forged = False
    if kind == "flip" and data:
        data[at % len(data)] ^= 1 << random.randrange(8)
    elif kind == "word":
        at -= at % 4
        size = random.choice((4, 8))
        data[at : at + size] = (random.choice(_WORDS) % 2 ** (8 * size)).to_bytes(size, "little")
    elif kind == "cut":
        del data[at:]
    elif kind == "grow":
        data += random.choice((bytes(4096), random.randbytes(100), bytes(data[:1000])))
    elif kind == "splice":
        other = files[random.choice(sorted(files))] if files else b""
        start = random.randrange(len(other) + 1)
        piece = other[start : start + random.choice((8, 64, 512))]
        data[at : at + len(piece)] = piece
    elif kind == "gone":
        files.pop(name, None)
        return False
    elif kind == "double":
        piece = bytes(data[at : at + 512])
        data[at:at] = piece
    elif kind == "zeros":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "garbage":
        data = bytearray(random.randbytes(random.choice((0, 1, 63, 64, 200, TAIL_BYTES))))
    elif kind == "frame":
        is_forged = _forge_frame(data, random)
    elif kind == "header" and len(data) >= 64:
        field = random.choice((12, 16, 24, 32))
        data[field : field + 4] = random.randbytes(4)
        data[8:12] = crc32c(bytes(data[12:64])).to_bytes(4, "little")
        is_forged = True
    elif kind == "stamp" and name.endswith(".index") and len(data) >= 192:
        field = 64 + 4 * random.randrange(1, 32)
        data[field : field + 4] = random.choice(
            (random.randbytes(4), (random.choice(_WORDS) % 2**32).to_bytes(4, "little"))
        )
        data[64:68] = crc32c(bytes(data[68:192])).to_bytes(4, "little")
        is_forged = True
    elif kind == "rename" and name.endswith((".log", ".index", ".lz4")):
        del files[name]
        base = random.choice((0, 1, SEGMENT_RECORDS, 2**31, 2**62, 2**63 - 1))
        name = f"{base:020d}{name[20:]}"
        is_forged = True
    elif kind == "other":
        suffix = random.choice((".index", ".log.lz4", ".lz4.index", ".log"))
        base = random.choice((0, SEGMENT_RECORDS, SEGMENTS * SEGMENT_RECORDS + 1, 500))
        name = f"{base:020d}{suffix}"
        is_forged = True
    files[name] = bytes(data)
    return is_forged


def _forge_frame(data: bytearray, random: Random) -> bool:
    """Change a field of a frame's header or body, and make its checksum fit."""
    at = data.find(FRAME_MAGIC_BYTES, random.randrange(len(data) + 1))
    if at < 0 or at + FRAME_HEADER_BYTES > len(data):
        return False
    size = FRAME_HEADER_BYTES + int.from_bytes(data[at + 8 : at + 12], "little")
    if at + size > len(data):
        return False
    field = at + 4 * random.randrange(2, size // 4)
    if random.random() < 0.5:
        field = at + 4 * random.randrange(2, min(size, 128) // 4)
    data[field : field + 4] = random.choice(
        (random.randbytes(4), (random.choice(_WORDS) % 2**32).to_bytes(4, "little"))
    )
    data[at + 4 : at + 8] = crc32c(bytes(data[at + 8 : at + size])).to_bytes(4, "little")
    return True


def _on_disk(files: Files, path: str, random: Random) -> OsDisk:
    """The files in a directory, some of them not even files."""
    for name in os.listdir(path):
        target = os.path.join(path, name)
        if os.path.isdir(target) and not os.path.islink(target):
            os.rmdir(target)
        else:
            os.unlink(target)
    for name, data in files.items():
        target = os.path.join(path, name)
        odd = random.randrange(200)
        if odd == 0:
            os.mkdir(target)
        elif odd == 1:
            os.mkfifo(target)
        elif odd == 2:
            os.symlink(random.choice(("/dev/zero", "nowhere", f"{0:020d}.log")), target)
        else:
            with open(target, "wb") as file:
                file.write(data)
    return OsDisk(path)


if __name__ == "__main__":
    main()
