"""The kernel's own tests look at the built extension even where SEGSTORE_PURE=1 hides it."""

import pytest


@pytest.fixture(scope="session")
def compiled():
    return pytest.importorskip(
        "segstore._kernel", reason="the C kernel was not built: there was no compiler"
    )
