import base64
import itertools
import json
import re
import time

import pytest

import segstore
from segstore.cli.reading import DamageTally
from segstore.format import checksum


@pytest.fixture
def numbers(cli, tmp_path):
    """100 records with timestamps a second apart, from 1,000,000 s on, in several segments."""
    options = {"segment_size": "4KiB", "batch_size": 512, "compression": None}
    with segstore.open(tmp_path / "log", **options) as log:
        for number in range(100):
            time_ns = (1_000_000 + number) * 10**9
            log.append(b"%d" % number * 40, timestamp=time_ns, key=b"k%d" % number)
            log.sync()
        assert len(log.segments()) > 2
    return [b"%d" % number * 40 for number in range(100)]


def lines(values):
    return b"".join(value + b"\n" for value in values)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), slice(None)),
        (("--from", 90), slice(90, None)),
        (("--to", 5), slice(0, 5)),
        (("--from", 37, "--to", 41), slice(37, 41)),
        (("--from", 95, "--to", 5000), slice(95, None)),
        (("--from", 50, "--to", 20), slice(0, 0)),
        (("--from", 100), slice(0, 0)),
        (("-n", 3), slice(0, 3)),
        (("-n", 0), slice(0, 0)),
        (("--from", 60, "-n", 20), slice(60, 80)),
        (("--from", 98, "-n", 20), slice(98, None)),
        (("--from-time", "1000042"), slice(42, None)),
        (("--from-time", "1000041.5"), slice(42, None)),
        (("--from-time", "1000042000000000ns"), slice(42, None)),
        (("--from-time", "1970-01-12T13:47:22+00:00"), slice(42, None)),
        (("--from-time", "1970-01-12T14:47:22+01:00"), slice(42, None)),
        (("--from-time", "1970-01-12T13:47:22Z", "-n", 2), slice(42, 44)),
        (("--to-time", "1000042"), slice(0, 42)),
        (("--from-time", 1000010, "--to-time", 1000020), slice(10, 20)),
        (("--from-time", "2020-01-01"), slice(0, 0)),
        (("--to-time", "2020-01-01"), slice(None)),
        (("--from-time", "-5"), slice(None)),
    ],
)
def test_cat_prints_the_range_asked_for(cli, numbers, options, expected):
    assert cli("cat", "log", *options).stdout == lines(numbers[expected])


def test_reading_goes_on_where_retention_has_overtaken_it(numbers, tmp_path, capsys):
    with segstore.open(tmp_path / "log") as log, segstore.open(tmp_path / "log", "r") as source:
        tally = DamageTally()
        batches = tally.converted(source, range(100), 70, lambda batch: batch.values())
        found = next(batches)
        log.trim(60)
        for values in batches:
            found += values
    count = found.index(numbers[60])
    assert count < 60
    assert found == numbers[:count] + numbers[60:100][: 70 - count]
    assert f"{60 - count} records before offset 60 are gone, going on" in capsys.readouterr().err
    assert tally.record_count == 0


def test_get_prints_one_record(cli, numbers):
    assert cli("get", "log", 42).stdout == numbers[42] + b"\n"
    assert cli("get", "log", 42, "--raw").stdout == numbers[42]
    assert json.loads(cli("get", "log", 42, "--json").stdout) == {
        "offset": 42,
        "timestamp": 1_000_042 * 10**9,
        "key": "k42",
        "value": numbers[42].decode(),
    }


def test_json_keeps_every_byte(cli, tmp_path):
    values = [
        b"",
        b"plain",
        "grün \u2028 \x85".encode(),
        b"\xff\x00",
        b"two\nlines",
        bytes(range(256)),
    ]
    keys = [None, b"", b"\xfe", b"k", b"\n", bytes(range(128, 256))]
    with segstore.open(tmp_path / "log") as log:
        log.append_many(values, keys=keys)
    out = cli("cat", "log", "--json").stdout
    found = [json.loads(line) for line in out.decode("ascii").splitlines()]

    def data(record, name):
        if f"{name}_base64" in record:
            return base64.b64decode(record[f"{name}_base64"])
        return None if record[name] is None else record[name].encode()

    assert [data(record, "value") for record in found] == values
    assert [data(record, "key") for record in found] == keys
    assert [record["offset"] for record in found] == list(range(len(values)))
    assert "value_base64" in found[3]
    assert "value" not in found[3]


def test_info_tells_the_offsets_and_what_is_in_use(cli, numbers, tmp_path):
    found = json.loads(cli("info", "log", "--json").stdout)
    assert found["start_offset"] == 0
    assert found["end_offset"] == found["durable_offset"] == found["record_count"] == 100
    assert found["segment_count"] > 2
    assert found["size_bytes"] > 0
    assert found["checksum"] == checksum.PROVIDER
    assert found["kernel"] in ("c", "python")
    assert re.fullmatch("[0-9a-f]{32}", found["log_id"])
    assert found["recovery"]["was_clean"] is True
    assert found["recovery"]["lost"] == []
    words = cli("info", "log").stdout.decode()
    for name, value in found.items():
        assert name.replace("_", " ") in words
        if isinstance(value, str | int) and name != "tail":
            assert str(value) in words


def test_segments_lists_every_segment(cli, numbers, tmp_path):
    found = json.loads(cli("segments", "log", "--json").stdout)
    with segstore.open(tmp_path / "log", "r") as log:
        expected = log.segments()
    assert [item["base_offset"] for item in found] == [item.base_offset for item in expected]
    assert found[0]["state"] in ("sealed", "compressed")
    assert found[-1]["state"] == "active"
    assert sum(item["end_offset"] - item["base_offset"] for item in found) == 100
    table = cli("segments", "log").stdout.decode().splitlines()
    assert len(table) == len(found) + 1
    for row, item in zip(table[1:], found, strict=True):
        assert str(item["base_offset"]) in row.split()
        assert item["state"] in row


def test_a_log_without_records_can_be_looked_at(cli):
    cli("append", "log")
    assert cli("cat", "log").stdout == b""
    assert json.loads(cli("info", "log", "--json").stdout)["record_count"] == 0
    assert len(json.loads(cli("segments", "log", "--json").stdout)) <= 1
    cli("segments", "log")
    cli("verify", "log")


def test_dump_shows_every_frame_of_a_file_by_itself(cli, numbers, tmp_path):
    segment = sorted((tmp_path / "log").glob("*.log"))[1]
    alone = tmp_path / "elsewhere.bin"
    alone.write_bytes(segment.read_bytes())
    out = cli("dump", "elsewhere.bin", "--json").stdout.decode().splitlines()
    header, *frames = map(json.loads, out)
    base = int(segment.name[:20])
    assert header["header"]["base_offset"] == base
    assert header["header"]["raw_bytes"] == segment.stat().st_size
    assert frames[0]["position"] == 64
    assert frames[0]["offset"] == base
    for one, following in itertools.pairwise(frames):
        assert following["position"] == one["position"] + one["size_bytes"]
        assert following["offset"] == one["end_offset"]
    assert frames[-1]["position"] + frames[-1]["size_bytes"] == segment.stat().st_size
    words = cli("dump", segment).stdout.decode().splitlines()
    assert len(words) == len(frames) + 2
    assert all("(ok)" in row for row in words[2:])


def test_a_compressed_log_reads_the_same_and_its_files_dump_alone(cli, numbers, tmp_path):
    plain = {
        path.name: cli("dump", path, "--json").stdout.splitlines()[1:]
        for path in sorted((tmp_path / "log").glob("*.log"))[:-1]
    }
    with segstore.open(tmp_path / "log", segment_size="4KiB") as log:
        log.compress()
    assert cli("cat", "log").stdout == lines(numbers)
    assert cli("get", "log", 7).stdout == numbers[7] + b"\n"
    assert "compressed" in cli("segments", "log").stdout.decode()
    cli("verify", "log")
    for name, frames in plain.items():
        alone = tmp_path / "alone.lz4"
        alone.write_bytes((tmp_path / "log" / f"{name}.lz4").read_bytes())
        header, *found = map(json.loads, cli("dump", alone, "--json").stdout.splitlines())
        assert header["header"]["is_compressed"] is True
        assert header["header"]["base_offset"] == int(name[:20])
        assert found[0]["offset"] == json.loads(frames[0])["offset"]
        assert found[-1]["end_offset"] == json.loads(frames[-1])["end_offset"]
    cli.damage(alone, alone.stat().st_size // 2)
    assert b"DAMAGE" in cli("dump", alone, expect=1).stdout


def test_dump_names_damage_and_goes_on(cli, numbers, tmp_path):
    segment = sorted((tmp_path / "log").glob("*.log"))[0]
    second = json.loads(cli("dump", segment, "--json").stdout.splitlines()[2])
    cli.damage(segment, second["position"] + 70)
    out = cli("dump", segment, "--json", expect=1).stdout.splitlines()
    damage = json.loads(out[2])
    assert damage["damage"] == "checksum mismatch"
    assert damage["position"] == second["position"]
    assert (damage["offset"], damage["end_offset"]) == (second["offset"], second["end_offset"])
    assert "damage" not in json.loads(out[3])
    assert b"DAMAGE='checksum mismatch'" in cli("dump", segment, expect=1).stdout


def test_dump_reads_a_file_whose_header_is_gone(cli, numbers, tmp_path):
    segment = sorted((tmp_path / "log").glob("*.log"))[1]
    cli.damage(segment, 0)
    out = cli("dump", segment, expect=1).stdout.decode()
    assert "header DAMAGED" in out
    assert f"offsets={int(segment.name[:20])}.." in out


def test_cat_and_verify_name_damage_and_read_the_rest(cli, numbers, tmp_path):
    segment = sorted((tmp_path / "log").glob("*.log"))[0]
    second = json.loads(cli("dump", segment, "--json").stdout.splitlines()[2])
    lost = range(second["offset"], second["end_offset"])
    cli("verify", "log")
    cli.damage(segment, second["position"] + 70)

    done = cli("cat", "log", expect=1)
    assert done.stdout == lines(numbers[: lost.start] + numbers[lost.stop :])
    span = f"offsets {lost.start}..{lost.stop - 1} can't be read"
    assert span in done.stderr.decode()

    done = cli("verify", "log", expect=1)
    assert f"DAMAGE log/{segment.name} at byte {second['position']}" in done.stdout.decode()
    assert span in done.stdout.decode()
    report = json.loads(cli("verify", "log", "--json", expect=1).stdout)
    assert report["is_intact"] is False
    assert report["record_count"] == 100 - len(lost)
    assert report["lost"][0]["offsets"] == {"start_offset": lost.start, "end_offset": lost.stop}

    done = cli("get", "log", lost.start, expect=1)
    assert b"checksum mismatch" in done.stderr


def test_reading_a_log_changes_no_file(cli, numbers, tmp_path):
    def state():
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted((tmp_path / "log").iterdir())
        }

    before = state()
    for command in ("cat", "info", "segments", "verify"):
        cli(command, "log")
    assert state() == before


def test_times_without_a_zone_are_local(cli, numbers):
    import os

    here = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_000_042 + 7200))
    done = cli("cat", "log", "--from-time", here, env={**os.environ, "TZ": "UTC-2"})
    assert done.stdout == lines(numbers[42:])
