import pytest

import segstore


def test_a_segment_smaller_than_the_default_batch_needs_no_second_option(tmp_path):
    lines = [b"line %d" % number for number in range(2000)]
    with segstore.open(tmp_path / "log", segment_size="4KiB") as log:
        log.append_many(lines)
        assert log.config.batch_size == 4096
        assert len(log.segments()) > 5
        assert list(log.values()) == lines


def test_a_batch_size_over_the_segment_size_is_refused_when_it_was_asked_for(tmp_path):
    with pytest.raises(segstore.ConfigError, match="has to hold a batch"):
        segstore.open(tmp_path / "log", segment_size="4KiB", batch_size="64KiB")


def test_closing_seals_every_segment_but_the_last(tmp_path):
    """The last drain can roll as well, and what it rolled is sealed too."""
    for count in range(100, 140):
        path = tmp_path / f"log{count}"
        with segstore.open(path, segment_size="4KiB", background=False) as log:
            for number in range(count):
                log.append(b"%064d" % number)
        with segstore.open(path, "r") as log:
            assert log.verify().notes == ()
            assert all(info.min_timestamp is not None for info in log.segments()[:-1])
