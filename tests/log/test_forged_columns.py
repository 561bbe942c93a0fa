"""Columns that no writer made, under a checksum that fits: damage, and never another error."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import segstore
from segstore.disk import OsDisk
from segstore.format.checksum import crc32c
from segstore.format.fileheader import FILE_HEADER_BYTES, KIND_SEGMENT, decode_file_header
from segstore.format.framelayout import BLOCKS, FRAME_HEADER_BYTES, HEADER, lay_out
from segstore.log.truncation import begin_truncation

FIRST = "00000000000000000000.log"
OPTIONS = {"background": False, "compression": None}


def forge_first_frame(path: Path, layout: str, position: int, value: int) -> None:
    """Pack a number into the head of the first frame, and make its checksum fit again."""
    data = bytearray((path / FIRST).read_bytes())
    frame = memoryview(data)[FILE_HEADER_BYTES:]
    header = HEADER.unpack_from(frame)
    assert header[10] == BLOCKS
    *_, head_bytes = lay_out(frame, *(header[number] for number in (2, 3, 9, 10)))
    assert crc32c(frame[8:head_bytes]) == header[1]
    struct.pack_into(layout, frame, position, value)
    struct.pack_into("<I", frame, 4, crc32c(frame[8:head_bytes]))
    (path / FIRST).write_bytes(data)


@pytest.fixture
def forged(tmp_path):
    """A log whose first segment is one frame with value offsets that step back."""
    path = tmp_path / "log"
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"%01000d" % number for number in range(50)])
        log.append_many([b"k"] * 3, keys=[b"a", None, b"b"])
        log.roll()
        log.append(b"after")
    forge_first_frame(path, "<i", FRAME_HEADER_BYTES + 8, 5)
    return path


def test_reading_finding_verifying_and_repairing_call_it_damage(forged):
    with segstore.open(forged, **OPTIONS) as log:
        with pytest.raises(segstore.CorruptionError) as caught:
            list(log)
        assert caught.value.offsets == range(50)
        assert [record.offset for record in log.read(errors="skip")] == [50, 51, 52, 53]
        assert [record.offset for record in log.find(b"a", errors="skip")] == [50]
        (lost,) = log.verify().lost
        assert (lost.offsets, lost.reason) == (range(50), "column offsets don't rise from 0")
        log.repair()
        log.compress()
        assert log[53].value == b"after"


def test_a_truncation_in_the_middle_of_it_is_carried_out(forged):
    disk = OsDisk(forged)
    header = decode_file_header((forged / FIRST).read_bytes(), KIND_SEGMENT)
    begin_truncation(disk, header.log_id, 0, 20)
    disk.close()
    with segstore.open(forged, **OPTIONS) as log:
        assert log.end_offset == 20
        assert list(log.read(errors="skip")) == []
        assert log.append(b"next") == 20
        assert log[20].value == b"next"


def test_a_frame_of_an_offset_far_away_is_no_frame_of_the_segment(tmp_path):
    path = tmp_path / "log"
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"%01000d" % number for number in range(50)])
        log.roll()
        log.append(b"after")
    forge_first_frame(path, "<Q", 16, 2**40)
    (path / "00000000000000000000.index").unlink()
    for mode in ("r", "a"):
        with segstore.open(path, mode, **OPTIONS) as log:
            assert [record.offset for record in log.read(errors="skip")] == [50]
            assert [lost.offsets for lost in log.verify().lost] == [range(50)]
