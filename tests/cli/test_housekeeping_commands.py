"""The commands that look after a log, each in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

import segstore
from tests.cli.test_live_append import PATIENCE_S, count_of, wait_for

OPTIONS = {
    "segment_size": "4KiB",
    "batch_size": 512,
    "index_interval": 512,
    "compression": None,
    "background": False,
}

NOTHING = b"nothing to repair in the sealed segments; `segstore roll` seals the active one\n"


@pytest.fixture
def values():
    return [b"%03d " % number + b"x" * 60 for number in range(200)]


@pytest.fixture
def path(tmp_path, values):
    """200 records with keys and timestamps a second apart, in many segments, the last active."""
    with segstore.open(tmp_path / "log", **OPTIONS) as log:
        for number, value in enumerate(values):
            time_ns = (1_000_000 + number) * 10**9
            log.append(value, key=b"k%d" % (number % 10), timestamp=time_ns)
            if number % 5 == 4:
                log.sync()
        log.maintain()
        assert sum(segment.state == "sealed" for segment in log.segments()) > 3
    return tmp_path / "log"


def lines(values):
    return b"".join(value + b"\n" for value in values)


def read_lines(process, count):
    return [process.stdout.readline() for _ in range(count)]


def files_of(path):
    """Every file but those that opening for writing may touch: it fits the active index anew."""
    active = max(file.name for file in path.glob("*.log"))
    mutable = ("lock", "tail", active.removesuffix(".log") + ".index")
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name not in mutable}


def damage(path, number):
    """Spoil a frame in the middle of a sealed segment; the segment."""
    with segstore.open(path, "r") as log:
        segment = log.segments()[number]
        assert segment.state == "sealed"
    with open(segment.path, "r+b") as file:
        file.seek(segment.size_bytes // 2)
        file.write(b"\xff" * 8)
    return segment


# tail


@pytest.mark.parametrize("count", [0, 1, 10, 199, 200, 1000])
def test_tail_prints_the_last_records(cli, path, values, count):
    expected = lines(values[max(0, 200 - count) :])
    assert cli("tail", "log", "-n", count).stdout == expected


def test_tail_prints_ten_unless_told_otherwise(cli, path, values):
    assert cli("tail", "log").stdout == lines(values[-10:])
    last = json.loads(cli("tail", "log", "-n", 1, "--json").stdout)
    assert last == {
        "offset": 199,
        "timestamp": 1_000_199 * 10**9,
        "key": "k9",
        "value": values[-1].decode(),
    }


def test_tail_f_prints_what_another_process_appends_across_rolls_and_compression(
    cli, path, values, tmp_path
):
    process = cli.start("tail", "-f", "log", "-n", "2")
    try:
        assert read_lines(process, 2) == [value + b"\n" for value in values[-2:]]
        writer = cli.start("append", "log", "--segment-size", "4KiB", "--batch-lines", "5")
        for number in range(100):
            writer.stdin.write(b"line %d %s\n" % (number, b"y" * 100))
            writer.stdin.flush()
            assert process.stdout.readline() == b"line %d %s\n" % (number, b"y" * 100)
        said, words = writer.communicate(timeout=PATIENCE_S)
        assert (said, words) == (b"200..299\n", b"")
        cli("compress", "log", "--roll")
        cli("append", "log", stdin=b"after the swap\n")
        assert process.stdout.readline() == b"after the swap\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()


def test_tail_f_ends_when_nothing_came_for_the_timeout(cli, path, values):
    start = time.monotonic()
    done = cli("tail", "-f", "log", "-n", 1, "--timeout", "0.3")
    assert done.stdout == lines(values[-1:])
    assert time.monotonic() - start >= 0.3
    cli("tail", "log", "--timeout", "1", expect=2)


def test_tail_f_ends_once_nobody_reads_it(cli, path):
    """Also where no record comes, which could not be written."""
    process = cli.start("tail", "-f", "log", "-n", "1")
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == b""


def test_tail_f_ends_quietly_when_its_reader_goes_away(cli, path, values):
    process = cli.start("tail", "-f", "log", "-n", "1")
    try:
        assert process.stdout.readline() == values[-1] + b"\n"
        process.stdout.close()
        with segstore.open(path, **OPTIONS) as log:
            deadline = time.monotonic() + PATIENCE_S
            while process.poll() is None and time.monotonic() < deadline:
                log.append(b"nobody reads this" * 100)
                time.sleep(0.002)
        assert process.returncode == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        process.stdin.close()


def test_tail_names_damaged_records_and_goes_on(cli, path, values):
    segment = damage(path, 1)
    done = cli("tail", "log", "-n", 200, expect=1)
    kept = done.stdout.splitlines()
    assert b"segstore: " in done.stderr
    assert 0 < len(kept) < 200
    gone = [number for number, value in enumerate(values) if value not in kept]
    assert segment.base_offset <= gone[0] <= gone[-1] < segment.end_offset
    assert kept == [value for number, value in enumerate(values) if number not in gone]


# cat --since, find


def test_cat_since_prints_what_is_no_older(cli, tmp_path):
    now = time.time_ns()
    hour = 3600 * 10**9
    with segstore.open(tmp_path / "log", background=False) as log:
        for hours in (50, 5, 3, 1):
            log.append(b"%d" % hours, timestamp=now - hours * hour)
    assert cli("cat", "log", "--since", "2h").stdout == b"1\n"
    assert cli("cat", "log", "--since", "4h").stdout == b"3\n1\n"
    assert cli("cat", "log", "--since", "7d").stdout == b"50\n5\n3\n1\n"
    assert cli("cat", "log", "--since", 60).stdout == b""
    cli("cat", "log", "--since", "2 moons", expect=2)
    cli("cat", "log", "--since", "2h", "--from", 1, expect=2)


def test_find_prints_the_records_with_a_key(cli, path, values):
    expected = values[3::10]
    assert cli("find", "log", "k3").stdout == lines(expected)
    assert cli("find", "log", "--hex", b"k3".hex()).stdout == lines(expected)
    assert cli("find", "log", "k3", "--from", 50, "--to", 100).stdout == lines(values[53:100:10])
    assert cli("find", "log", "absent").stdout == b""
    cli("find", "log", "--hex", "xyz", expect=2)
    cli("compress", "log", "--roll")
    found = [json.loads(line) for line in cli("find", "log", "k3", "--json").stdout.splitlines()]
    assert [record["offset"] for record in found] == list(range(3, 200, 10))


def test_find_says_when_it_had_to_pass_over_damage(cli, path, values):
    damage(path, 1)
    found = []
    for key in ("k3", "k8"):  # one of them is in the frame that went
        done = cli("find", "log", key, expect=1)
        assert b"damaged" in done.stderr
        found += done.stdout.splitlines()
    assert set(found) < set(values[3::5])


# roll, compress


def test_roll_starts_a_segment_unless_the_active_one_is_empty(cli, path):
    with segstore.open(path, "r") as log:
        count = len(log.segments())
    first = cli("roll", "log").stdout
    assert first.startswith((b"rolled", b"nothing"))
    assert cli("roll", "log").stdout == (
        b"nothing to roll; the active segment at offset 200 is empty\n"
    )
    assert cli("append", "log", stdin=b"more\n").stdout == b"200..200\n"
    assert cli("roll", "log").stdout == b"rolled; the active segment starts at offset 201\n"
    with segstore.open(path, "r") as log:
        assert len(log.segments()) >= count + 1
        assert [segment.state for segment in log.segments()][-2:] == ["sealed", "active"]


@pytest.mark.skipif(shutil.which("lz4") is None, reason="the lz4 command is not installed")
@pytest.mark.parametrize("codec", ["lz4", "lz4hc"])
def test_compress_leaves_files_that_lz4_d_turns_back(cli, path, values, tmp_path, codec):
    done = cli("compress", "log", "--roll", "--codec", codec)
    assert done.stderr == b""
    with segstore.open(path, "r") as log:
        compressed = [segment for segment in log.segments() if segment.state == "compressed"]
    assert compressed
    assert done.stdout.startswith(b"%d segments compressed, " % len(compressed))
    assert cli("cat", "log").stdout == lines(values)
    cli("verify", "log")
    (tmp_path / "plain").mkdir()
    for segment in compressed:
        name = os.path.basename(segment.path).removesuffix(".lz4")
        target = tmp_path / "plain" / name
        subprocess.run(["lz4", "-d", "-q", segment.path, str(target)], check=True)
        assert target.stat().st_size == segment.raw_bytes
    assert cli("cat", "plain").stdout == lines(values)
    assert cli("compress", "log").stdout == b"0 segments compressed, 0 bytes to 0\n"


# sweep, trim


def test_sweep_says_what_would_go_and_then_takes_just_that(cli, path, values):
    before = files_of(path)
    would = json.loads(cli("sweep", "log", "--records", 90, "--dry-run", "--json").stdout)
    assert files_of(path) == before
    assert would["dry_run"] is True
    assert {tuple(segment["reasons"]) for segment in would["segments"]} == {("records",)}
    text = cli("sweep", "log", "--records", 90, "--dry-run").stdout.decode()
    assert text.count("would go: ") == len(would["segments"]) > 1
    did = json.loads(cli("sweep", "log", "--records", 90, "--json").stdout)
    assert did == {**would, "dry_run": False}
    start = did["start_offset"]
    assert 200 - start <= 90 < 200 - did["segments"][-1]["base_offset"]
    assert cli("cat", "log").stdout == lines(values[start:])
    again = cli("sweep", "log", "--records", 90).stdout.decode()
    assert again == f"0 segments, 0 records, 0 bytes went; log start offset {start}\n"


def test_sweep_keeps_what_a_consumer_needs_if_told_so(cli, path, values):
    with segstore.open(path, "r") as log, log.consumer("slow") as consumer:
        consumer.poll(10)
        consumer.commit()
    held = json.loads(
        cli("sweep", "log", "--size", "5KiB", "--wait-for-consumers", "--json").stdout
    )
    assert held["held_by"] == ["slow"]
    assert held["start_offset"] <= 10
    lost = json.loads(cli("sweep", "log", "--size", "5KiB", "--json").stdout)
    assert lost["lost_by_consumer"] == {"slow": lost["start_offset"] - 10}


def test_sweep_by_age_goes_by_the_time_of_the_append(cli, path, values):
    # The records say 1970; they were appended just now.
    assert json.loads(cli("sweep", "log", "--age", "1h", "--json").stdout)["segments"] == []
    assert cli("cat", "log").stdout == lines(values)
    cli("sweep", "log", "--age", "soon", expect=2)
    cli("sweep", "log", "--size", "64M", expect=2)


def test_trim_takes_the_head_by_offset_or_time(cli, path, values):
    assert cli("trim", "log", 37).stdout == b"37 records removed; log start offset 37\n"
    assert cli("cat", "log").stdout == lines(values[37:])
    done = cli("trim", "log", "--before-time", "1000099.5")
    assert done.stdout == b"63 records removed; log start offset 100\n"
    assert cli("get", "log", 100).stdout == values[100] + b"\n"
    cli("get", "log", 99, expect=1)
    cli("trim", "log", 99, expect=1)
    cli("trim", "log", 201, expect=1)
    cli("trim", "log", expect=2)
    cli("trim", "log", 150, "--before-time", "1000150", expect=2)
    assert cli("trim", "log", 200).stdout == b"100 records removed; log start offset 200\n"
    assert cli("cat", "log").stdout == b""
    assert cli("append", "log", stdin=b"next\n").stdout == b"200..200\n"


# consumers


def test_consumers_are_listed_and_removed(cli, path):
    assert json.loads(cli("consumers", "log", "--json").stdout) == []
    with segstore.open(path, "r") as log:
        for name, count in (("fast", 150), ("slow", 20)):
            with log.consumer(name) as consumer:
                consumer.poll(count)
                consumer.commit()
    assert json.loads(cli("consumers", "log", "--json").stdout) == [
        {"name": "fast", "committed": 150, "lag": 50, "lost_count": 0},
        {"name": "slow", "committed": 20, "lag": 180, "lost_count": 0},
    ]
    table = [line.split() for line in cli("consumers", "log").stdout.splitlines()]
    assert table[1:] == [[b"fast", b"150", b"50", b"0"], [b"slow", b"20", b"180", b"0"]]
    with segstore.open(path, "r") as log, log.consumer("slow"):
        assert b"slow" in cli("consumers", "log", "--remove", "slow", expect=1).stderr
    cli("consumers", "log", "--remove", "slow")
    assert b"slow" in cli("consumers", "log", "--remove", "slow", expect=1).stderr
    assert b"slow" not in cli("consumers", "log").stdout
    cli("consumers", "log", "--remove", "../slow", expect=2)


def test_a_consumer_is_removed_beside_a_running_writer_whose_retention_it_held_up(cli, path):
    keeping = {"retention_records": 10, "retention_waits_for_consumers": True}
    with segstore.open(path, segment_size="4KiB", sync_interval=0.01, **keeping) as log:
        log.consumer("abandoned").close()
        log.append_many([b"x" * 100] * 500)
        log.roll()
        assert log.sweep().held_by == ("abandoned",)
        assert log.start_offset == 0
        cli("consumers", "log", "--remove", "abandoned")
        deadline = time.monotonic() + 30
        while log.start_offset == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert log.start_offset > 0
        assert log.consumers() == ()


# repair


def test_repair_has_nothing_to_do_on_an_intact_log(cli, path):
    before = files_of(path)
    assert cli("repair", "log").stdout == NOTHING
    assert files_of(path) == before


def test_repair_makes_lost_indexes_anew(cli, path, values):
    with segstore.open(path, "r") as log:
        sealed = [segment.path for segment in log.segments() if segment.state == "sealed"]
    indexes = [segment.removesuffix(".log") + ".index" for segment in sealed[:3]]
    os.unlink(indexes[0])
    with segstore.open(path, "r") as log:
        assert [segment.state for segment in log.segments()].count("rolled") == 1
    with open(indexes[1], "r+b") as file:
        file.seek(70)
        file.write(b"\xff" * 30)
    with open(indexes[2], "r+b") as file:
        file.seek(200)
        file.write(b"\xff" * 30)
    before = files_of(path)
    named = [os.path.basename(index) for index in indexes]
    would = cli("repair", "log", "--dry-run").stdout.decode().splitlines()
    assert would == [f"would make {name} anew" for name in named]
    assert files_of(path) == before
    did = cli("repair", "log").stdout.decode().splitlines()
    assert did == [f"made {name} anew" for name in named]
    assert cli("repair", "log").stdout == NOTHING
    assert cli("cat", "log").stdout == lines(values)
    verdict = cli("verify", "log").stdout
    assert verdict.startswith(b"intact")


def test_repair_sets_damage_aside_and_keeps_the_rest(cli, path, values):
    segment = damage(path, 1)
    cli("verify", "log", expect=1)
    before = files_of(path)
    readable = cli("cat", "log", expect=1).stdout
    would = json.loads(cli("repair", "log", "--dry-run", "--json").stdout)
    assert files_of(path) == before
    assert would["dry_run"] is True
    assert [lost["path"].endswith(os.path.basename(segment.path)) for lost in would["lost"]]
    assert would["set_aside"] == []
    did = json.loads(cli("repair", "log", "--json").stdout)
    assert [lost["offsets"] for lost in did["lost"]] == [lost["offsets"] for lost in would["lost"]]
    assert len(did["set_aside"]) == 1
    assert (path / os.path.basename(did["set_aside"][0])).read_bytes()
    offsets = did["lost"][0]["offsets"]
    gone = range(offsets["start_offset"], offsets["end_offset"])
    assert 0 < len(gone) < 50
    kept = [value for number, value in enumerate(values) if number not in gone]
    assert readable == lines(kept)
    assert cli("cat", "log", expect=1).stdout == lines(kept)
    cli("get", "log", gone[0], expect=1)
    assert cli("repair", "log").stdout == NOTHING
    assert json.loads(cli("verify", "log", "--json", expect=1).stdout)["notes"] == []


# snapshot


def test_a_snapshot_of_a_live_log_holds_all_that_was_acknowledged(cli, path, values, tmp_path):
    writer = cli.start("append", "log")
    try:
        writer.stdin.write(b"live 0\nlive 1\n")
        writer.stdin.flush()
        wait_for(lambda: count_of(path) == 202)
        report = json.loads(cli("snapshot", "log", "copy", "--json").stdout)
        writer.stdin.write(b"later\n")
        said, _ = writer.communicate(timeout=PATIENCE_S)
    finally:
        writer.kill()
    assert said == b"200..202\n"
    assert (report["start_offset"], report["end_offset"]) == (0, 202)
    assert report["linked_count"] > 3
    assert cli("cat", "copy").stdout == lines([*values, b"live 0", b"live 1"])
    assert cli("verify", "copy").stdout.startswith(b"intact")
    assert cli("append", "copy", stdin=b"its own\n").stdout == b"202..202\n"
    assert cli("get", "log", 202).stdout == b"later\n"
    cli("snapshot", "log", "copy", expect=1)


# all of them


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "nowhere"),
        ("find", "nowhere", "k"),
        ("consumers", "nowhere"),
        ("snapshot", "nowhere", "copy"),
    ],
)
def test_commands_that_read_say_that_there_is_no_log(cli, tmp_path, arguments):
    done = cli(*arguments, expect=1)
    assert done.stderr.startswith(b"segstore: ")
    assert done.stdout == b""
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("roll", "log"),
        ("compress", "log"),
        ("sweep", "log"),
        ("trim", "log", "5"),
        ("repair", "log"),
    ],
)
def test_commands_that_change_a_log_wait_for_no_other_writer(cli, path, arguments):
    with segstore.open(path, **OPTIONS):
        done = cli(*arguments, expect=1)
    assert f"process {os.getpid()}".encode() in done.stderr


@pytest.mark.parametrize("command", ["roll", "compress", "sweep", "trim", "repair", "consumers"])
def test_commands_that_change_a_log_make_none_where_there_is_none(cli, tmp_path, command):
    options = {"trim": ["0"], "consumers": ["--remove", "x"]}.get(command, [])
    cli(command, "nowhere", *options, expect=1)
    assert not (tmp_path / "nowhere").exists()


def test_a_limit_of_0_on_the_command_line_counts(cli, path, monkeypatch):
    assert b"0 segments" not in cli("sweep", "log", "--size", 0, "--dry-run").stdout
    assert b"0 segments" in cli("sweep", "log", "--dry-run").stdout
    monkeypatch.setenv("SEGSTORE_RETENTION_SIZE", "1GiB")
    assert b"0 segments" not in cli("sweep", "log", "--size", 0, "--dry-run").stdout


@pytest.mark.parametrize("age", ["6M", "nan", "inf", "1000000000w", "-1h", "1:30"])
def test_an_age_that_is_none_is_wrong_usage(cli, path, age):
    cli("cat", "log", f"--since={age}", expect=2)
    cli("sweep", "log", f"--age={age}", expect=2)
    cli("tail", "log", "-f", f"--timeout={age}", expect=2)


def test_what_the_next_writer_cuts_is_said_before_and_then(cli, path):
    segment = max(path.glob("*.log"))
    with open(segment, "ab") as file:
        file.write(b"x" * 80)
    (cut,) = json.loads(cli("info", "log", "--json").stdout)["recovery"]["cut"]
    assert (cut["path"], cut["size_bytes"], cut["set_aside"]) == (f"log/{segment.name}", 80, None)
    assert b"80 bytes to cut from the end" in cli("info", "log").stdout
    verified = cli("verify", "log").stdout
    assert b"note: 80 bytes at byte" in verified
    assert b"\nintact" in verified
    assert segment.read_bytes().endswith(b"x" * 80)
    done = cli("sweep", "log", "--dry-run")
    assert b"80 bytes at byte" in done.stderr
    assert b".aside" in done.stderr
    assert json.loads(cli("info", "log", "--json").stdout)["recovery"]["was_clean"]


def test_damage_that_opening_finds_is_said_by_whoever_writes(cli, path, values):
    victim = sorted(path.glob("*.log"))[3]
    lost = json.loads(cli("segments", "log", "--json").stdout)[3]
    victim.unlink()
    said = cli("append", "log", "-", stdin=b"more\n").stderr.decode()
    assert f"offsets {lost['base_offset']}..{lost['end_offset'] - 1} can't be read" in said


def test_a_segment_without_a_readable_frame_has_no_times(cli, path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"x" * 3000] * 4)  # past the tail, which else may have it all
    victim = max(path.glob("*.log"))
    data = bytearray(victim.read_bytes())
    data[64:] = bytes(byte ^ 0xFF for byte in data[64:])
    victim.write_bytes(data)
    cli("roll", "log")
    found = json.loads(cli("segments", "log", "--json").stdout)
    (segment,) = [one for one in found if one["base_offset"] == int(victim.stem)]
    assert segment["min_timestamp"] is None
    assert segment["max_timestamp"] is None
