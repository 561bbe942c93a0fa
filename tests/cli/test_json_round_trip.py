"""What `cat --json` prints, `append --json` takes in: keys, timestamps and bytes of any kind."""

import base64
import json
import time

import pytest

import segstore
from segstore.cli.lines import NO_NEWLINE_KEY

MIB = 1 << 20
RECORDS = [
    (b"plain", None, 1_700_000_000_123_456_789),
    (b"", b"", 0),
    (b"two\nlines\tand a tab", b"key\t1", -1),
    (bytes(range(256)), bytes(range(255, -1, -1)), 2**63 - 1),
    ("ä\u2028\U0001f600\0".encode(), "ключ".encode(), -(2**62)),
    (b'{"value": "nested"}', b"null", 5),
    (b"the end", NO_NEWLINE_KEY, 7),
]


def records_of(path):
    with segstore.open(path, "r") as log:
        return [(record.value, record.key, record.timestamp) for record in log]


@pytest.fixture
def printed(cli, tmp_path):
    with segstore.open(tmp_path / "log") as log:
        for value, key, timestamp in RECORDS:
            log.append(value, key=key, timestamp=timestamp)
    return cli("cat", "log", "--json").stdout


@pytest.mark.parametrize("batch_lines", [1, 3, 100])
def test_every_record_comes_back_with_its_key_and_its_timestamp(
    cli, tmp_path, printed, batch_lines
):
    done = cli("append", "copy", "--json", "--batch-lines", batch_lines, stdin=printed)
    assert done.stdout == b"0..6\n"
    assert records_of(tmp_path / "copy") == RECORDS
    assert cli("cat", "copy", "--json").stdout == printed


def test_what_a_line_leaves_out_is_as_without_json(cli, tmp_path):
    before = time.time_ns()
    lines = (
        b'{"value": "a"}\n{"value": "b", "key": null, "timestamp": null}\n{"value":"c","key":"k"}'
    )
    assert cli("append", "log", "--json", stdin=lines).stdout == b"0..2\n"
    (a, b, c) = records_of(tmp_path / "log")
    assert [a[:2], b[:2], c[:2]] == [(b"a", None), (b"b", None), (b"c", b"k")]
    assert all(before <= record[2] <= time.time_ns() for record in (a, b, c))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"plain text", b"it is no JSON: Expecting value at column 1;"),
        (b'{"value": x}', b"it is no JSON: Expecting value at column 11;"),
        (b"", b"Expecting value"),
        (b"[1]", b"no JSON object"),
        (b"{}", b"no 'value'"),
        (b'{"msg": "x"}', b"no 'msg'"),
        (b'{"value": 5}', b"'value' is text, not 5"),
        (b'{"value": "x", "key": ["k"]}', b"'key' is text"),
        (b'{"value": "x", "value_base64": "eA=="}', b"both 'value' and 'value_base64'"),
        (b'{"value_base64": "eA"}', b"'value_base64' is no base64: Incorrect padding"),
        (b'{"value": "", "key_base64": "e"}', b"'key_base64' is no base64"),
        (b'{"value_base64": 7}', b"'value_base64' is text, not 7"),
        (b'{"value_base64": "\xc3\xa4"}', b"ASCII"),
        (b'{"value": "\\ud800"}', b"surrogates"),
        (b'{"value": "x", "timestamp": "2026-01-01"}', b"int of ns"),
        (b'{"value": "x", "timestamp": 1.5}', b"int of ns"),
        (b'{"value": "x", "timestamp": true}', b"int of ns"),
        (b'{"value": "x", "timestamp": 9223372036854775808}', b"64 bits"),
        (b'{"value": "x", "timestamp": ' + b"9" * 5000 + b"}", b"digits"),
        (b"[" * 100_000, b"while decoding a JSON array"),
        (b'{"value": "\xff"}', b"utf-8"),
    ],
)
def test_a_line_that_is_no_record_ends_the_command_and_is_named(cli, tmp_path, line, reason):
    lines = b'{"value": "a"}\n{"value": "b"}\n' + line + b'\n{"value": "c"}\n'
    done = cli("append", "log", "--json", stdin=lines, expect=1)
    assert b"segstore: line 3 is no record: " in done.stderr
    assert reason in done.stderr
    assert b"the lines before it were appended (2)" in done.stderr
    assert done.stdout == b"0..1\n"
    assert [record[0] for record in records_of(tmp_path / "log")] == [b"a", b"b"]


def test_a_record_of_the_size_limit_is_taken_and_one_byte_more_is_refused(cli, tmp_path):
    # The longest that such lines get.
    fits = json.dumps({"value": "\x01" * (16 * MIB - 1), "key": "k"}).encode()
    cli("append", "log", "--json", stdin=fits)
    assert len(records_of(tmp_path / "log")[0][0]) == 16 * MIB - 1
    coded = base64.b64encode(b"\xff" * (16 * MIB)).decode()
    over = json.dumps({"value_base64": coded, "key": "k"}).encode()
    done = cli("append", "log", "--json", stdin=over, expect=1)
    assert b"line 1 is no record: it has 16777217 bytes, of at most 16777216" in done.stderr


def test_an_endless_line_is_refused_without_reading_it_all(cli):
    with open("/dev/zero", "rb") as zeros:
        process = cli.start("append", "log", "--json", stdin=zeros)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"line 1 is longer than a record can be" in words
