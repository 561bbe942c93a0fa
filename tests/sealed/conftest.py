import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_options_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SEGSTORE_") and name not in (
            "SEGSTORE_PURE",
            "SEGSTORE_FLOW_BYTES",
            "SEGSTORE_SEGMENT_COUNT",
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a log may be made."""
    return str(tmp_path / "log")
