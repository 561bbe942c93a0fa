"""How many segment files reading keeps open, and what it does where there is no descriptor left."""

import os
import subprocess
import sys

import pytest

import segstore
from segstore.log import opensegments

OPTIONS = {"background": False, "compression": None, "segment_size": 8192}


@pytest.fixture
def path(tmp_path):
    """A log of 60 segments, one record each."""
    path = str(tmp_path / "log")
    with segstore.open(path, **OPTIONS) as log:
        for number in range(60):
            log.append_many([b"%d" % number, bytes(5000)])
            log.roll()
    return path


def open_files(path: str) -> int:
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the listing's own
    return sum(name.startswith(path) and name.endswith(".log") for name in names)


@pytest.mark.parametrize("limit", ["OPEN_SEGMENTS_MAX", "INDEX_ENTRIES_MAX"])
def test_no_more_segments_stay_open_than_the_limit(path, limit, monkeypatch):
    monkeypatch.setattr(opensegments, limit, 10)
    with segstore.open(path, mode="r") as log:
        before = open_files(path)
        for number in [*range(60), *range(59, -1, -1)]:
            assert log[2 * number].value == b"%d" % number
            assert open_files(path) - before <= 10
        assert open_files(path) - before == 10


def test_all_segments_of_a_log_of_the_usual_size_stay_open(path):
    with segstore.open(path, mode="r") as log:
        before = open_files(path)
        for number in range(60):
            log[2 * number]
        assert open_files(path) - before == 60


def test_a_log_takes_a_quarter_of_the_descriptors_at_most(path):
    code = f"""
import os, resource, segstore
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
log = segstore.open({path!r}, mode="r")
for number in range(60):
    log[2 * number]
print(sum(os.path.realpath(f"/proc/self/fd/{{n}}").endswith(".log") for n in range(160)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "40\n", done.stderr


def test_a_process_without_descriptors_left_still_reads(path):
    """What reading holds open is given back before anything is refused."""
    code = f"""
import os, resource, segstore
log = segstore.open({path!r}, mode="r")
log[0]
held = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (held + 10, held + 10))
for _ in range(2):
    for number in range(60):
        assert log[2 * number].value == b"%d" % number
    assert sum(1 for _ in log) == 120
print("read")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "read\n", done.stderr
