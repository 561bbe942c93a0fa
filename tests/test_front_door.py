"""Each name of the package is there, and importing the package alone costs next to nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import segstore
from segstore.config import LogConfig


@pytest.mark.parametrize("name", segstore.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(segstore, name) is not None
    assert name in dir(segstore)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'append'"):
        _ = segstore.append  # type: ignore[attr-defined]


def test_another_system_is_refused_by_name() -> None:
    code = (
        "import sys; sys.platform = 'darwin'\nimport segstore\n"
        "try: segstore.open\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "segstore runs on Linux only, and this is darwin\n"


def test_the_engine_is_imported_with_the_first_name_of_it() -> None:
    code = (
        "import sys, segstore; before = {m for m in sys.modules if m.startswith('segstore.')}; "
        "segstore.open; print(sorted(before), 'segstore.log.log' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_importing_compiles_no_annotation() -> None:
    # The first `compile` of a process sets up the whole of `ast`, about a millisecond.
    code = (
        "import typing, segstore; typing.compile = None; "
        "[getattr(segstore, name) for name in segstore.__all__]; print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr


def test_type_checkers_know_the_options(tmp_path: Path) -> None:
    given = ", ".join(f"{name}={value!r}" for name, value in LogConfig()._asdict().items())
    (tmp_path / "program.py").write_text(
        f"import segstore\nsegstore.open('log', {given})\n"
        "segstore.open('log', segment_size='64MiB', retention_age='7d')\n"
        "segstore.open('log', segment_sise=1)\nsegstore.open('log', background='no')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "program.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(segstore.__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    said = [line.split(": ") for line in done.stdout.splitlines()]
    lines = [words[0] for words in said if words[0].startswith("program.py") and "error" in words]
    assert lines == ["program.py:4", "program.py:5"], done.stdout + done.stderr
