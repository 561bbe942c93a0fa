"""Everything here runs the installed command in processes of their own."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

INSTALLED = Path(sysconfig.get_path("scripts")) / "segstore"
COMMAND = [str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "segstore.cli"]


class Cli:
    """Runs `segstore` in a directory of its own."""

    def __init__(self, directory):
        self.directory = directory

    def __call__(self, *arguments, stdin=b"", expect=0, env=None):
        """The finished process; it may never end in a traceback."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=self.directory,
            timeout=120,
            env=env,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert done.returncode == expect, (done.returncode, done.stderr.decode())
        return done

    def start(self, *arguments, **options):
        """A process that the caller ends; pipes unless said otherwise."""
        for name in ("stdin", "stdout", "stderr"):
            options.setdefault(name, subprocess.PIPE)
        return subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=self.directory, **options)

    def damage(self, segment, position, data=b"\xff" * 8):
        """Overwrite bytes of a segment file."""
        with open(segment, "r+b") as file:
            file.seek(position)
            file.write(data)


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path)
