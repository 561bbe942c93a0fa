"""Hypothesis profiles (``HYPOTHESIS_PROFILE=default|ci|long``) and the fixtures that all share."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "default", max_examples=60, deadline=None, print_blob=True, suppress_health_check=SLOW
)
settings.register_profile("ci", settings.get_profile("default"), max_examples=200)
settings.register_profile("long", settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A shell has what it runs in the background ignore Ctrl-C, and so would what is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_options_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SEGSTORE_") and name != "SEGSTORE_PURE":  # which is no option
            monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a log may be made."""
    return str(tmp_path / "log")
