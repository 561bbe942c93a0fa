"""`segstore sweep`: one pass of retention."""

from __future__ import annotations

import os
from typing import Any

import rich_click as click

from segstore.cli import output
from segstore.cli.append import size_option
from segstore.cli.times import age_option
from segstore.cli.writing import open_existing


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--age", "retention_age", type=age_option, metavar="AGE",
              help="Remove what was appended longer ago, as 7d.")  # fmt: skip
@click.option("--size", "retention_size", type=size_option, metavar="SIZE",
              help="Remove the oldest while the log has more bytes, as 10GiB.")  # fmt: skip
@click.option("--records", "retention_records", type=click.IntRange(min=1),
              help="Remove the oldest while the log has more records.")  # fmt: skip
@click.option("--wait-for-consumers", "retention_waits_for_consumers", is_flag=True,
              help="Keep what a registered consumer has not committed.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Remove nothing, and print what would go.")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object.")
def sweep(log: str, dry_run: bool, is_json: bool, **policies: Any) -> None:
    """Remove the segments of LOG that the policies let go, oldest first.

    Only whole segments go, and never the active one. Policies can also come from
    SEGSTORE_RETENTION_AGE and the like.
    """
    # A flag that was not given must not stand above the environment.
    given = {
        name: value for name, value in policies.items() if value is not None and value is not False
    }
    with open_existing(log, **given) as target:
        report = target.sweep(dry_run=dry_run)
    if is_json:
        output.json_line(report)
        return
    for swept in report.segments:
        output.line(
            f"{'would go' if dry_run else 'gone'}: {os.path.basename(swept.path)} "
            f"{swept.base_offset}..{swept.end_offset - 1} ({', '.join(swept.reasons)}), "
            f"{swept.size_bytes} bytes"
        )
    for name, count in report.lost_by_consumer.items():
        output.line(f"consumer {name} loses {count} records")
    for name in report.held_by:
        output.line(f"consumer {name} holds back what else would go")
    verb = "would go" if dry_run else "went"
    output.line(
        f"{len(report.segments)} segments, {report.record_count} records, {report.size_bytes} "
        f"bytes {verb}; log start offset {report.start_offset}"
    )
