import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstore.format import names

SUFFIXES = [
    names.RAW_SUFFIX, names.RAW_INDEX_SUFFIX, names.LZ4_SUFFIX, names.LZ4_INDEX_SUFFIX,
]  # fmt: skip


@given(st.integers(0, names.OFFSET_MAX), st.sampled_from(SUFFIXES))
def test_a_segment_name_comes_back(base_offset, suffix):
    name = names.segment_file(base_offset, suffix)
    assert names.parse_segment_file(name) == (base_offset, suffix)
    assert names.is_temporary(names.temporary(name))


@given(st.text(max_size=40))
def test_arbitrary_text_is_a_segment_name_only_if_it_is_spelled_exactly_so(text):
    parsed = names.parse_segment_file(text)
    assert parsed is None or names.segment_file(*parsed) == text


@pytest.mark.parametrize(
    "name",
    [
        "0000000000000000000\uff11.log",
        "\u0660" * 20 + ".log",
        "0000000000000000_001.log",
        " 0000000000000000001.log",
        "0000000000000000001 .log",
        "+0000000000000000001.log",
        "-0000000000000000001.log",
        "0000000000000000001.log",
        "000000000000000000001.log",
        "00000000000000000001.log\n",
        "00000000000000000001.LOG",
        "00000000000000000001.log.",
        "00000000000000000001",
        "00000000000000000001.index.lz4",
        "99999999999999999999.log",
        f"{2**63:020d}.log",
        "x00000000000000000001.log",
        "",
    ],
)
def test_an_odd_name_is_no_segment(name):
    assert names.parse_segment_file(name) is None


@pytest.mark.parametrize("name", ["a", "A9", "mail-1.x_y", "9", "x" * 100])
def test_a_consumer_name_comes_back(name):
    assert names.parse_consumer_file(names.consumer_file(name)) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "\u00e4", "\uff11", "x" * 101]
)
def test_an_odd_consumer_name_is_refused(name):
    with pytest.raises(ValueError, match="no consumer name"):
        names.consumer_file(name)
    assert names.parse_consumer_file(name + ".consumer") is None


@pytest.mark.parametrize(
    "name",
    [
        names.aside(names.segment_file(5, names.RAW_SUFFIX), 64),
        names.aside(names.segment_file(5, names.RAW_SUFFIX), 64, 3),
        names.aside(names.TAIL, 4096),
        names.aside(names.segment_file(5, names.RAW_SUFFIX), 0),
        names.aside(names.segment_file(5, names.LZ4_SUFFIX), 64, 1),
    ],
)
def test_a_name_to_set_aside_under_is_known_again(name):
    assert names.is_aside(name)
    assert names.is_temporary(names.temporary(name))
    assert names.parse_segment_file(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "notes.tmp",
        "notes.aside.tmp",
        ".aside.tmp",
        "my 20 thoughts.aside.tmp",
        "00000000000000000001.log.aside.tmp",
        "00000000000000000001.log.tmp.tmp",
        "0000000000000000001.log.tmp",
        "lock.tmp",
        ".tmp",
        "tail.tmp ",
    ],
)
def test_a_strangers_temporary_file_is_not_ours_to_remove(name):
    assert not names.is_temporary(name)
