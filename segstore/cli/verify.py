"""`segstore verify`: whether every record can be read."""

from __future__ import annotations

import rich_click as click

import segstore
from segstore.cli import output

DAMAGED = 1


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def verify(ctx: click.Context, log: str, is_json: bool) -> None:
    """Check every byte of every segment of LOG, and change nothing.

    The exit code is 0 if every record can be read, and 1 if there is damage.
    """
    with segstore.open(log, "r") as source:
        report = source.verify()
        offsets = range(source.start_offset, source.end_offset)
    if is_json:
        output.json_line({"is_intact": report.is_intact, **report._asdict()})
    else:
        for lost in report.lost:
            output.line(f"DAMAGE {output.damage(lost)} can't be read")
        for note in report.notes:
            output.line(f"note: {note}")
        lost_count = sum(len(lost.offsets) for lost in report.lost)
        verdict = "intact" if report.is_intact else f"DAMAGED, {lost_count} records lost"
        output.line(
            f"{verdict}: {report.record_count} records read, {report.size_bytes} bytes of "
            f"segments checked, log start offset {offsets.start}, log end offset {offsets.stop}"
        )
    if not report.is_intact:
        ctx.exit(DAMAGED)
