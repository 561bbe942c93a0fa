"""`segstore compress`: swap sealed segments for compressed ones."""

from __future__ import annotations

import sys

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.writing import open_existing


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--codec", type=click.Choice(("lz4", "lz4hc")), default="lz4", show_default=True,
              help="lz4hc is slower to write and smaller.")  # fmt: skip
@click.option(
    "--roll", "rolls", is_flag=True, help="Roll first, so that every record is compressed."
)
def compress(log: str, codec: str, rolls: bool) -> None:
    """Compress every sealed segment of LOG; prints how many, and the bytes before and after.

    `lz4 -d` turns each compressed file back into a plain segment.
    """
    with open_existing(log, compression=codec) as target:
        if rolls:
            target.roll()
        before = {
            s.base_offset: s.size_bytes
            for s in target.segments()
            if s.state in ("rolled", "sealed")  # the first are sealed by the same call
        }
        if sys.stderr.isatty() and before:
            count = _with_progress(target, len(before))
        else:
            count = target.compress()
        after = {s.base_offset: s.size_bytes for s in target.segments() if s.state == "compressed"}
        swapped = before.keys() & after.keys()
        raw = sum(before[base_offset] for base_offset in swapped)
        output.line(f"{count} segments compressed, {raw} bytes to {sum(after[b] for b in swapped)}")


def _with_progress(target: segstore.Log, total: int) -> int:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compress", total=total)
        return target.compress(lambda done, in_all: bar.update(task, completed=done, total=in_all))
