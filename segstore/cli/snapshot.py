"""`segstore snapshot`: a consistent copy of a live log."""

from __future__ import annotations

import rich_click as click

import segstore
from segstore.cli import output
from segstore.errors import in_words


@click.command()
@click.argument("log", metavar="LOG")
@click.argument("target", metavar="PATH")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object.")
def snapshot(log: str, target: str, is_json: bool) -> None:
    """Copy LOG to the new directory PATH, also while another process writes to it.

    Sealed segments are hard links where PATH is on the same file system.
    """
    with segstore.open(log, "r") as source:
        report = source.snapshot(target)
    if is_json:
        output.json_line(report)
        return
    output.line(
        f"{report.path}: {in_words(report.start_offset, report.end_offset)}, "
        f"{report.linked_count} files linked, {report.copied_bytes} bytes copied"
    )
