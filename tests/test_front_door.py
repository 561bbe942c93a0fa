"""Each name of the package is there, and importing the package alone costs next to nothing."""

import subprocess
import sys

import pytest

import segstore


@pytest.mark.parametrize("name", segstore.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(segstore, name) is not None
    assert name in dir(segstore)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'append'"):
        _ = segstore.append  # type: ignore[attr-defined]


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
