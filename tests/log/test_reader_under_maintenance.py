"""A reader opens a log although files are swapped and deleted under its look."""

from segstore.config import LogConfig
from segstore.log.log import Log
from segstore.testing.faulty import FaultyDisk
from segstore.testing.memory import MemoryDisk


def test_a_file_that_goes_between_listing_and_opening_is_looked_for_again():
    config = LogConfig.of({"background": False})
    inner = MemoryDisk()
    writer = Log(inner, "a", config)
    writer.append_many([b"old"] * 10)
    writer.roll()
    writer.append_many([b"new"] * 10)
    writer.sync()
    swept = []

    def before(kind, name):
        if kind == "open" and name == f"{10:020d}.log" and not swept:
            swept.append(name)
            writer.roll()
            writer.trim(20)

    reader = Log(FaultyDisk(inner, before=before), "r", config)
    assert swept
    assert reader.start_offset == reader.end_offset == 20
