"""Where the last segment is gone, whoever looks is told which offsets went with it."""

import os

import pytest

import segstore
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.log.log import Log
from segstore.testing.faulty import FaultyDisk


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_missing_last_segment_is_reported_by_verify_as_well(path, mode):
    with segstore.open(path, background=False) as log:
        log.append_many([b"%d" % number for number in range(10)])
        log.roll()
        # Too large for the tail, which would have them still.
        log.append_many([b"%d" % number + bytes(40_000) for number in range(10, 15)])
    for ending in (".log", ".index"):
        os.unlink(os.path.join(path, f"{10:020d}{ending}"))
    with segstore.open(path, mode, background=False) as log:
        assert [lost.offsets for lost in log.recovery.lost] == [range(10, 15)]
        assert [lost.offsets for lost in log.verify().lost] == [range(10, 15)]
        assert [record.offset for record in log.read(errors="skip")] == list(range(10))
        assert log.end_offset == 15


def test_what_is_missing_at_the_end_is_passed_over_in_one_step(path):
    with segstore.open(path, background=False, segment_size=2**20) as log:
        log.append_many([b"kept"] * 10)
        log.roll()
        log.append_many([bytes(10)] * 50_000)
    for ending in (".log", ".index"):
        os.unlink(os.path.join(path, f"{10:020d}{ending}"))
    disk = FaultyDisk(OsDisk(path))
    log = Log(disk, "r", LogConfig())
    before = disk.counts["names"]
    assert [record.offset for record in log.read(errors="skip")][:10] == list(range(10))
    assert disk.counts["names"] - before < 10
    log.close()
