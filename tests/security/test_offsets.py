"""Offsets are at most 2**63 - 1: a forged one under a checksum that fits is damage, not an end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import segstore
from segstore.format.checksum import crc32c

IMPOSSIBLE = [2**63, 2**63 + 5, 2**64 - 2, 2**64 - 1]


@pytest.fixture
def log_path(path: str) -> str:
    """A log of two sealed segments, an active one, a consumer and a record in the tail."""
    with segstore.open(path, background=False) as log:
        for _ in range(2):
            log.append_many([b"value"] * 10)
            log.roll()
        log.compress()
        log.append_many([b"active"] * 10)
        log.trim(3)
        with log.consumer("one") as consumer:
            consumer.seek(5)
            consumer.commit()
    return path


def _forge_stamp(path: str, value: int) -> None:
    for name in os.listdir(path):
        if name.endswith("index"):
            data = bytearray(Path(path, name).read_bytes())
            if any(data[64:192]):
                data[64 + 24 : 64 + 32] = value.to_bytes(8, "little")
                data[64:68] = crc32c(bytes(data[68:192])).to_bytes(4, "little")
                Path(path, name).write_bytes(data)


def _forge_checkpoints(path: str, value: int) -> None:
    for name in ("start", "one.consumer"):
        data = bytearray(Path(path, name).read_bytes())
        for at in (512, 1024):
            if any(data[at : at + 512]):
                data[at + 16 : at + 24] = value.to_bytes(8, "little")
                data[at : at + 4] = crc32c(bytes(data[at + 4 : at + 512])).to_bytes(4, "little")
        Path(path, name).write_bytes(data)


def _forge_registers(path: str, value: int) -> None:
    data = bytearray(Path(path, "tail").read_bytes())
    for at in range(64, 160, 16):
        pair = value.to_bytes(8, "little") + (value ^ (2**64 - 1)).to_bytes(8, "little")
        data[at : at + 16] = pair
    Path(path, "tail").write_bytes(data)


@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("forge", [_forge_stamp, _forge_checkpoints, _forge_registers])
def test_an_impossible_offset_is_not_believed(
    log_path: str, forge: Callable[[str, int], None], value: int
) -> None:
    forge(log_path, value)
    for mode in "rar":
        with segstore.open(log_path, mode, background=False) as log:
            records = list(log.read(errors="skip"))
            assert [r.offset for r in records][-10:] == list(range(20, 30))
            assert all(r.value in (b"value", b"active") for r in records)
            assert log.end_offset == 30
            log.verify()
            log.stats()
            if forge is _forge_checkpoints:
                with pytest.raises(segstore.CorruptionError, match="one"):
                    log.consumer("one")


@pytest.mark.parametrize("sequence", [2**63 - 1, 2**63, 2**64 - 1])
def test_a_checkpoint_whose_sequence_can_not_go_on(log_path: str, sequence: int) -> None:
    name = Path(log_path, "one.consumer")
    data = bytearray(name.read_bytes())
    data[1024:1536] = data[512:1024]
    for at in (512, 1024):
        data[at + 8 : at + 16] = sequence.to_bytes(8, "little")
        data[at : at + 4] = crc32c(bytes(data[at + 4 : at + 512])).to_bytes(4, "little")
    name.write_bytes(data)
    with segstore.open(log_path, background=False) as log:
        if sequence >= 2**63:
            with pytest.raises(segstore.CorruptionError, match="one"):
                log.consumer("one")
            return
        with log.consumer("one") as consumer:
            consumer.seek(7)
            with pytest.raises(segstore.StorageError, match="delete"):
                consumer.commit()
