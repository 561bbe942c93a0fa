"""Records as JSON, one object a line, and back: the one place that says which members there are.

Text is text; bytes that are no UTF-8 are base64 under another name. So every record goes through,
with its key and its timestamp; only its offset is for the log to give.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from segstore.format.batch import Record, RecordBatch
from segstore.format.framelayout import RECORD_BYTES_MAX
from segstore.log.arguments import checked_timestamp

MEMBERS = {"offset", "timestamp", "key", "key_base64", "value", "value_base64"}
# Of a record of one-byte characters that JSON escapes, which takes six each.
LINE_BYTES_MAX = 6 * RECORD_BYTES_MAX + 4096


class Columns(NamedTuple):
    """What `append_many` takes of some lines; `reason` says why the next one is no record."""

    values: Sequence[bytes]
    keys: Sequence[bytes | None] | None = None
    timestamps: Sequence[int] | None = None
    reason: str | None = None


def as_json(record: Record) -> dict[str, Any]:
    """One record for JSON; bytes that are no UTF-8 go as base64 under another name."""
    found: dict[str, Any] = {"offset": record.offset, "timestamp": record.timestamp}
    for name, data in (("key", record.key), ("value", record.value)):
        try:
            found[name] = None if data is None else data.decode()
        except UnicodeDecodeError:
            found[f"{name}_base64"] = base64.b64encode(data or b"").decode()
    return found


def json_lines(batch: RecordBatch) -> bytes:
    """A batch as JSON, one object a line."""
    return "".join(json.dumps(as_json(record)) + "\n" for record in batch.records()).encode()


def columns_of(lines: Sequence[bytes]) -> Columns:
    """The records of lines as `json_lines` makes them, up to the first that is none."""
    now = time.time_ns()
    values: list[bytes] = []
    keys: list[bytes | None] = []
    timestamps: list[int] = []
    reason = None
    for line in lines:
        try:
            found = _loaded(line)
            if not isinstance(found, dict):
                raise ValueError("it is no JSON object")
            if unknown := found.keys() - MEMBERS:
                raise ValueError(f"a record has no {min(unknown)!r}")
            value, key = _bytes_of(found, "value"), _bytes_of(found, "key")
            if value is None:
                raise ValueError("it has no 'value'")
            size_bytes = len(value) + len(key or b"")
            if size_bytes > RECORD_BYTES_MAX:
                raise ValueError(f"it has {size_bytes} bytes, of at most {RECORD_BYTES_MAX}")
            timestamp = found.get("timestamp")
            if timestamp is not None:
                checked_timestamp(timestamp)
        except (ValueError, TypeError, RecursionError) as error:
            reason = str(error)
            break
        values.append(value)
        keys.append(key)
        timestamps.append(now if timestamp is None else timestamp)
    return Columns(values, keys, timestamps, reason)


def _loaded(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except json.JSONDecodeError as error:  # whose own words count every line as the first
        raise ValueError(f"it is no JSON: {error.msg} at column {error.colno}") from None


def _bytes_of(found: dict[str, Any], name: str) -> bytes | None:
    coded_name = f"{name}_base64"
    text, coded = found.get(name), found.get(coded_name)
    for member, given in ((name, text), (coded_name, coded)):
        if not isinstance(given, str | None):
            raise ValueError(f"{member!r} is text, not {json.dumps(given)[:40]}")
    if text is not None and coded is not None:
        raise ValueError(f"it has both {name!r} and {coded_name!r}")
    if coded is not None:
        try:
            return base64.b64decode(coded, validate=True)
        except ValueError as error:
            raise ValueError(f"{coded_name!r} is no base64: {error}") from None
    return None if text is None else text.encode()
