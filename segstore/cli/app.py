"""The `segstore` command: which commands there are, and how each of them may end.

Exit codes: 0 done, 1 damage found or the operation failed, 2 wrong usage, 130 interrupted, 143
terminated.
A closed pipe is not a failure: whoever read the output has seen enough.
"""

from __future__ import annotations

import warnings
from typing import Any

import rich_click as click
from click.exceptions import Exit

from segstore.cli import output
from segstore.cli.append import append
from segstore.cli.cat import cat
from segstore.cli.compress import compress
from segstore.cli.consumers import consumers
from segstore.cli.dump import dump
from segstore.cli.find import find
from segstore.cli.get import get
from segstore.cli.info import info
from segstore.cli.repair import repair
from segstore.cli.roll import roll
from segstore.cli.segments import segments
from segstore.cli.snapshot import snapshot
from segstore.cli.sweep import sweep
from segstore.cli.tail import tail
from segstore.cli.trim import trim
from segstore.cli.verify import verify
from segstore.errors import ConfigError, LogLockedError, SegstoreError

FAILED = 1
INTERRUPTED = 130

# A new command is a file with the command's name, and its line here.
COMMANDS: tuple[click.Command, ...] = (
    append,
    cat,
    tail,
    get,
    find,
    info,
    segments,
    dump,
    verify,
    repair,
    roll,
    compress,
    sweep,
    trim,
    consumers,
    snapshot,
)


class Cli(click.RichGroup):
    """The group; it turns what a command raises into a message and an exit code."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Take in the arguments; --help and --version are answered here."""
        try:
            return super().make_context(*arguments, **options)
        except BrokenPipeError:
            output.discard()
            raise Exit(0) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _complain_of
                result = super().invoke(ctx)
            output.flush()
        except KeyboardInterrupt as interrupt:
            output.flush_quietly()
            ctx.exit(interrupt.args[0] if interrupt.args else INTERRUPTED)
        except BrokenPipeError:
            output.discard()
            ctx.exit(0)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        except (SegstoreError, OSError) as error:
            output.complain(_message(error))
            output.flush_quietly()
            ctx.exit(FAILED)
        return result


def _complain_of(message: Warning | str, *_: Any, **__: Any) -> None:
    """Where in the code a warning arose tells whoever uses a command nothing."""
    output.complain(str(message))


def _message(error: Exception) -> str:
    if isinstance(error, LogLockedError):
        return (
            f"the log is being written by {error.holder}; a log has one writer at a time. "
            f"Commands that only read work meanwhile."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="segstore")
def cli() -> None:
    """An embedded, segmented, append-only log in one directory, without a server.

    Data goes to stdout, everything else to stderr.
    """


for command in COMMANDS:
    cli.add_command(command)
