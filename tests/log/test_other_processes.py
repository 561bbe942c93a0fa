"""A reader in one process while a writer works in another."""

import hashlib
import os
import subprocess
import sys
import time

import pytest

import segstore
from segstore import CorruptionError

WRITER = """
import sys, segstore
log = segstore.open(sys.argv[1], segment_size=20_000, batch_size=2000, compression=None,
                    background=False)
for line in sys.stdin.buffer:
    how, count = line.split()
    for _ in range(int(count)):
        value = b"%08d" % log.end_offset
        if how == b"append":
            log.append(value, key=value)
        elif how == b"many":
            log.append_many([b"%08d" % n for n in range(log.end_offset, log.end_offset + 100)])
        elif how == b"sync":
            log.sync()
        elif how == b"roll":
            log.roll()
        elif how == b"compress":
            log.compress()
    print(log.end_offset, flush=True)
"""


class Writer:
    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def do(self, how, count=1):
        self.process.stdin.write(b"%s %d\n" % (how.encode(), count))
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, how, count):
        self.process.stdin.write(b"%s %d\n" % (how.encode(), count))
        self.process.stdin.flush()

    def wait(self):
        return int(self.process.stdout.readline())


@pytest.fixture
def writer(path):
    child = Writer(path)
    child.do("append", 1)
    yield child
    child.process.kill()
    child.process.communicate()


def expect(log, end):
    assert log.end_offset == len(log) == end
    assert list(log.values()) == [b"%08d" % n for n in range(end)]
    assert log[end - 1].value == b"%08d" % (end - 1)
    assert log.verify().record_count == end


def test_a_reader_kept_open_sees_every_step_of_the_writer(path, writer):
    with segstore.open(path, "r") as log:
        for how, count in [("append", 3), ("sync", 1), ("append", 2), ("many", 3), ("append", 1),
                           ("roll", 1), ("append", 5), ("many", 20), ("sync", 1), ("append", 700),
                           ("compress", 1), ("many", 9), ("roll", 1), ("append", 1)]:  # fmt: skip
            expect(log, writer.do(how, count))
        assert log.recovery.lost == ()


def test_readers_opened_at_any_moment_see_a_prefix_and_no_damage(path, writer):
    writer.start("append", 20_000)
    deadline = time.monotonic() + 20
    seen = 0
    while seen < 20_000 and time.monotonic() < deadline:
        with segstore.open(path, "r") as log:
            assert log.recovery.lost == ()
            end = log.end_offset
            assert end >= seen
            seen = end
            start = max(0, end - 500)
            assert list(log.values(start, end)) == [b"%08d" % n for n in range(start, end)]
    assert writer.wait() == 20_001


def test_a_reader_that_stays_never_finds_damage_under_a_busy_writer(path, writer):
    with segstore.open(path, "r") as log:
        writer.start("append", 30_000)
        seen = 0
        while seen < 30_001:
            try:
                for value in log.values(seen):
                    assert value == b"%08d" % seen
                    seen += 1
            except CorruptionError as error:
                raise AssertionError(f"at {seen} of {log.end_offset}: {error}") from error
    assert writer.wait() == 30_001


def test_a_reader_changes_no_file_while_a_writer_is_live(path, writer):
    def hashes():
        found = {}
        for name in sorted(os.listdir(path)):
            with open(os.path.join(path, name), "rb") as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
        return found

    writer.do("many", 5)
    writer.do("roll")
    writer.do("append", 3)
    before = hashes()
    with segstore.open(path, "r") as log:
        list(log)
        log[3]
        log.segments()
        log.verify()
        log.offset_for_time(0)
        list(log.find(b"00000000"))
    assert hashes() == before
