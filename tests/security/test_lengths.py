"""Lengths are checked before anything is allocated: a forged one costs no memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import segstore
from segstore.format.checksum import crc32c

# Room for the interpreter and a chunk or two; the sizes that are forged are far above it.
MEMORY_BYTES_MAX = 400 << 20

READ = """
import resource, sys
import segstore
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
for mode in "ra":
    with segstore.open(sys.argv[1], mode, background=False) as log:
        print(len(list(log.read(errors="skip"))))
        log.verify()
        list(log.find(b"key", errors="skip"))
        log.offset_for_time(2**62)
"""


def count_under_limits(path: str) -> list[int]:
    run = subprocess.run(
        [sys.executable, "-c", READ.format(limit=MEMORY_BYTES_MAX), path],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [int(line) for line in run.stdout.split()]


@pytest.fixture
def log_path(path: str) -> str:
    """A log of two sealed segments, the first one compressed, with ten batches each."""
    with segstore.open(path, background=False) as log:
        for _ in range(10):
            log.append_many([bytes(4000)] * 10, keys=[b"key"] * 10)
        log.roll()
        log.compress()
        for number in range(10):
            log.append_many([b"%d" % number * 4000] * 10)
        log.roll()
        log.append(b"last")
    return path


@pytest.mark.parametrize("claimed", [2**20, 2**24, 2**31 - 8, 2**32 - 8])
@pytest.mark.parametrize("field", [8, 12, 40])
def test_a_frame_that_claims_more_than_there_is_costs_no_memory(log_path, field, claimed):
    file = Path(log_path, f"{100:020d}.log")
    data = bytearray(file.read_bytes())
    data[64 + field : 68 + field] = claimed.to_bytes(4, "little")
    data[68:72] = crc32c(bytes(data[72:])).to_bytes(4, "little")
    file.write_bytes(data)
    for count in count_under_limits(log_path):
        assert 101 <= count <= 201


@pytest.mark.parametrize("field", range(4, 84, 4))
@pytest.mark.parametrize("name", [f"{0:020d}.lz4.index", f"{100:020d}.index"])
def test_an_index_whose_stamp_claims_anything_costs_no_memory(log_path, name, field):
    file = Path(log_path, name)
    data = bytearray(file.read_bytes())
    data[64 + field : 68 + field] = (2**32 - 16).to_bytes(4, "little")
    data[64:68] = crc32c(bytes(data[68:192])).to_bytes(4, "little")
    file.write_bytes(data)
    for count in count_under_limits(log_path):
        assert count <= 201


@pytest.mark.parametrize("claimed", [2**31, 2**62, 2**64 - 1])
def test_a_chunk_that_claims_a_huge_size_costs_no_memory(log_path, claimed):
    file = Path(log_path, f"{0:020d}.log.lz4")
    data = bytearray(file.read_bytes())
    data[6:14] = claimed.to_bytes(8, "little")
    file.write_bytes(data)
    for count in count_under_limits(log_path):
        assert 101 <= count < 201


def test_a_sparse_file_of_a_terabyte_costs_no_memory(log_path):
    for name in (f"{100:020d}.index", "start", "doorbell"):
        if Path(log_path, name).exists():
            os.truncate(Path(log_path, name), 1 << 40)
    assert count_under_limits(log_path)[0] == 201
