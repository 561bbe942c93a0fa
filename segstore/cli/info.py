"""`segstore info`: what a log is and how it stands."""

from __future__ import annotations

from typing import Any

import rich_click as click

import segstore
from segstore.cli import output
from segstore.disk import OsDisk
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_INDEX,
    KIND_SEGMENT,
    KIND_TAIL,
    decode_file_header,
)
from segstore.format.names import LZ4_SUFFIX, RAW_SUFFIX, TAIL, parse_segment_file
from segstore.log.report import RecoveryReport


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object.")
def info(log: str, is_json: bool) -> None:
    """Print the offsets, size, checksum and state of LOG."""
    with segstore.open(log, "r") as source:
        stats = source.stats()
        recovery = source.recovery
        path = source.path
    facts: dict[str, Any] = {
        "path": path,
        "log_id": _log_id(path),
        "start_offset": stats.start_offset,
        "end_offset": stats.end_offset,
        "durable_offset": stats.durable_offset,
        "record_count": max(0, stats.end_offset - stats.start_offset),
        "segment_count": stats.segment_count,
        "size_bytes": stats.size_bytes,
        "checksum": stats.checksum,
        "kernel": stats.kernel,
        "tail": stats.tail,
        "recovery": recovery,
    }
    if is_json:
        output.json_line(facts)
        return
    facts["recovery"] = _in_words(recovery)
    facts["tail"] = "in use" if stats.tail else "none"
    for name, value in facts.items():
        output.line(f"{name.replace('_', ' '):<15} {'-' if value is None else value}")


def _log_id(path: str) -> str | None:
    """The id by the first file header that is intact; every file but a compressed one has it."""
    disk = OsDisk(path)
    try:
        for name in sorted(disk.names(), reverse=True):
            kind = _kind_of(name)
            if kind is not None and disk.size_of(name) is not None:
                header = decode_file_header(disk.open(name).read(FILE_HEADER_BYTES, 0), kind)
                if header is not None:
                    return header.log_id.hex()
    finally:
        disk.close()
    return None


def _kind_of(name: str) -> bytes | None:
    if name == TAIL:
        return KIND_TAIL
    segment = parse_segment_file(name)
    if segment is None or segment[1] == LZ4_SUFFIX:
        return None
    return KIND_SEGMENT if segment[1] == RAW_SUFFIX else KIND_INDEX


def _in_words(recovery: RecoveryReport) -> str:
    found = []
    if recovery.cut:
        found.append(f"{sum(cut.size_bytes for cut in recovery.cut)} bytes to cut from the end")
    if recovery.lost:
        found.append(f"{sum(len(lost.offsets) for lost in recovery.lost)} records damaged")
    if recovery.from_tail:
        found.append(f"{recovery.from_tail} records in the tail")
    if recovery.removed:
        found.append(f"{len(recovery.removed)} leftover files")
    if not found:
        return "nothing to do" if recovery.was_clean else "not closed"
    return ", ".join(found)
