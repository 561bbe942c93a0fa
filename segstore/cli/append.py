"""`segstore append`: lines in, offsets out."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import rich_click as click

import segstore
from segstore.cli import output
from segstore.cli.jsonrecords import LINE_BYTES_MAX, Columns, columns_of
from segstore.cli.lines import NO_NEWLINE_KEY, LineTooLongError, split_lines
from segstore.cli.writing import open_any
from segstore.config import parse_size
from segstore.errors import SegstoreError
from segstore.format.framelayout import RECORD_BYTES_MAX

BATCH_LINES = 16_384
FAILED = 1


class _NoRecordError(Exception):
    """A line of JSON is no record."""


def size_option(text: str) -> int:
    """`parse_size` as the type of an option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("log", metavar="LOG")
@click.argument("file", metavar="[FILE]", default="-")
@click.option("--durable", is_flag=True, help="Let every batch survive power loss before the next.")
@click.option(
    "--segment-size",
    type=size_option,
    metavar="SIZE",
    help="Roll before a segment grows over this, as 64MiB.",
)
@click.option(
    "--batch-lines",
    type=click.IntRange(min=1),
    default=BATCH_LINES,
    show_default=True,
    help="Append at most so many lines at once.",
)
@click.option(
    "--json", "is_json", is_flag=True, help="Take one JSON object a line, as cat --json prints it."
)
@click.pass_context
def append(
    ctx: click.Context,
    log: str,
    file: str,
    durable: bool,
    segment_size: int | None,
    batch_lines: int,
    is_json: bool,
) -> None:
    """Append the lines of FILE, or of stdin, to LOG, which is created if there is none.

    A record is a line without its newline, or with --json the value, key and timestamp that the
    line gives. Prints the offsets the lines got, first and last, as FIRST..LAST; nothing for an
    input without lines. Lines are appended as they arrive, so this also works behind `tail -f`.
    """
    options: dict[str, Any] = {}
    if segment_size is not None:
        options["segment_size"] = segment_size
    level: Any = "durable" if durable else None
    descriptor = _open_input(file)
    first: int | None = None
    end = line_count = 0
    try:
        with open_any(log, **options) as target, _progress(descriptor) as advance:
            first = end = target.end_offset
            limit_bytes = LINE_BYTES_MAX if is_json else RECORD_BYTES_MAX
            for batch in split_lines(lambda size: _read(descriptor, size, file), limit_bytes):
                lines = batch.lines
                keys = None if batch.is_ended else [NO_NEWLINE_KEY]
                for start in range(0, len(lines), batch_lines):
                    part = lines[start : start + batch_lines]
                    found = columns_of(part) if is_json else Columns(part, keys)
                    end = target.append_many(
                        found.values,
                        keys=found.keys,
                        timestamps=found.timestamps,
                        durability=level,
                    ).stop
                    line_count += len(found.values)
                    if found.reason is not None:
                        raise _NoRecordError(f"is no record: {found.reason}")
                advance(batch.size_bytes)
    except (LineTooLongError, _NoRecordError) as error:
        output.complain(
            f"line {line_count + 1} {error}; the lines before it were appended ({line_count}), it "
            f"and what follows were not"
        )
        ctx.exit(FAILED)
    except BaseException:
        # What a failure or Ctrl-C interrupted may have left lines that nobody told of yet.
        if first is not None:
            with suppress(SegstoreError), segstore.open(log, "r") as reader:
                end = max(end, reader.end_offset)
        raise
    finally:
        # An input that is started again has to go on behind these.
        if first is not None and end > first:
            output.line(f"{first}..{end - 1}")
        if descriptor != 0:
            os.close(descriptor)


def _open_input(file: str) -> int:
    """A descriptor of the input, before any log is made for it."""
    descriptor = 0 if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), _name_of(file))
    _read(descriptor, 0, file)
    return descriptor


def _read(descriptor: int, size: int, file: str) -> bytes:
    try:
        return os.read(descriptor, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, _name_of(file)) from None


def _name_of(file: str) -> str:
    return "stdin" if file == "-" else file


@contextmanager
def _progress(descriptor: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal; what it gives is called with the bytes read."""
    status = os.fstat(descriptor)
    if not sys.stderr.isatty() or stat.S_ISCHR(status.st_mode):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    total = status.st_size if stat.S_ISREG(status.st_mode) else None
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("append", total=total)
        yield lambda size_bytes: progress.advance(task, size_bytes)
