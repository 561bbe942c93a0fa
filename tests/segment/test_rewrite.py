"""Writing a segment anew reads no further than what it keeps."""

from segstore.disk import OsDisk
from segstore.format.fileheader import KIND_SEGMENT, FileHeader, encode_file_header, log_tag
from segstore.format.frame import encode_frame
from segstore.format.names import RAW_SUFFIX, segment_file
from segstore.segment.reader import SegmentReader
from segstore.segment.rewrite import rewrite_segment

LOG_ID = bytes(range(16))


class CountingReader(SegmentReader):
    event_count = 0

    def events_unindexed(self):
        for event in super().events_unindexed():
            self.event_count += 1
            yield event


def test_frames_above_the_end_are_not_looked_at(path):
    disk = OsDisk(path, create=True)
    tag = log_tag(LOG_ID)
    frames = [
        encode_frame(
            offset, [b"v%d" % offset, b"w"], 5, None, append_time=1, log_tag=tag, durable_offset=0
        ).data
        for offset in range(0, 100, 2)
    ]
    file = disk.open(segment_file(0, RAW_SUFFIX), write=True, create=True)
    file.write([encode_file_header(FileHeader(KIND_SEGMENT, 0, LOG_ID, 0)), *frames], 0)
    file.close()
    reader = CountingReader(disk, 0, tag, is_compressed=False, stamp=None)
    rewrite_segment(disk, reader, LOG_ID, 5)
    assert reader.event_count == 4  # the first of those that go as well
    kept = SegmentReader(disk, 0, tag, is_compressed=False, stamp=None)
    values = [value for event in kept.events_unindexed() for value in event.batch.values()]
    assert values == [b"v0", b"w", b"v2", b"w", b"v4"]
