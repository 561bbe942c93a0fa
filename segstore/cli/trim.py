"""`segstore trim`: remove the head of a log."""

from __future__ import annotations

import rich_click as click

from segstore.cli import output
from segstore.cli.reading import OFFSET
from segstore.cli.times import time_option
from segstore.cli.writing import open_existing


@click.command()
@click.argument("log", metavar="LOG")
@click.argument("before", metavar="[OFFSET]", type=OFFSET, required=False)
@click.option("--before-time", type=time_option, metavar="TIME",
              help="Up to the first record of this time or later.")  # fmt: skip
def trim(log: str, before: int | None, before_time: int | None) -> None:
    """Remove every record of LOG before OFFSET, at once and durably."""
    if (before is None) == (before_time is None):
        raise click.UsageError("say what to trim: an OFFSET or --before-time, one of them")
    with open_existing(log) as target:
        start = target.start_offset
        if before_time is not None:
            found = target.offset_for_time(before_time)
            before = target.end_offset if found is None else found
        assert before is not None
        target.trim(before)
        output.line(
            f"{target.start_offset - start} records removed; log start offset {target.start_offset}"
        )
