"""What `append` takes in, `cat` gives back byte for byte."""

import os
import random

import pytest

import segstore
from segstore.cli.lines import NO_NEWLINE_KEY

MIB = 1 << 20


def random_bytes(seed, size):
    return random.Random(seed).randbytes(size)


INPUTS = {
    "nothing": b"",
    "one newline": b"\n",
    "empty lines": b"\n\n\na\n\n",
    "no newline at the end": b"first\nlast",
    "one line without newline": b"x",
    "empty lines, then no newline": b"\n\n\nlast",
    "CRLF": b"one\r\ntwo\r\n\r\nthree\r\n",
    "CRLF, then no newline": b"one\r\ntwo\r",
    "other line ends": b"a\rb\x0bc\x0cd\x1ce\xc2\x85f\xe2\x80\xa8g\n",
    "no UTF-8": bytes(range(256)) * 20,
    "random bytes": random_bytes(1, 300_000),
    "zeros": bytes(10_000),
    "what looks like the mark": NO_NEWLINE_KEY + b"\nlast",
    "a long line": b"a\n" + b"x" * (3 * MIB + 5) + b"\nb\n" + b"y" * MIB,
    "lines around the block": b"x" * (MIB - 1) + b"\n" + b"y" * MIB + b"\n\n" + b"z" * (MIB + 1),
    "many lines": b"".join(b"line %d\n" % number for number in range(50_000)),
    "one empty line a byte": b"\n" * 100_000,
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_file_comes_back_byte_for_byte_across_small_segments(cli, tmp_path, name):
    data = INPUTS[name]
    (tmp_path / "input").write_bytes(data)
    done = cli("append", "log", "input", "--segment-size", "4KiB")
    count = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    assert done.stdout == (b"0..%d\n" % (count - 1) if count else b"")
    assert cli("cat", "log").stdout == data
    if len(data) > 100_000:
        assert len(list((tmp_path / "log").glob("*.log*"))) >= 3
    cli("verify", "log")


@pytest.mark.parametrize("name", ["CRLF, then no newline", "no UTF-8", "a long line"])
def test_stdin_comes_back_byte_for_byte(cli, name):
    data = INPUTS[name]
    cli("append", "log", stdin=data)
    assert cli("cat", "log").stdout == data
    cli("append", "other", "-", stdin=data)
    assert cli("cat", "other").stdout == data


def test_files_appended_one_after_another_come_back_as_one(cli):
    first, second, third = b"a\nb", b"c\n", b"\nd"
    for data, offsets in ((first, b"0..1"), (second, b"2..2"), (third, b"3..4")):
        assert cli("append", "log", stdin=data).stdout == offsets + b"\n"
    assert cli("cat", "log").stdout == first + second + third


def test_a_record_is_the_line_without_its_newline(cli, tmp_path):
    cli("append", "log", stdin=b"one\r\n\nlast")
    with segstore.open(tmp_path / "log", "r") as log:
        assert [(record.key, record.value) for record in log] == [
            (None, b"one\r"),
            (None, b""),
            (NO_NEWLINE_KEY, b"last"),
        ]


def test_records_of_other_programs_get_a_newline_each(cli, tmp_path):
    with segstore.open(tmp_path / "log") as log:
        log.append(b"a")
        log.append(b"b", key=b"")
        log.append(b"c", key=b"key")
    assert cli("cat", "log").stdout == b"a\nb\nc\n"
    assert cli("cat", "log", "--raw").stdout == b"abc"


@pytest.mark.parametrize("batch_lines", [1, 7, 100_000])
def test_the_batch_size_changes_nothing(cli, batch_lines):
    data = b"".join(b"line %d\n" % number for number in range(500)) + b"end"
    cli("append", "log", "--batch-lines", batch_lines, stdin=data)
    assert cli("cat", "log").stdout == data


def test_durable_appends_are_the_same_records(cli):
    data = b"one\ntwo"
    cli("append", "log", "--durable", stdin=data)
    assert cli("cat", "log").stdout == data


def test_a_line_of_the_size_limit_is_taken_and_one_byte_more_is_refused(cli):
    fits = b"x" * (16 * MIB)
    cli("append", "log", stdin=fits + b"\n")
    done = cli("append", "log", stdin=b"one\ntwo\n" + fits + b"x\nfour\n", expect=1)
    assert b"line 3 is longer than a record can be (16777216 bytes)" in done.stderr
    assert done.stdout == b"1..2\n"
    assert cli("cat", "log").stdout == fits + b"\none\ntwo\n"


def test_an_endless_line_is_refused_without_reading_it_all(cli):
    with open("/dev/zero", "rb") as zeros:
        process = cli.start("append", "log", stdin=zeros)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"line 1 is longer" in words


@pytest.mark.skipif("TEST_LOGS_DIRECTORY" not in os.environ, reason="names a directory of logs")
def test_real_logs_come_back_byte_for_byte(cli):
    directory = os.environ["TEST_LOGS_DIRECTORY"]
    for number, name in enumerate(sorted(os.listdir(directory))):
        path = os.path.join(directory, name)
        cli("append", f"log{number}", path, "--segment-size", "4KiB")
        with open(path, "rb") as file:
            assert cli("cat", f"log{number}").stdout == file.read(), name
