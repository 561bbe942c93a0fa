"""`segstore segments`: one line a segment."""

from __future__ import annotations

import os

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.times import format_time


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON array, one object a segment.")
def segments(log: str, is_json: bool) -> None:
    """Print the segments of LOG, oldest first."""
    with segstore.open(log, "r") as source:
        found = source.segments()
    if is_json:
        output.json_array(found)
        return
    output.table(
        ("file", "state", "first offset", "records", "bytes", "raw bytes", "oldest", "newest"),
        [
            (
                os.path.basename(segment.path),
                segment.state,
                str(segment.base_offset),
                str(segment.end_offset - segment.base_offset),
                str(segment.size_bytes),
                str(segment.raw_bytes),
                format_time(segment.min_timestamp),
                format_time(segment.max_timestamp),
            )
            for segment in found
        ],
        left=frozenset(("file", "state", "oldest", "newest")),
    )
