"""T1: a writer process with four producers, killed with SIGKILL at any call or moment while it
rolls, seals, compresses and sweeps, loses no record that it had acknowledged.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import segstore
from tests.torture.campaign import BrokenError, Run

KILLS = 2000

# Each producer writes one line a record to its own file once it was acknowledged; a line that was
# cut off by the kill counts as not written. The files are only ever read after the kill.
_WRITER = """
import os, signal, sys, threading
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.log.log import Log
from segstore.testing.faulty import FaultyDisk

path, kill_at, round_ = sys.argv[1], int(sys.argv[2]), sys.argv[3]
count = 0
def before(kind, name):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

disk = FaultyDisk(OsDisk(path + "/log", create=True), before=before)
log = Log(disk, "a", LogConfig.of({
    "segment_size": 16384, "batch_size": 2048, "sync_interval": 0.005, "segment_age": 0.05,
    "retention_records": 100000,
}))
def produce(number):
    acknowledged = os.open(f"{path}/acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for index in range(100000):
        value = b"%s %d %d " % (round_.encode(), number, index) + bytes(index % 300)
        if index % 10 == 0:
            offset = log.append_many([value] * 3, keys=[b"key"] * 3)[0]
            lines = b"".join(b"%d %s\\n" % (offset + i, value.hex().encode()) for i in range(3))
        else:
            offset = log.append(value, durability="durable" if index % 7 == 0 else None)
            lines = b"%d %s\\n" % (offset, value.hex().encode())
        os.write(acknowledged, lines)
for number in range(4):
    threading.Thread(target=produce, args=(number,), daemon=True).start()
threading.Event().wait(20)
"""


def run(run: Run) -> None:
    kills = run.wanted(KILLS)
    while run.counts["kills"] < kills and not run.is_over:
        with tempfile.TemporaryDirectory(prefix="segstore-") as path:
            acknowledged: dict[int, bytes] = {}
            for round_ in range(8):
                if run.counts["kills"] >= kills or run.is_over:
                    break
                _kill_one(run, path, round_)
                _check(run, path, acknowledged)


def _kill_one(run: Run, path: str, round_: int) -> None:
    at_call = run.random.random() < 0.5
    kill_at = run.random.randrange(1, 600) if at_call else 0
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, path, str(kill_at), str(round_)])
    if not at_call:
        time.sleep(0.15 + run.random.random() * 0.4)
        writer.kill()
    try:
        status = writer.wait(10)
    except subprocess.TimeoutExpired:
        writer.kill()
        status = writer.wait()
    if status != -signal.SIGKILL:
        raise BrokenError(f"the writer ended with {status}")
    run.count("kills")
    run.count("kills at a call" if at_call else "kills at a moment")


def _check(run: Run, path: str, acknowledged: dict[int, bytes]) -> None:
    file = Path(path, "acknowledged")
    data = file.read_bytes() if file.exists() else b""
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        number, value = line.split(b" ", 1)
        offset, sent = int(number), bytes.fromhex(value.decode())
        if acknowledged.setdefault(offset, sent) != sent:
            raise BrokenError(f"I4: offset {offset} was given out twice")
    if file.exists():
        os.truncate(file, 0)
    with segstore.open(os.path.join(path, "log"), background=False) as log:
        # A write that the kill stopped between two pages is cut, and its records stand in the tail;
        # whatever was acknowledged is looked for below.
        if log.recovery.lost:
            raise BrokenError(f"a kill damaged the log: {log.recovery}")
        run.count("torn writes cut", len(log.recovery.cut))
        if log.end_offset <= max(acknowledged, default=-1):
            raise BrokenError(f"I1: end {log.end_offset}, acknowledged {max(acknowledged)}")
        seen = 0
        for record in log.read():
            sent = acknowledged.get(record.offset, record.value)
            if record.value != sent:
                raise BrokenError(f"I2: offset {record.offset} is not what was acknowledged")
            seen += record.offset in acknowledged
        kept = sum(offset >= log.start_offset for offset in acknowledged)
        if seen != kept:
            raise BrokenError(f"I1: {kept - seen} acknowledged records are gone")
        run.count("records checked", seen)
