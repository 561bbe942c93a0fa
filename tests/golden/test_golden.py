"""Files of every format version that was ever released read as they were written."""

import os
import shutil

import pytest

import segstore
from segstore import Record
from tests.golden import reference_reader

HERE = os.path.dirname(os.path.abspath(__file__))
TAIL_BYTES = 1 << 20
NOW = 1_700_000_000_000_000_000

PLAIN = [
    Record(0, NOW, None, b"first"),
    Record(1, NOW, None, b""),
    Record(2, NOW, None, b"third\x00\xff"),
    Record(3, NOW, b"k1", b"keyed"),
    Record(4, NOW, None, b"not"),
    Record(5, NOW, b"", b"empty key"),
    Record(6, -1, None, b"early"),
    Record(7, 2**63 - 1, None, b"late"),
    Record(8, 7, b"ka", b"a"),
    Record(9, 5, b"kb", b"b"),
]
SEALED = [
    *(Record(n, 1000 + n, None, b"line %04d" % n) for n in range(100)),
    *(Record(100 + n, NOW, b"key%d" % (n % 7), b"v%d" % n) for n in range(50)),
    *(Record(150 + n, NOW, None, b"active %d" % n) for n in range(30)),
]
COMPRESSED = [
    *(Record(n, NOW, b"k", b"compress me %06d" % n) for n in range(2000)),
    Record(2000, NOW, None, b"active"),
]
STAGED = [
    Record(0, NOW, None, b"drained"),
    Record(1, NOW, None, b"drained"),
    Record(2, NOW, None, b"drained"),
    Record(3, NOW, None, b"staged"),
    Record(4, 42, b"k", b""),
    Record(5, NOW, None, b"two"),
    Record(6, NOW, None, b"more"),
]
TRIMMED = [Record(2, NOW, None, b"kept"), Record(3, NOW, None, b"kept too")]
FILLED = [
    Record(n, 10_000 - n, b"key %d" % n if n % 3 else None, b"value %04d" % n) for n in range(1200)
]
SWEPT = FILLED[450:]
TRUNCATING = FILLED[:450]
CHUNKED = [
    Record(n, n, None if n % 5 else b"k%d" % (n % 3), b"chunk me %06d" % n) for n in range(5000)
]

BLOCKS = [
    *(Record(n, NOW, None, b"block %04d " % n * 4) for n in range(300)),
    *(Record(300 + n, n, None, b"timed %04d " % n * 4) for n in range(300)),
    *(
        Record(600 + n, n, b"key%d" % (n % 7) if n % 3 else None, b"keyed %04d " % n * 4)
        for n in range(300)
    ),
    Record(900, NOW, None, b"large " * 2000),
    *(
        Record(901 + n, NOW, None, value)
        for n, value in enumerate([b"", b"two blocks " * 400, b"", b"three " * 1000, b""])
    ),
]

LOGS = {
    "plain": PLAIN,
    "sealed": SEALED,
    "compressed": COMPRESSED,
    "staged": STAGED,
    "trimmed": TRIMMED,
    "swept": SWEPT,
    "truncating": TRUNCATING,
    "chunked": CHUNKED,
}
# What the logs of a version hold, by version and name.
VERSIONS = {"v1": LOGS, "v2": {**LOGS, "blocks": BLOCKS}}


@pytest.fixture(
    params=[(version, name) for version, logs in VERSIONS.items() for name in logs],
    ids="/".join,
)
def golden(request, tmp_path):
    """A copy of a golden log, and what it holds."""
    version, name = request.param
    path = str(tmp_path / "log")
    shutil.copytree(os.path.join(HERE, version, name), path)
    os.truncate(os.path.join(path, "tail"), TAIL_BYTES)
    return path, VERSIONS[version][name]


def check(log, expected):
    assert list(log) == expected
    assert log.start_offset == expected[0].offset
    assert log.end_offset == expected[-1].offset + 1
    assert [log[record.offset] for record in expected[:: len(expected) // 50 + 1]] == expected[
        :: len(expected) // 50 + 1
    ]
    for timestamp in (-5, 0, 6, 43, 1050, NOW, 2**62):
        at = next((r.offset for r in expected if r.timestamp >= timestamp), None)
        assert log.offset_for_time(timestamp) == at
    for key in (b"key3", b"", b"k", b"key 451", b"absent"):
        assert list(log.find(key)) == [record for record in expected if record.key == key]
    report = log.verify()
    assert report.lost == ()
    assert report.notes == ()


def test_a_reader_reads_what_was_written(golden):
    path, expected = golden
    with segstore.open(path, "r") as log:
        check(log, expected)
        assert log.recovery.lost == log.recovery.cut == ()


def test_a_writer_goes_on_where_it_ended(golden):
    path, expected = golden
    with segstore.open(path, background=False) as log:
        check(log, expected)
        assert log.append(b"next") == expected[-1].offset + 1
    with segstore.open(path, background=False) as log:
        assert [record.value for record in log] == [*(r.value for r in expected), b"next"]


def test_the_log_of_blocks_has_frames_of_both_versions():
    with open(os.path.join(HERE, "v2", "blocks", "00000000000000000000.log"), "rb") as file:
        data = file.read()
    at, versions = 64, []
    while at < len(data):
        versions.append(data[at + 54])
        at += 64 + int.from_bytes(data[at + 8 : at + 12], "little")
    assert versions == [2, 2, 2, 1, 2]


def test_a_segment_of_version_1_says_version_2_before_a_frame_of_today_follows(tmp_path):
    path = str(tmp_path / "log")
    shutil.copytree(os.path.join(HERE, "v1", "plain"), path)
    os.truncate(os.path.join(path, "tail"), TAIL_BYTES)
    with segstore.open(path, background=False) as log:
        log.append_many([b"x" * 100] * 100)
    with open(os.path.join(path, "00000000000000000000.log"), "rb") as file:
        assert file.read()[16] == 2
    expected = [*(r.value for r in PLAIN), *[b"x" * 100] * 100]
    assert [value for _, _, _, value in reference_reader.read_log(path)] == expected


def test_a_reader_written_from_the_layout_alone_reads_the_same(golden):
    path, expected = golden
    assert [Record(*record) for record in reference_reader.read_log(path)] == expected


def test_the_layout_alone_gives_the_sealed_index_too():
    path = os.path.join(HERE, "v1", "sealed", "00000000000000000000.index")
    index = reference_reader.SealedIndex(path)
    stamp, entries = index.stamp, index.entries
    size = os.path.getsize(path.replace(".index", ".log"))
    assert stamp[:6] == [1, size, size, 100, 1000, 1099]
    assert entries[0] == (64, 0, max(r.timestamp for r in SEALED[: entries[1][1]]))
    with open(path.replace(".index", ".log"), "rb") as file:
        data = file.read()
    for position, relative_offset, max_timestamp in entries:
        _, records = reference_reader.frame(data, position)
        assert records[0][0] == relative_offset
        assert max_timestamp == max(r.timestamp for r in SEALED[: records[-1][0] + 1])


def test_the_layout_alone_gives_the_chunk_of_every_offset_of_a_compressed_segment():
    path = os.path.join(HERE, "v1", "chunked", "00000000000000000000.log.lz4")
    index = reference_reader.SealedIndex(path.replace(".log.lz4", ".lz4.index"))
    with open(path, "rb") as file:
        found = list(reference_reader.chunks(file.read()))
    plain = b"".join(data for _, data in found)
    assert index.stamp[:4] == [3, os.path.getsize(path), len(plain), 5000]
    assert list(index.chunk_starts) == [at for at, _ in found]
    assert len(index.entries) == len(found) > 2
    for (position, relative_offset, max_timestamp), (_, data) in zip(index.entries, found):
        start = 64 if position == 64 else 0
        _, records = reference_reader.frame(data, start)
        assert records[0][0] == relative_offset
        assert records[-1][1] == max_timestamp
        assert plain[position:].startswith(data[start:])


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sealed/00000000000000000000.index", set()),
        ("sealed/00000000000000000100.index", {b"key%d" % n for n in range(7)}),
        ("compressed/00000000000000000000.lz4.index", {b"k"}),
        ("chunked/00000000000000000000.lz4.index", {b"k0", b"k1", b"k2"}),
        ("swept/00000000000000000300.lz4.index", {r.key for r in FILLED[300:600]} - {None}),
        ("truncating/00000000000000000600.lz4.index", {r.key for r in FILLED[600:900]} - {None}),
    ],
)
def test_the_layout_alone_asks_the_key_filter(name, keys):
    index = reference_reader.SealedIndex(os.path.join(HERE, "v1", name))
    assert all(map(index.may_hold, keys))
    absent = [b"absent %d" % n for n in range(1000)]
    assert sum(map(index.may_hold, absent)) < 50


def test_the_hash_of_the_layout_is_murmurhash3():
    import mmh3

    for size in range(50):
        key = bytes(n * 37 % 256 for n in range(size))
        expected = mmh3.hash64(key, 0x5E65, x64arch=True, signed=False)
        assert reference_reader.murmur3_x64_128(key, 0x5E65) == expected


def test_committed_offsets_and_losses_read_as_they_were_written():
    path = os.path.join(HERE, "v1", "swept")
    expected = {"reader.1": (700, 0), "late": (451, 450), "new": (1200, 0)}
    assert reference_reader.read_consumers(path) == expected
    with segstore.open(path, "r") as log:
        found = {c.name: (c.committed, c.lost_count) for c in log.consumers()}
        assert found == expected


def test_a_consumer_goes_on_where_it_had_committed(tmp_path):
    path = str(tmp_path / "log")
    shutil.copytree(os.path.join(HERE, "v1", "swept"), path)
    os.truncate(os.path.join(path, "tail"), TAIL_BYTES)
    with segstore.open(path, "r") as log, log.consumer("reader.1") as consumer:
        assert consumer.poll(2) == FILLED[700:702]
        consumer.commit()
    assert reference_reader.read_consumers(path)["reader.1"] == (702, 0)


def test_the_registers_of_the_tail_read_as_they_were_written():
    assert reference_reader.registers(os.path.join(HERE, "v1", "staged"))[0] == 3
    end, durable, recovery_point, epoch = reference_reader.registers(
        os.path.join(HERE, "v1", "swept")
    )
    assert (end, durable, recovery_point) == (1200, 1200, 1200)
    assert epoch == 1


def test_what_is_written_today_the_layout_alone_reads_too(tmp_path):
    path = str(tmp_path / "log")
    with segstore.open(path, background=False, segment_size=8192, batch_size=1000) as log:
        for n in range(300):
            log.append(b"x" * n, key=None if n % 3 else b"%d" % n, timestamp=n * 7 % 11)
            if n % 50 == 0:
                log.append_many([b"a", b"", b"c"])
        log.maintain()
        log.append(b"the last one stays in the tail")
        expected = list(log)
        copy = str(tmp_path / "copy")
        shutil.copytree(path, copy)
    assert [Record(*record) for record in reference_reader.read_log(copy)] == expected
