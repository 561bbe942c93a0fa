"""`segstore repair`: new indexes, and damaged bytes out of the way."""

from __future__ import annotations

import rich_click as click

from segstore.cli import output
from segstore.cli.writing import open_existing


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--dry-run", is_flag=True, help="Repair nothing, and print what would be done.")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object.")
def repair(log: str, dry_run: bool, is_json: bool) -> None:
    """Make missing or damaged indexes of LOG anew, and set damaged bytes aside.

    What can be read stays readable; offsets that are lost stay lost. The active segment is left
    alone until it is rolled. Opening LOG recovers its end first, as every writer does; with
    --dry-run that is all that changes.
    """
    with open_existing(log, compression=None) as target:
        report = target.repair(dry_run=dry_run)
        recovery = target.recovery
    if is_json:
        output.json_line({"recovery": recovery, **report._asdict()})
        return
    for name in report.indexes:
        output.line(f"{'would make' if dry_run else 'made'} {name} anew")
    for lost in report.lost:
        verb = "would set aside" if dry_run else "set aside"
        output.line(f"{verb} damage in {output.damage(lost)} are lost")
    for path in report.set_aside:
        output.line(f"kept the damaged bytes in {path}")
    if not (report.indexes or report.lost):
        output.line(
            "nothing to repair in the sealed segments; `segstore roll` seals the active one"
        )
