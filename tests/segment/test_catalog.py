from hypothesis import given
from hypothesis import strategies as st

from segstore.segment.catalog import Catalog, Segment

bases = st.integers(0, 40)


@given(st.lists(st.tuples(bases, st.booleans())), st.sets(bases), bases)
def test_a_catalog_is_its_segments_in_order_however_it_was_made(steps, removed, offset):
    catalog, model = Catalog(), {}
    for base_offset, is_compressed in steps:
        before = list(catalog.segments)
        changed = catalog.with_segment(Segment(base_offset, is_compressed, 0, None))
        assert catalog.segments == before
        catalog = changed
        model[base_offset] = is_compressed
    catalog = catalog.without(removed)
    expected = sorted((b, c) for b, c in model.items() if b not in removed)
    assert [(s.base_offset, s.is_compressed) for s in catalog.segments] == expected
    assert len(catalog) == len(expected)
    below = [number for number, (b, _) in enumerate(expected) if b <= offset]
    assert catalog.find(offset) == (below[-1] if below else -1)
    for number in range(len(expected)):
        last = number + 1 == len(expected)
        assert catalog.end_offset(number) == (None if last else expected[number + 1][0])
    unsealed = 0
    while unsealed < len(expected) and not expected[-1 - unsealed][1]:
        unsealed += 1
    assert catalog.unsealed_run() == len(expected) - unsealed
