"""The heads that point reads keep: the last ones, up to a size, each with its own segment."""

import random
import sys
import threading

from segstore.format.pointread import decode_head
from segstore.segment.headcache import HeadCache
from segstore.testing.strategies import Batch
from tests.format.test_pointread import TAG, encode

HEAD = decode_head(encode(Batch([bytes(5000), b"x"], 0, None)), TAG)


def test_the_oldest_heads_go_first_whichever_segment_they_are_of():
    one, other = [], []
    cache = HeadCache(3 * (len(HEAD[0]) + 512))
    cache.add(one, 2, HEAD)
    cache.add(other, 0, HEAD)
    cache.add(other, 0, HEAD)  # another thread had it too
    cache.add(one, 0, HEAD)
    assert one == [HEAD, None, HEAD]
    assert other == [HEAD]
    cache.add(other, 1, HEAD)
    assert one == [HEAD, None, None]
    cache.add(other, 3, HEAD)
    assert other == [None, HEAD, None, HEAD]
    assert cache.size_bytes == 3 * (len(HEAD[0]) + 512)


def test_what_is_kept_stays_within_the_size_whatever_threads_add():
    cache = HeadCache(40 * (len(HEAD[0]) + 512))
    segments = [[] for _ in range(4)]

    def add(seed):
        chance = random.Random(seed)
        for _ in range(3000):
            cache.add(segments[chance.randrange(4)], chance.randrange(100), HEAD)

    threads = [threading.Thread(target=add, args=[seed]) for seed in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    kept = sum(head is not None for heads in segments for head in heads)
    assert kept == 40
    assert cache.size_bytes == kept * (len(HEAD[0]) + 512)
