"""`segstore roll`: start a new segment."""

from __future__ import annotations

import rich_click as click

from segstore.cli import output
from segstore.cli.writing import open_existing


@click.command()
@click.argument("log", metavar="LOG")
def roll(log: str) -> None:
    """Seal the active segment of LOG and start a new one; an empty one stays."""
    with open_existing(log) as target:
        rolled = target.roll()
        base_offset = target.segments()[-1].base_offset
    output.line(
        f"rolled; the active segment starts at offset {base_offset}"
        if rolled
        else f"nothing to roll; the active segment at offset {base_offset} is empty"
    )
