"""What the disk in memory models beyond the calls that every disk has."""

from segstore.disk import open_anew
from segstore.testing.memory import PAGE_BYTES, MemoryDisk


def test_what_a_failed_sync_left_in_the_cache_alone_goes_when_that_forgets():
    disk = MemoryDisk()
    old, new = b"old " * 2 * PAGE_BYTES, b"new " * PAGE_BYTES
    file = open_anew(disk, "file")
    file.write([old], 0)
    file.sync()
    file.write([new], 0)
    file.drop_unsynced()
    file.sync()  # which no longer covers it
    file.write([b"page"], PAGE_BYTES)  # and this page is written whole again
    file.sync()
    file.close()
    cached = disk.contents()["file"]
    assert cached.startswith(new[:PAGE_BYTES] + b"page" + new[PAGE_BYTES + 4 :])
    disk.drop_caches()
    kept = {0: old, 1: cached, 2: old}
    for page, data in kept.items():
        part = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        assert disk.contents()["file"][part] == data[part], page
