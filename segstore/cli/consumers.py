"""`segstore consumers`: who reads a log, and how far."""

from __future__ import annotations

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.writing import open_existing

FAILED = 1


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--remove", metavar="NAME", help="Forget a consumer; retention stops waiting for it.")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON array, one object a consumer.")
@click.pass_context
def consumers(ctx: click.Context, log: str, remove: str | None, is_json: bool) -> None:
    """Print the registered consumers of LOG: committed offset, lag, and records lost."""
    if remove is not None:
        with open_existing(log) as target:
            if not target.remove_consumer(remove):
                output.complain(f"{log} has no consumer {remove!r}")
                ctx.exit(FAILED)
        return
    with segstore.open(log, "r") as source:
        found = source.consumers()
    if is_json:
        output.json_array(found)
        return
    output.table(
        ("name", "committed", "lag", "lost"),
        [(c.name, str(c.committed), str(c.lag), str(c.lost_count)) for c in found],
        left=frozenset(("name",)),
    )
