"""`log[offset]` reads the head of a frame and a block of its values, or the whole where it must."""

import os
from pathlib import Path

import pytest

import segstore
from segstore import Record
from segstore.segment import source as source_module

OPTIONS = {"background": False, "compression": None}
VALUES = [b"value %05d " % number * 10 for number in range(400)]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "log")


def flip(path: str, needle: bytes) -> None:
    """Hurt the first byte of `needle` in the first segment."""
    name = os.path.join(path, "00000000000000000000.log")
    with open(name, "r+b") as file:
        at = file.read().index(needle)
        file.seek(at)
        file.write(bytes([needle[0] ^ 1]))


def test_damage_to_one_block_costs_no_point_read_of_another(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(VALUES)
        log.roll()
        log.maintain()
        flip(path, VALUES[200])
        assert log[0].value == VALUES[0]
        assert log[399].value == VALUES[399]
        for _ in range(2):
            with pytest.raises(segstore.CorruptionError) as caught:
                log[200]
            assert 200 in caught.value.offsets
            assert len(caught.value.offsets) < 80


def test_damage_to_a_head_is_told_of_the_whole_batch(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(VALUES)
        log.sync()
        name = os.path.join(path, "00000000000000000000.log")
        with open(name, "r+b") as file:
            file.seek(64 + 64 + 40)
            file.write(b"\xff")
        with pytest.raises(segstore.CorruptionError) as caught:
            log[300]
        assert 300 in caught.value.offsets


@pytest.mark.parametrize("how", ["forwards", "backwards", "twice", "far apart"])
def test_any_order_of_reads_gives_the_records(path, how):
    with segstore.open(path, batch_size="8KiB", **OPTIONS) as log:
        keys = [None if number % 3 else b"k%d" % number for number in range(400)]
        log.append_many(VALUES, timestamps=range(400))
        log.append_many(VALUES, keys=keys, timestamps=range(400))
        log.sync()
        expected = [
            *(Record(n, n, None, VALUES[n]) for n in range(400)),
            *(Record(400 + n, n, keys[n], VALUES[n]) for n in range(400)),
        ]
        order = list(range(800))
        if how == "backwards":
            order.reverse()
        elif how == "twice":
            order = [number for number in order for _ in range(2)]
        elif how == "far apart":
            order = [number * 397 % 800 for number in order]
        assert [log[number] for number in order] == [expected[number] for number in order]


def test_after_a_truncation_no_old_record_comes_back(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(VALUES)
        log.sync()
        assert [log[n].value for n in (100, 101, 350)] == [VALUES[n] for n in (100, 101, 350)]
        log.truncate(99)
        log.append_many(VALUES[::-1])
        log.sync()
        for number in (100, 101, 350):
            assert log[number].value == VALUES[::-1][number - 100]


def test_a_reader_of_a_log_without_a_tail_gives_one_record_at_first(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(VALUES)
    os.unlink(os.path.join(path, "tail"))
    with segstore.open(path, "r") as log:
        assert log[399].value == VALUES[399]


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_batch_that_reaches_into_the_next_segment_answers_for_none_of_it(path, mode):
    """In a copy of the first one from before a truncation, and of the other from behind it."""
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(VALUES[:20])
        log.roll()
        log.maintain()
        before = {file: file.read_bytes() for file in Path(path).glob(f"{0:020d}.*")}
        log.truncate(9)
        log.roll()
        log.append_many(VALUES[100:110])
    for file, data in before.items():
        file.write_bytes(data)
    expected = VALUES[:10] + VALUES[100:110]
    with segstore.open(path, mode, **OPTIONS) as log:
        assert list(log.values()) == expected
        assert [log[offset].value for offset in range(20)] == expected
        assert list(log.values()) == expected


def test_compressed_records_of_any_size_are_read_with_one_decoding_each(path, monkeypatch):
    large = [bytes([65 + number]) * 3_000_000 for number in range(3)]
    with segstore.open(path, **OPTIONS) as log:
        log.append_many(VALUES)
        log.append_many(large)
        log.roll()
        log.append(b"next")
        assert log.compress()
        decoded = []
        real = source_module.decode_chunk
        monkeypatch.setattr(
            source_module, "decode_chunk", lambda data: decoded.append(1) or real(data)
        )
        assert log[7].value == VALUES[7]
        assert log[300].value == VALUES[300]
        assert len(decoded) == 1
        for number in (2, 0, 1):
            decoded.clear()
            assert log[400 + number].value == large[number]
            assert len(decoded) <= 1
        reader = log._reader._open(log._reader.catalog().segments[0])
        assert len(reader.source._last[1]) < 1 << 20
