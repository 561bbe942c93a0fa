"""Compressed segments hold the same log, and cost what they should."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

import segstore
from segstore import CorruptionError, Log, Record, StorageError
from segstore.config import LogConfig
from segstore.disk import Disk
from segstore.disk.real import OsFile
from segstore.log import verify
from segstore.log.view import FileView
from segstore.segment import source
from segstore.testing.memory import Event, MemoryDisk

from .records import append_mix, assert_equal, lines
from .steps import StepDisk, dying_at, open_on, temporary_names

SMALL = {"segment_size": "32KiB", "batch_size": "4KiB", "index_interval": 512}


def open_log(path: str, **options: Any) -> Log:
    return segstore.open(path, background=False, **{**SMALL, **options})


def compressed_names(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.endswith(".log.lz4"))


@pytest.mark.parametrize("codec", ["lz4", "lz4hc"])
def test_a_log_is_the_same_before_during_and_after(path: str, codec: str) -> None:
    log = open_log(path, compression=codec)
    records = append_mix(log, 3000)
    assert_equal(log, records)
    reader = segstore.open(path, "r")
    total = len(log._compressor.waiting())
    assert total > 4
    seen: list[tuple[int, int]] = []

    def progress(done: int, all_: int) -> None:
        seen.append((done, all_))
        if done % 3 == 0:
            assert_equal(log, records, done)
            assert_equal(reader, records, done)

    assert log.compress(progress) == total
    assert seen == [(n, total) for n in range(1, total + 1)]
    assert log._compressor.waiting() == []
    assert [s.state for s in log.segments()] == ["compressed"] * total + ["active"]
    assert_equal(log, records)
    assert_equal(reader, records)
    assert log.verify().is_intact
    assert log.verify().notes == ()
    records += append_mix(log, 200, 1)
    assert_equal(log, records)
    log.close()
    assert_equal(segstore.open(path, "r"), records)
    with open_log(path) as log:
        assert log.recovery.was_clean
        assert_equal(log, records)


def test_verify_beside_compression_looks_at_the_directory_a_few_times(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(path)
    records = append_mix(log, 3000)
    reader = segstore.open(path, "r")
    notes, refresh = verify._notes, FileView.refresh
    looks: list[FileView] = []

    def compressing(disk: Disk) -> list[str]:  # behind the look that verify begins with
        assert log.compress() > 4
        return notes(disk)

    def counted(view: FileView) -> None:
        looks.append(view)
        refresh(view)

    monkeypatch.setattr(verify, "_notes", compressing)
    monkeypatch.setattr(FileView, "refresh", counted)
    report = reader.verify()
    assert (report.is_intact, report.record_count, report.notes) == (True, len(records), ())
    assert len(looks) == 3  # one for all that were compressed, and the one it ends with


@pytest.mark.parametrize("at", [0, 300, 2000, -1])
def test_what_does_not_read_back_as_written_is_not_committed(
    path: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = OsFile.read

    def flip(file: OsFile, size_bytes: int, position: int) -> bytes:
        data = bytearray(read(file, size_bytes, position))
        if file.name.endswith(".lz4.tmp"):
            data[at] ^= 1
        return bytes(data)

    with open_log(path) as log:
        records = append_mix(log, 1000)
        log.roll()
        before = set(os.listdir(path))
        monkeypatch.setattr(OsFile, "read", flip)
        with pytest.raises(OSError, match="did not read back"):
            log.compress()
        assert set(os.listdir(path)) == before
        monkeypatch.undo()
        assert_equal(log, records)
        assert log.compress() > 0
        assert_equal(log, records)


def test_many_single_record_batches_are_merged(path: str) -> None:
    with open_log(path, segment_size="1MiB", batch_size="64KiB") as log:
        made = []
        for number, value in enumerate(lines(1500)):
            key = [None, b"", b"k%d" % number][number % 3] if number >= 500 else None
            log.append(value, key=key, timestamp=7 if number < 900 else number)
            log.sync()
            made.append(Record(number, 7 if number < 900 else number, key, value))
        log.roll()
        before = sum(1 for _ in log.batches())
        assert before == 1500
        log.compress()
        assert sum(1 for _ in log.batches()) < 10
        assert_equal(log, made)
        info = log.segments()[0]
        assert info.size_bytes < info.raw_bytes < 1500 * 150


def test_compression_none_leaves_segments_alone(path: str) -> None:
    with open_log(path, compression=None) as log:
        records = append_mix(log, 500)
        log.maintain()
        assert compressed_names(path) == []
        assert log.compress() > 0
        assert_equal(log, records)


def test_incompressible_and_very_large_records(path: str) -> None:
    rng = random.Random(1)
    values = [rng.randbytes(50_000), rng.randbytes(16 << 20), bytes(16 << 20), b"", b"x"]
    with open_log(path, segment_size="64MiB", batch_size="64KiB") as log:
        log.append_many(values)
        log.append(rng.randbytes((16 << 20) - 9), key=b"some key.")
        log.roll()
        log.compress()
        assert list(log.values())[:5] == values
        assert [log[n].value for n in range(5)] == values
        assert len(log[5].value) == (16 << 20) - 9
        assert [r.offset for r in log.find(b"some key.")] == [5]
        assert log.verify().is_intact
    assert list(segstore.open(path, "r").values(0, 5)) == values


def test_the_lz4_tool_gives_back_a_plain_log(path: str, tmp_path: Path) -> None:
    if shutil.which("lz4") is None:
        pytest.skip("the lz4 command is not installed")
    with open_log(path) as log:
        records = append_mix(log, 2000)
        log.roll()
        log.compress()
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in compressed_names(path):
        target = plain / name.removesuffix(".lz4")
        subprocess.run(["lz4", "-dqf", f"{path}/{name}", str(target)], check=True)
    for mode in ("r", "a", "a"):
        with segstore.open(plain, mode, background=False) as log:
            assert_equal(log, records)


def test_the_chunks_are_standard_lz4_frames_of_a_batch_each(path: str, tmp_path: Path) -> None:
    with open_log(path, segment_size="512KiB", batch_size="128KiB") as log:
        log.append_many(lines(9000))
        log.roll()
        log.compress()
        values = list(log.values())
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in compressed_names(path):
        data = Path(path, name).read_bytes()
        chunks = []
        while data:
            decompressor = lz4.frame.LZ4FrameDecompressor()
            chunks.append(decompressor.decompress(data))
            assert decompressor.eof
            data = decompressor.unused_data or b""
        assert 100_000 < max(map(len, chunks)) < 140_000
        assert all(len(chunk) > 40_000 for chunk in chunks[:-1])
        (plain / name.removesuffix(".lz4")).write_bytes(b"".join(chunks))
    assert list(segstore.open(plain, "r").values()) == values


def test_one_offset_costs_one_chunk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = StepDisk(path, create=True)
    log = open_on(disk, segment_size="1MiB", batch_size="8KiB")
    values = lines(12_000)
    for start in range(0, len(values), 100):
        log.append_many(values[start : start + 100])
    log.roll()
    log.compress()
    decoded = []
    decode = source.decode_chunk

    def counting(data: bytes) -> bytes:
        decoded.append(len(data))
        return decode(data)

    monkeypatch.setattr(source, "decode_chunk", counting)
    name = compressed_names(path)[0]
    end = log.segments()[0].end_offset
    log[0]  # the index is loaded
    for offset in random.Random(3).sample(range(end), 50):
        decoded.clear()
        disk.reads.clear()
        assert log[offset].value == values[offset]
        assert len(decoded) <= 1
        assert disk.reads[name + ".tmp"] + disk.reads[name] <= 1
        assert sum(disk.reads.values()) <= 1
        decoded.clear()
        assert [r.value for r in log.read(offset, offset + 1)] == [values[offset]]
        assert len(decoded) <= 1
    log.close()


def test_a_reader_in_the_middle_of_a_segment_notices_nothing(path: str) -> None:
    log = open_log(path)
    records = append_mix(log, 2500)
    other = segstore.open(path, "r")
    handles = [log, other]
    iterators = [iter(h.read(start)) for h in handles for start in (0, 333, 1200)]
    heads = [[next(i) for _ in range(20)] for i in iterators]
    log.compress()
    for iterator, head, start in zip(iterators, heads, [0, 333, 1200] * 2, strict=True):
        assert head + list(iterator) == records[start:]
    log.close()
    other.close()


def test_readers_at_work_during_the_swaps_notice_nothing(path: str) -> None:
    log = open_log(path)
    records = append_mix(log, 4000)
    wrong: list[BaseException] = []
    done = threading.Event()
    rounds = [0]

    def check(handle: Log, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while not done.is_set():
                start = rng.randrange(len(records))
                stop = start + rng.randrange(400)
                assert list(handle.read(start, stop)) == records[start:stop]
                assert handle[start] == records[start]
                key = records[start].key
                if key is not None:
                    assert records[start] in list(handle.find(key, start))
                time = records[start].timestamp
                expected = next(r.offset for r in records if r.timestamp >= time)
                assert handle.offset_for_time(time) == expected
                rounds[0] += 1
        except BaseException as error:
            wrong.append(error)

    handles = [log, segstore.open(path, "r"), segstore.open(path, "r")]
    threads = [threading.Thread(target=check, args=(h, n)) for n, h in enumerate(handles)]
    for thread in threads:
        thread.start()
    log.compress()
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert rounds[0] > 3
    for handle in handles:
        handle.close()


@pytest.mark.parametrize("dies", [True, False])
def test_killed_or_failing_at_every_step_leaves_one_complete_pair(
    tmp_path: Path, dies: bool
) -> None:
    template = str(tmp_path / "template")
    with open_log(template) as log:
        records = append_mix(log, 700)
        count = len(log._compressor.waiting())
    assert count >= 2
    k = 0
    while True:
        k += 1
        here = str(tmp_path / f"at{k}")
        shutil.copytree(template, here)
        disk = StepDisk(here)
        log = open_on(disk, **SMALL)
        with dying_at(disk, k, dies=dies) as stopped:
            log.compress()
        if not dies:
            disk.stop_at = None
            assert_equal(log, records, k)
            # What could not be finished is finished by the next call.
            log.compress()
            assert all(s.state in ("compressed", "active") for s in log.segments())
            assert_equal(log, records, k)
            log.close()
        copy = here + "-copy"
        shutil.copytree(here, copy)
        assert_equal(segstore.open(copy, "r"), records, k)
        with open_log(copy) as again:
            assert_equal(again, records, k)
            names = os.listdir(copy)
            assert temporary_names(copy) == []
            for info in again.segments():
                base = f"{info.base_offset:020d}"
                files = {name[20:] for name in names if name.startswith(base)}
                assert files in ({".log", ".index"}, {".log.lz4", ".lz4.index"}), (k, files)
            again.compress()
            assert_equal(again, records, k)
            assert again.verify().is_intact
        shutil.rmtree(copy)
        shutil.rmtree(here)
        if not stopped[0]:
            break
    assert k > 10 * count


def test_no_power_cut_during_a_swap_loses_a_record() -> None:
    disk = MemoryDisk()
    config = LogConfig.of({**SMALL, "background": False}, environment={})
    log = Log(disk, "a", config)
    records = append_mix(log, 300)
    log.roll()
    log.sync()
    states: list[MemoryDisk] = []

    def cut(disk: MemoryDisk, _event: Event) -> None:
        unsynced = disk.unsynced()
        states.extend(unsynced.sample(random_) for _ in range(10))

    random_ = random.Random(0)
    disk.watch = cut
    assert log.compress() >= 1
    for state in states:
        assert list(Log(state, "a", config)) == records


def test_a_failed_pass_leaves_nothing_behind(path: str) -> None:
    disk = StepDisk(path, create=True)
    log = open_on(disk, **SMALL)
    records = append_mix(log, 700)
    log._writer.seal_rolled()  # type: ignore[union-attr]
    before = sorted(os.listdir(path))
    disk.full = True
    with pytest.raises(segstore.StorageError):
        log.compress()
    assert sorted(os.listdir(path)) == before
    disk.full = False
    assert_equal(log, records)
    for k in range(1, 200):
        before = sorted(os.listdir(path))
        with dying_at(disk, k, dies=False):
            log.compress()
        disk.stop_at = None
        left = set(os.listdir(path)) - set(before)
        assert not [name for name in left if name.endswith(".tmp")], k
        if all(s.state in ("compressed", "active") for s in log.segments()):
            break
    assert_equal(log, records)
    log.close()


def test_what_a_failed_swap_left_goes_with_its_segment(tmp_path: Path) -> None:
    has_failed = True
    k = 0
    while has_failed:
        k += 1
        path = str(tmp_path / f"at{k}")
        disk = StepDisk(path, create=True)
        with open_on(disk, **SMALL) as log:
            log.append_many(lines(1000))
            log.roll()
            log._writer.seal_rolled()  # type: ignore[union-attr]
            with dying_at(disk, k, dies=False) as stopped:
                log.compress()
            has_failed = stopped[0]
            disk.stop_at = None
            log.trim(log.end_offset)
            left = {name for name in os.listdir(path) if name[0].isdigit()}
            (active,) = log.segments()
            base = f"{active.base_offset:020d}"
            assert left == {f"{base}.log", f"{base}.index"}, k
    assert k > 10


@pytest.mark.parametrize("harm", ["missing", "garbage", "raw", "cut", "empty"])
def test_a_bad_index_of_a_compressed_segment_changes_no_result(path: str, harm: str) -> None:
    with open_log(path) as log:
        records = append_mix(log, 2500)
        log.roll()
        raw = {
            name: Path(path, name).read_bytes()
            for name in os.listdir(path)
            if name.endswith(".index")
        }
        log.compress()
        assert len(log.segments()) > 4
    rng = random.Random(4)
    for name in os.listdir(path):
        if not name.endswith(".lz4.index"):
            continue
        file = Path(path, name)
        if harm == "missing":
            file.unlink()
        elif harm == "garbage":
            file.write_bytes(rng.randbytes(file.stat().st_size))
        elif harm == "raw":
            file.write_bytes(raw[name.replace(".lz4.index", ".index")])
        elif harm == "cut":
            file.write_bytes(file.read_bytes()[:-9])
        else:
            file.write_bytes(b"")
    assert_equal(segstore.open(path, "r"), records)
    with open_log(path) as log:
        assert_equal(log, records)
        assert log.verify().is_intact
        assert log.end_offset == len(records)


def test_a_compressed_segment_at_the_end_without_its_index_keeps_its_records(path: str) -> None:
    with open_log(path) as log:
        records = append_mix(log, 900)
        log.roll()
        log.compress()
    for name in os.listdir(path):
        # The active segment was never born, and the index is lost.
        if name.endswith((".index", ".log")):
            os.unlink(os.path.join(path, name))
    assert_equal(segstore.open(path, "r"), records)
    with open_log(path) as log:
        assert_equal(log, records)
        assert log.append(b"next") == len(records)
    with open_log(path) as log:
        assert [r.value for r in log] == [r.value for r in records] + [b"next"]


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("where", ["magic", "size", "block", "data", "end"])
def test_a_damaged_chunk_loses_only_itself(path: str, with_index: bool, where: str) -> None:
    with open_log(path, segment_size="512KiB", batch_size="64KiB") as log:
        values = lines(6000)
        for start in range(0, len(values), 50):
            log.append_many(values[start : start + 50])
        log.roll()
        log.compress()
        count = log.segments()[0].end_offset
    name = compressed_names(path)[0]
    file = Path(path, name)
    data = bytearray(file.read_bytes())
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        decompressor = lz4.frame.LZ4FrameDecompressor()
        decompressor.decompress(bytes(data[at:]))
        at = len(data) - len(decompressor.unused_data or b"")
    assert len(starts) > 4
    chunk = 2
    offset = {"magic": 0, "size": 7, "block": 16, "data": 300, "end": starts[3] - starts[2] - 3}
    data[starts[chunk] + offset[where]] ^= 0x55
    file.write_bytes(data)
    if not with_index:
        os.unlink(os.path.join(path, name.replace(".log.lz4", ".lz4.index")))
    for mode in ("r", "a"):
        with segstore.open(path, mode, background=False) as log:
            with pytest.raises(CorruptionError) as caught:
                list(log.read())
            lost = caught.value.offsets
            assert name in caught.value.path
            assert 100 < len(lost) < 1200
            left = [v for n, v in enumerate(values) if n not in lost]
            assert list(log.values(errors="skip")) == left
            assert [r.value for r in log.read(lost.stop)] == values[lost.stop :]
            assert log[lost.start - 1].value == values[lost.start - 1]
            assert log[lost.stop].value == values[lost.stop]
            with pytest.raises(CorruptionError):
                log[lost.start]
            assert [found.offsets for found in log.verify().lost] == [lost]
            assert lost.stop <= count


def test_a_damaged_plain_segment_is_refused_and_left(path: str) -> None:
    log = open_log(path)
    records = append_mix(log, 2000)
    log._writer.seal_rolled()  # type: ignore[union-attr]
    infos = log.segments()
    victim = infos[1]
    data = bytearray(Path(victim.path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(victim.path).write_bytes(data)
    assert log.compress() == len(infos) - 2
    assert log.segments()[1].state == "sealed"
    assert list(log._compressor.refused) == [victim.base_offset]
    assert Path(victim.path).read_bytes() == data
    assert temporary_names(path) == []
    with pytest.raises(CorruptionError) as caught:
        list(log)
    lost = caught.value.offsets
    assert list(log.read(errors="skip")) == [r for r in records if r.offset not in lost]
    assert log._compressor.waiting() == []  # or each round would try again
    log.close()


@pytest.mark.parametrize("step", ["trim", "truncate", "compress"])
def test_who_is_told_of_the_progress_may_change_the_log(path: str, step: str) -> None:
    with open_log(path) as log:
        records = append_mix(log, 3000)
        log._writer.seal_rolled()  # type: ignore[union-attr]
        fourth = log.segments()[3].base_offset

        def change(done: int, _: int) -> None:
            if done == 1 and step == "compress":
                log.compress()
            elif done == 1:
                (log.trim if step == "trim" else log.truncate)(fourth + 5)

        log.compress(change)
        log.maintain()
        left = slice(fourth + 5, None) if step == "trim" else slice(fourth + 6)
        assert list(log) == (records if step == "compress" else records[left])
        assert {info.state for info in log.segments()[:-1]} == {"compressed"}
        assert log.verify().is_intact


def test_holes_that_a_repair_left_stay_where_they_are(path: str) -> None:
    holes = (17, 38, 39)  # in the middle and at the end
    with open_log(path) as log:
        for line in lines(40):
            log.append(line)
            log.sync()  # a frame of its own
        log.roll()
        log.append_many(lines(9))
        file = Path(log.segments()[0].path)
        data = bytearray(file.read_bytes())
        for offset in holes:
            data[data.index(lines(40)[offset])] ^= 1
        file.write_bytes(data)
        log.repair()
        kept = list(log.read(errors="skip"))
        assert [record.offset for record in kept] == [n for n in range(49) if n not in holes]
        assert log.compress() == 1
        for source in (log, segstore.open(path, "r")):
            assert source.segments()[0].end_offset == 40
            assert list(source.read(errors="skip")) == kept
            assert all(source[record.offset] == record for record in kept)
            assert [lost.offsets for lost in source.verify().lost] == [range(17, 18), range(38, 40)]
        active = Path(log.segments()[1].path)
    for gone in (active, active.with_suffix(".index"), Path(path, "tail")):
        gone.unlink()
    with open_log(path) as log:
        assert log.append(b"not in the hole") == 40


def test_a_large_batch_between_small_ones_stays_between_them(path: str) -> None:
    with open_log(path, batch_size="16KiB") as log:
        for number in range(9):
            log.append_many(lines(3))
            log.sync()
            log.append_many([bytes([number]) * 4000] * 3)
        before = list(log)
        log.roll()
        assert log.compress() >= 1
        assert list(log) == before


def test_a_segment_whose_plain_index_is_damaged_keeps_its_keys_findable(path: str) -> None:
    log = open_log(path)
    records = append_mix(log, 1500)
    log._writer.seal_rolled()  # type: ignore[union-attr]
    for name in os.listdir(path):
        if name.endswith(".index") and int(name[:20]) < log.segments()[-1].base_offset:
            with open(os.path.join(path, name), "r+b") as file:
                file.seek(-3, os.SEEK_END)
                file.write(b"\x01\x02\x03")
    log.compress()
    assert_equal(log, records)
    log.close()
    assert_equal(segstore.open(path, "r"), records)


def test_a_segment_whose_file_is_gone_holds_nothing_up(path: str) -> None:
    with open_log(path) as log:
        log.append_many(lines(1500))
        log.roll()
        first, *others, _ = log.segments()
        os.unlink(first.path)
        assert log.compress() == len(others) > 1
        assert log.compress() == 0
        assert not log.verify().is_intact
        with pytest.raises(StorageError, match=r"lacks a file.*verify"):
            log.snapshot(f"{path}-copy")
        assert not os.path.exists(f"{path}-copy")


def test_a_segment_that_lost_its_plain_index_counts_as_compressed(path: str) -> None:
    with open_log(path) as log:
        log.append_many(lines(1500))
        log.roll()
        first, *others, _ = log.segments()
        os.unlink(first.path.replace(".log", ".index"))
        assert log.compress() == 1 + len(others)
        assert list(log.values()) == lines(1500)
