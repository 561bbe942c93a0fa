"""`segstore tail`: the last records, and those that come."""

from __future__ import annotations

import time
from collections.abc import Iterator

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.jsonrecords import as_json, json_lines
from segstore.cli.lines import as_line, join_lines
from segstore.cli.reading import DamageTally, say_gone
from segstore.cli.times import age_option

FAILED = 1
# How often to look whether anybody still reads what is printed.
LOOK_S = 0.5


@click.command()
@click.argument("log", metavar="LOG")
@click.option("-n", "--count", type=click.IntRange(min=0), default=10, show_default=True,
              help="Begin with so many of the last records.")  # fmt: skip
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on as records come.")
@click.option("--timeout", type=age_option, metavar="AGE",
              help="With -f: end when nothing came for so long.")  # fmt: skip
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def tail(
    ctx: click.Context,
    log: str,
    count: int,
    is_following: bool,
    timeout: float | None,
    is_json: bool,
) -> None:
    """Print the last records of LOG; with -f, also those that come, until interrupted.

    Records that retention removes, or that are damaged, are passed over and named on stderr.
    """
    if timeout is not None and not is_following:
        raise click.UsageError("--timeout says when to stop following; give -f as well")
    tally = DamageTally()
    with segstore.open(log, "r") as source:
        end = source.end_offset
        offsets = range(max(source.start_offset, end - count), end)
        convert = json_lines if is_json else join_lines
        for data in tally.converted(source, offsets, None, convert):
            output.write(data)
        if is_following:
            output.flush()
            _follow(source, end, timeout, is_json)
    if tally.record_count:
        ctx.exit(FAILED)


def _follow(source: segstore.Log, start: int, timeout: float | None, is_json: bool) -> None:
    wait_s = LOOK_S if timeout is None else min(timeout, LOOK_S)
    follower = source.follow(start, timeout=wait_s, errors="skip", on_lost="continue")
    lost_count = 0
    for record in _coming(follower, timeout):
        if follower.lost_count > lost_count:
            say_gone(follower.lost_count - lost_count, record.offset)
            lost_count = follower.lost_count
        if is_json:
            output.json_line(as_json(record))
        else:
            output.write(as_line(record))
        if follower.is_caught_up:
            output.flush()


def _coming(follower: segstore.Follower, timeout: float | None) -> Iterator[segstore.Record]:
    """The records as they come, until none did for the timeout or nobody reads the output."""
    last_at = time.monotonic()
    while not output.is_abandoned():
        for record in follower:
            yield record
            last_at = time.monotonic()
        if timeout is not None and time.monotonic() - last_at >= timeout:
            return
