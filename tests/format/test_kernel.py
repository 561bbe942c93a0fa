import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("pure", ["0", "1"])
def test_without_the_gil_the_engine_is_refused_and_the_error_says_how_to_turn_it_on(pure):
    # Also with the kernel, which turns it on unless PYTHON_GIL=0 has forbidden that.
    code = "import sys; sys._is_gil_enabled = lambda: False; import segstore; segstore.open"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "SEGSTORE_PURE": pure},
    )
    assert done.returncode == 1
    assert "ImportError: segstore needs the GIL" in done.stderr
    assert "PYTHON_GIL=1" in done.stderr
