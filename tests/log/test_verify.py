import pytest

import segstore

OPTIONS = {"background": False, "compression": None, "segment_size": 8192, "batch_size": 1000}


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize(
    ("change", "left"), [(lambda log: log.compress(), 600), (lambda log: log.trim(300), 300)]
)
def test_what_is_swapped_or_deleted_under_a_check_is_no_damage(path, mode, change, left):
    with segstore.open(path, **OPTIONS) as writer:
        writer.append_many([b"x" * 100] * 600)
        writer.sync()
        log = writer if mode == "a" else segstore.open(path, "r")
        view = log._reader.view
        open_segment = view.open_segment

        def change_first(segment):
            if segment.base_offset > 0 and view.open_segment is not open_segment:
                view.open_segment = open_segment
                change(writer)
            return open_segment(segment)

        view.open_segment = change_first
        report = log.verify()
        assert report.lost == ()
        assert report.record_count in range(left, 601)
        log.close()
