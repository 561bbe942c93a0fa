"""`segstore dump`: one segment file, frame by frame."""

from __future__ import annotations

from typing import Any

import rich_click as click

from segstore.cli import output
from segstore.cli.segmentfile import SegmentFile
from segstore.cli.times import format_time
from segstore.format.framelayout import HAS_KEYS, HAS_TIMESTAMPS
from segstore.format.scanner import Damage, Frame

FAILED = 1


@click.command()
@click.argument("segment_file", metavar="SEGMENT_FILE")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def dump(ctx: click.Context, segment_file: str, is_json: bool) -> None:
    """Print every frame of SEGMENT_FILE, checked, and any damage between them.

    Takes a .log or .log.lz4 file by itself, without the rest of its log and under any name.
    Positions are those of the plain segment. Damage makes the exit code 1; the last bytes of a
    segment that is being written may look damaged for a moment.
    """
    file = SegmentFile(segment_file)
    header = {
        "path": segment_file,
        "is_compressed": file.is_compressed,
        "header_intact": file.header is not None,
        "base_offset": file.base_offset,
        "log_id": None if file.header is None else file.header.log_id.hex(),
        "created": None if file.header is None else file.header.created,
        "raw_bytes": file.source.size(),
    }
    if is_json:
        output.json_line({"header": header})
    else:
        _print_header(header)
    damage_count = 0 if file.header is not None else 1
    for event in file.events():
        if isinstance(event, Damage):
            damage_count += 1
        found = _facts(event)
        if is_json:
            output.json_line(found)
        else:
            output.line(" ".join(f"{name}={value}" for name, value in _in_words(found).items()))
    if damage_count:
        ctx.exit(FAILED)


def _print_header(header: dict[str, Any]) -> None:
    kind = "compressed segment" if header["is_compressed"] else "segment"
    output.line(f"{header['path']}: {kind} of {header['raw_bytes']} bytes")
    if header["header_intact"]:
        created = format_time(header["created"])
        output.line(
            f"base_offset={header['base_offset']} log_id={header['log_id']} created={created}"
        )
    else:
        output.line(f"header DAMAGED; base_offset={header['base_offset']} taken from the name")


def _facts(event: Frame | Damage) -> dict[str, Any]:
    if isinstance(event, Damage):
        return {
            "damage": event.reason,
            "position": event.position,
            "size_bytes": event.end_position - event.position,
            "offset": event.offset,
            "end_offset": event.end_offset,
            "lost": [[part.offset, part.end_offset] for part in event.lost],
        }
    header = event.batch.header
    columns = [
        name
        for bit, name in ((HAS_TIMESTAMPS, "timestamps"), (HAS_KEYS, "keys"))
        if header.attributes & bit
    ]
    return {
        "position": event.position,
        "size_bytes": event.size_bytes,
        "offset": event.batch.base_offset,
        "end_offset": event.batch.end_offset,
        "record_count": header.record_count,
        "append_time": header.append_time,
        "min_timestamp": header.min_timestamp,
        "max_timestamp": header.max_timestamp,
        "durable_offset": header.durable_offset,
        "columns": [*columns, "values"],
        "crc32c": f"{header.crc:08x}",
    }


def _in_words(found: dict[str, Any]) -> dict[str, Any]:
    """The same facts, shorter: offsets as FIRST..LAST, times as dates."""
    words: dict[str, Any] = {
        "position": found["position"],
        "bytes": found["size_bytes"],
    }
    if "damage" in found:
        end = found["end_offset"]
        words["DAMAGE"] = repr(found["damage"])
        last = "unknown" if end is None else end - 1
        words["offsets"] = "none" if end == found["offset"] else f"{found['offset']}..{last}"
        if found["lost"] != [[found["offset"], end]]:
            lost = (f"{start}..{stop - 1}" for start, stop in found["lost"] if stop > start)
            words["lost"] = ",".join(lost) or "none"
        return words
    words["offsets"] = f"{found['offset']}..{found['end_offset'] - 1}"
    words["appended"] = format_time(found["append_time"])
    words["oldest"] = format_time(found["min_timestamp"])
    words["newest"] = format_time(found["max_timestamp"])
    words["durable_below"] = found["durable_offset"]
    words["columns"] = ",".join(found["columns"])
    words["crc32c"] = f"{found['crc32c']}(ok)"
    return words
