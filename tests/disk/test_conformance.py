"""Every disk that segstore brings passes the tests that it gives others."""

import pytest

from segstore.disk import OsDisk
from segstore.testing.conformance import DiskConformance
from segstore.testing.faulty import FaultyDisk
from segstore.testing.memory import MemoryDisk


class TestOsDisk(DiskConformance):
    @pytest.fixture
    def disk(self, path):
        return OsDisk(path, create=True)


class TestMemoryDisk(DiskConformance):
    @pytest.fixture
    def disk(self):
        return MemoryDisk()


class TestFaultyDiskAroundMemory(DiskConformance):
    @pytest.fixture
    def disk(self):
        return FaultyDisk(MemoryDisk())


class TestFaultyDiskAroundTheSystem(DiskConformance):
    @pytest.fixture
    def disk(self, path):
        return FaultyDisk(OsDisk(path, create=True))


class Forgetful(MemoryDisk):
    """A disk that breaks a rule: creating takes a name that is in use."""

    def open(self, name, *, write=False, create=False):
        if create and name in self._names:
            self.unlink(name)
        return super().open(name, write=write, create=create)


def test_a_disk_that_breaks_a_rule_is_found():
    with pytest.raises(AssertionError):
        DiskConformance().test_creating_needs_a_free_name_and_opening_a_taken_one(Forgetful())
