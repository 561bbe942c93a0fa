"""`segstore find`: records by key."""

from __future__ import annotations

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.jsonrecords import as_json
from segstore.cli.lines import as_line
from segstore.cli.reading import OFFSET

FAILED = 1


@click.command()
@click.argument("log", metavar="LOG")
@click.argument("key", metavar="KEY")
@click.option("--hex", "is_hex", is_flag=True, help="KEY is given in hexadecimal.")
@click.option("--from", "start", type=OFFSET, metavar="OFFSET", help="Start at this offset.")
@click.option("--to", "stop", type=OFFSET, metavar="OFFSET", help="Stop before this offset.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def find(
    ctx: click.Context,
    log: str,
    key: str,
    is_hex: bool,
    start: int | None,
    stop: int | None,
    is_json: bool,
) -> None:
    """Print the records of LOG that have KEY, in order; sealed segments without it are not read.

    The exit code is 1 if damaged records had to be passed over.
    """
    try:
        wanted = bytes.fromhex(key) if is_hex else key.encode(errors="surrogateescape")
    except ValueError:
        raise click.UsageError(
            f"{key!r} is not hexadecimal; write two digits a byte, as 6b3a"
        ) from None
    with segstore.open(log, "r") as source:
        for record in source.find(wanted, start, stop, errors="skip"):
            if is_json:
                output.json_line(as_json(record))
            else:
                output.write(as_line(record))
        damaged = source.stats().damaged_records
    if damaged:
        output.complain(f"{damaged} damaged records were passed over; see segstore verify")
        ctx.exit(FAILED)
