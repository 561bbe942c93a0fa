"""`segstore cat`: records out."""

from __future__ import annotations

import time

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.jsonrecords import json_lines
from segstore.cli.lines import join_lines
from segstore.cli.reading import OFFSET, DamageTally
from segstore.cli.times import age_option, time_option
from segstore.format.batch import RecordBatch

FAILED = 1


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--from", "start", type=OFFSET, metavar="OFFSET", help="Start at this offset.")
@click.option("--to", "stop", type=OFFSET, metavar="OFFSET", help="Stop before this offset.")
@click.option(
    "--from-time",
    type=time_option,
    metavar="TIME",
    help="Start at the first record of this time or later.",
)
@click.option(
    "--to-time",
    type=time_option,
    metavar="TIME",
    help="Stop before the first record of this time or later.",
)
@click.option(
    "--since",
    type=age_option,
    metavar="AGE",
    help="Start at the first record that is not older than this, as 2h.",
)
@click.option("-n", "--count", type=click.IntRange(min=0), help="Print at most so many records.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--raw", is_flag=True, help="Print the values with nothing in between.")
@click.pass_context
def cat(
    ctx: click.Context,
    log: str,
    start: int | None,
    stop: int | None,
    from_time: int | None,
    to_time: int | None,
    since: float | None,
    count: int | None,
    is_json: bool,
    raw: bool,
) -> None:
    """Print the records of LOG, each with a newline behind.

    Prints what `segstore append` took in, byte for byte. Reads up to the end as it is when the
    command starts, also while another process writes. Damaged records are left out, named on
    stderr, and make the exit code 1. So is what retention removes meanwhile, without that code.
    """
    if sum(option is not None for option in (start, from_time, since)) > 1:
        raise click.UsageError(
            "--from, --from-time and --since all say where to start; give one of them"
        )
    if since is not None:
        from_time = time.time_ns() - int(since * 1e9)
    if stop is not None and to_time is not None:
        raise click.UsageError("--to and --to-time both say where to stop; give one of them")
    if raw and is_json:
        raise click.UsageError("--raw and --json are two ways to print; give one of them")
    tally = DamageTally()
    with segstore.open(log, "r") as source:
        end = source.end_offset
        if from_time is not None:
            found = source.offset_for_time(from_time)
            start = end if found is None else found
        if to_time is not None:
            stop = source.offset_for_time(to_time)
        if start is None:
            start = source.start_offset
        else:  # the log itself checks it, where an empty range would pass it by
            source.batches(start, start)
        offsets = range(start, end if stop is None else min(stop, end))
        convert = json_lines if is_json else _values if raw else join_lines
        for data in tally.converted(source, offsets, count, convert):
            output.write(data)
    if tally.record_count:
        ctx.exit(FAILED)


def _values(batch: RecordBatch) -> bytes:
    return b"".join(batch.values())
