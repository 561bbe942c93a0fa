"""`segstore get`: one record."""

from __future__ import annotations

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.jsonrecords import as_json
from segstore.cli.lines import as_line
from segstore.cli.reading import OFFSET


@click.command()
@click.argument("log", metavar="LOG")
@click.argument("offset", metavar="OFFSET", type=OFFSET)
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object.")
@click.option("--raw", is_flag=True, help="Print the value with nothing behind.")
def get(log: str, offset: int, is_json: bool, raw: bool) -> None:
    """Print the record of LOG at OFFSET, with a newline behind."""
    if raw and is_json:
        raise click.UsageError("--raw and --json are two ways to print; give one of them")
    with segstore.open(log, "r") as source:
        record = source[offset]
    if is_json:
        output.json_line(as_json(record))
    else:
        output.write(record.value if raw else as_line(record))
