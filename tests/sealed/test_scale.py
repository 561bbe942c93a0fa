"""Many segments open fast, and memory stays flat while data passes through.

``SEGSTORE_FLOW_BYTES`` sets how much passes through (200 MB by default; 10000000000 for 10 GB),
``SEGSTORE_SEGMENT_COUNT`` how many segments there are (1,000).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import segstore

FLOW = """
import os, sys, resource, segstore
path, total = sys.argv[1], int(sys.argv[2])
batch = [b"%06d some line of a log that is a hundred bytes long or about, and repeats itself " % n
         for n in range(2000)]
size = sum(map(len, batch))
log = segstore.open(path, segment_size="2MiB", retention_size="20MB", background=False)

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

passed, seen = 0, []
while passed < total:
    log.append_many(batch)
    passed += size
    if passed // size % 20 == 0:
        log.maintain()
        log[log.start_offset], log[log.end_offset - 1]
        sum(1 for _ in log.batches())
        seen.append(rss())
        assert sum(s.size_bytes for s in log.segments()) < 30_000_000
print(seen[len(seen) // 4], max(seen))
"""


def test_memory_stays_flat_while_data_passes_through(path: str) -> None:
    total = os.environ.get("SEGSTORE_FLOW_BYTES", "200000000")
    run = subprocess.run([sys.executable, "-c", FLOW, path, total], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    early, most = map(int, run.stdout.split())
    print(f"{int(total):,} bytes: {early >> 20} MiB early on, {most >> 20} MiB at most")
    assert most < early + (16 << 20)


def test_many_sealed_segments_open(path: str) -> None:
    count = int(os.environ.get("SEGSTORE_SEGMENT_COUNT", "1000"))
    with segstore.open(path, background=False, segment_size="4KiB", batch_size=512) as log:
        for number in range(count):
            log.append(b"%d" % number)
            writer = log._writer
            assert writer is not None
            writer.roll()
            if number % 500 == 0:
                writer.seal_rolled()
    for mode in ("a", "r"):
        start = time.perf_counter()
        with segstore.open(
            path, mode, background=False, segment_size="4KiB", batch_size=512
        ) as log:
            print(f"mode {mode}: {time.perf_counter() - start:.2f} s")
            assert len(log) == count
            for offset in (0, count // 3, count - 1):
                assert log[offset].value == b"%d" % offset
