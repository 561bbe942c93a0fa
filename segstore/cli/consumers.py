"""`segstore consumers`: who reads a log, and how far."""

from __future__ import annotations

import rich_click as click

import segstore
from segstore.cli import output
from segstore.format.names import consumer_file

FAILED = 1


def consumer_name(text: str) -> str:
    """A name that a consumer can have, as the type of an option."""
    try:
        consumer_file(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return text


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--remove", type=consumer_name, metavar="NAME",
              help="Forget a consumer that nobody holds; retention stops waiting.")  # fmt: skip
@click.option("--json", "is_json", is_flag=True, help="Print a JSON array, one object a consumer.")
@click.pass_context
def consumers(ctx: click.Context, log: str, remove: str | None, is_json: bool) -> None:
    """Print the registered consumers of LOG: committed offset, lag, and records lost.

    Works, as does --remove, also while another process writes.
    """
    if remove is not None:
        with segstore.open(log, "r") as target:
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
