"""Compressed files made to harm: damage is reported, and time and memory stay bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import lz4.frame
import pytest

import segstore
from segstore.format.checksum import crc32c
from segstore.format.chunk import CHUNK_RAW_BYTES_MAX, LZ4_MAGIC, decode_chunk, encode_chunk
from segstore.format.fileheader import KIND_INDEX, FileHeader, encode_file_header
from segstore.format.index import (
    ENTRIES_POSITION,
    LZ4,
    SEALED,
    OffsetIndex,
    Stamp,
    decode_stamp,
    encode_stamp,
)

from .records import lines

MEMORY_BYTES_MAX = 600 << 20

READ_ALL = """
    import resource, sys
    import segstore
    resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
    resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
    path = sys.argv[1]
    for mode in ("r", "a"):
        with segstore.open(path, mode, background=False) as log:
            end = log.end_offset
            refused = 0
            try:
                list(log.read())
            except segstore.CorruptionError as error:
                refused = error.offsets.start + 1
            kept = [(r.offset, r.value) for r in log.read(errors="skip")]
            for offset in range(0, end, max(1, end // 50)):
                try:
                    assert (offset, log[offset].value) in kept[:offset + 1]
                except segstore.CorruptionError:
                    assert offset not in dict(kept)
            log.offset_for_time(2**62)
            log.offset_for_time(0)
            list(log.find(b"key"))if not refused else None
            log.verify()
            print(mode, refused, len(kept), end)
"""


def read_under_limits(path: str) -> list[list[str]]:
    code = textwrap.dedent(READ_ALL.format(limit=MEMORY_BYTES_MAX))
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [line.split() for line in run.stdout.splitlines()]


@pytest.fixture
def log_path(path: str) -> str:
    """A log with one compressed segment of several chunks, and an active one."""
    with segstore.open(path, background=False) as log:
        values = lines(6000)
        for start in range(0, len(values), 100):
            log.append_many(values[start : start + 100])
        log.roll()
        log.compress()
        log.append(b"active")
    return path


def data_file(path: str) -> Path:
    return next(Path(path).glob("*.log.lz4"))


def index_file(path: str) -> Path:
    return next(Path(path).glob("*.lz4.index"))


def test_a_chunk_that_claims_what_it_can_not_hold_is_refused() -> None:
    chunk = bytearray(encode_chunk(bytes(4096), "lz4"))
    for claimed in (0, 4095, 4104, 8, CHUNK_RAW_BYTES_MAX, CHUNK_RAW_BYTES_MAX + 8, 2**31, 2**63):
        chunk[6:14] = claimed.to_bytes(8, "little")
        with pytest.raises(ValueError, match=r".+"):
            decode_chunk(bytes(chunk))


def test_a_chunk_cut_anywhere_or_with_more_behind_it_is_refused() -> None:
    chunk = encode_chunk(b"".join(lines(64))[:4096], "lz4")
    for end in range(len(chunk)):
        with pytest.raises(ValueError, match=r".+"):
            decode_chunk(chunk[:end])
    with pytest.raises(ValueError, match="whole"):
        decode_chunk(chunk + b"\0")


def test_a_bomb_costs_no_more_than_a_chunk(log_path: str) -> None:
    bomb = lz4.frame.compress(
        bytes(1 << 30), block_linked=False, store_size=True, content_checksum=False
    )
    file = data_file(log_path)
    for data in (
        bomb,
        bomb[:6] + (4096).to_bytes(8, "little") + bomb[14:],
        file.read_bytes() + bomb,
    ):
        file.write_bytes(data)
        for _, refused, _, end in read_under_limits(log_path):
            assert int(refused) > 0 or end == "6001"


@pytest.mark.parametrize("keep", [True, False])
def test_a_cut_file_gives_what_is_left(log_path: str, keep: bool) -> None:
    file = data_file(log_path)
    size = file.stat().st_size
    os.truncate(file, size // 2)
    if not keep:
        index_file(log_path).unlink()
    for _, refused, kept, end in read_under_limits(log_path):
        assert int(refused) > 1000
        assert 1000 < int(kept) < 6001
        assert end == "6001"


@pytest.mark.parametrize("content", ["magics", "holes", "headers", "tiny blocks"])
def test_a_file_made_to_be_slow_or_large_without_an_index_is_bounded(
    log_path: str, content: str
) -> None:
    file = data_file(log_path)
    good = file.read_bytes()
    index_file(log_path).unlink()
    # Without a valid check byte: the walk only looks at flags and sizes.
    head = LZ4_MAGIC + bytes([0x68, 0x40]) + (64).to_bytes(8, "little") + b"\0"
    if content == "magics":
        file.write_bytes(good + LZ4_MAGIC * 100_000)
    elif content == "holes":
        file.write_bytes(good)
        os.truncate(file, 1 << 30)
    elif content == "headers":
        file.write_bytes(good + (head + bytes(4)) * 50_000)
    else:
        file.write_bytes(good + (head + b"\1\0\0\0x" * 3) * 20_000)
    for _, _, kept, end in read_under_limits(log_path):
        assert int(kept) > 5000
        assert end == "6001"


def forge(path: str, stamp: Stamp, entries: OffsetIndex, starts: list[int]) -> None:
    file = index_file(path)
    header = FileHeader(KIND_INDEX, 0, log_id_of(file), 0)
    body = entries.encode() + b"".join(start.to_bytes(8, "little") for start in starts)
    stamp = stamp._replace(
        entry_count=len(entries), chunk_count=len(starts), filter_bytes=0, body_crc=crc32c(body)
    )
    file.write_bytes(encode_file_header(header) + encode_stamp(stamp) + body)


def log_id_of(file: Path) -> bytes:
    found = decode_stamp(file.read_bytes(), 0)
    assert found is not None
    return found[0].log_id


@pytest.mark.parametrize(
    "lie", ["one chunk", "huge raw", "shifted", "equal", "beyond", "swapped", "offsets", "sparse"]
)
def test_an_index_that_lies_under_a_good_checksum_can_not_do_more_than_damage(
    log_path: str, lie: str
) -> None:
    file = data_file(log_path)
    found = decode_stamp(index_file(log_path).read_bytes(), 0)
    assert found is not None
    stamp = found[1]
    assert stamp.flags == SEALED | LZ4
    body = index_file(log_path).read_bytes()[ENTRIES_POSITION:]
    entries = OffsetIndex.decode(body[: 16 * stamp.entry_count])
    starts = [
        int.from_bytes(body[at : at + 8], "little")
        for at in range(16 * stamp.entry_count, len(body), 8)
    ]
    triples = [entries[slot] for slot in range(len(entries))]
    if lie == "one chunk":
        triples, starts = triples[:1], starts[:1]
    elif lie == "huge raw":
        stamp = stamp._replace(raw_bytes=2**63)
    elif lie == "shifted":
        starts = [0, *(start + 1 for start in starts[1:])]
    elif lie == "equal":
        starts = [0] * len(starts)
    elif lie == "beyond":
        starts = [0, *(2**60 + n for n in range(len(starts) - 1))]
    elif lie == "swapped":
        triples = [(o, p + 8 * n, t) for n, (o, p, t) in enumerate(triples)]
    elif lie == "offsets":
        triples = [(o + (3 if n else 0), p, t) for n, (o, p, t) in enumerate(triples)]
    else:
        # One chunk of 3 GiB, none of which is on the disk.
        os.truncate(file, 3 << 30)
        stamp = stamp._replace(data_bytes=3 << 30, raw_bytes=3 << 30)
        triples, starts = triples[:1], starts[:1]
    forged = OffsetIndex()
    for triple in triples:
        forged.add(*triple)
    forge(log_path, stamp, forged, starts)
    for _, refused, kept, end in read_under_limits(log_path):
        assert end == "6001"
        assert int(refused) > 0 or int(kept) == 6001


def test_a_stamp_that_lies_about_its_end_gives_no_wrong_record(log_path: str) -> None:
    found = decode_stamp(index_file(log_path).read_bytes(), 0)
    assert found is not None
    data = bytearray(index_file(log_path).read_bytes())
    for end in (1, 5999, 2**62):
        stamp = found[1]._replace(end_offset=end)
        data[64:ENTRIES_POSITION] = encode_stamp(stamp)
        index_file(log_path).write_bytes(data)
        for _, _, kept, end_offset in read_under_limits(log_path):
            assert end_offset == "6001"
            assert int(kept) > 0
