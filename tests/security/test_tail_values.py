"""A value that holds a frame of the log is not taken for one where the tail starts again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import segstore
from segstore.disk import OsDisk
from segstore.format.fileheader import log_tag
from segstore.format.frame import encode_frame
from segstore.format.framelayout import FRAME_HEADER_BYTES
from segstore.segment.tail import FRAMES_POSITION, Tail
from segstore.segment.tailreader import TailReader

VALUE_POSITION = FRAME_HEADER_BYTES + 8  # in a frame of one record


@pytest.mark.parametrize("key", [None, b"key"])
def test_a_value_with_the_frame_of_the_next_offset(tmp_path: Path, key: bytes | None) -> None:
    path, copy = str(tmp_path / "log"), str(tmp_path / "copy")
    with segstore.open(path, background=False) as log:
        disk = OsDisk(path)
        tail = Tail.open(disk, write=False)
        assert tail is not None
        assert tail.log_id is not None
        tag = log_tag(tail.log_id)
        log.append(bytes(16), key=key)
        reader = TailReader(tail.view, tag)
        assert reader.offsets() == range(1)
        size = reader.end_position - FRAMES_POSITION
        log.sync()  # and the tail starts again, as after each one below

        forged = encode_frame(
            3, [b"forged"], 1, None, append_time=1, log_tag=tag, durable_offset=0
        ).data
        log.append(bytes(size - VALUE_POSITION) + forged)
        at = FRAMES_POSITION + size
        assert tail.view[at : at + len(forged)] == forged
        log.sync()

        log.append(bytes(16), key=key)
        assert reader.offsets() == range(2, 3)
        assert reader.end_position == at
        shutil.copytree(path, copy)
        assert log.append(b"real") == 3
        assert log[3].value == b"real"
        tail.close()
        disk.close()
    with segstore.open(copy, background=False) as log:
        assert log.end_offset == 3
        assert log.recovery is not None
        assert log.recovery.lost == ()
        assert log.append(b"real") == 3
        assert [record.value for record in log.read(2)] == [bytes(16), b"real"]
