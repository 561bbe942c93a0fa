"""The truth table of recovery: exactly one row matches each case and does what it says."""

import itertools

import pytest

from segstore.format.fileheader import KIND_SEGMENT, FileHeader
from segstore.format.scanner import Damage
from segstore.segment.recovery import ScannedSegment, Verdict, judge, plan
from segstore.segment.state import SegmentState

VOUCH = 10

# The rows, as the docstring of segstore.segment.recovery has them: is it (vouched, followed)?
ROWS = {
    Verdict.DAMAGE: lambda vouched, followed: vouched and followed,
    Verdict.CUT_OFF: lambda vouched, followed: vouched and not followed,
    Verdict.TORN: lambda vouched, followed: not vouched,
}


@pytest.mark.parametrize("is_vouched", [True, False])
@pytest.mark.parametrize("is_followed", [True, False])
def test_exactly_one_row_matches_each_case(is_vouched, is_followed):
    matching = [verdict for verdict, matches in ROWS.items() if matches(is_vouched, is_followed)]
    assert len(matching) == 1
    for offset in (0, VOUCH - 1) if is_vouched else (VOUCH, VOUCH + 5):
        assert judge(offset, VOUCH, is_followed=is_followed) is matching[0]


def scanned(base_offset, end_offset, *, damage=(), vouch=0, has_header=True):
    state = SegmentState(base_offset, 4096)
    if end_offset > base_offset:
        count = end_offset - base_offset
        state.add(64, 80, base_offset, count, 0, 0, 1, has_keys=False)
    header = FileHeader(KIND_SEGMENT, base_offset, bytes(16), 0) if has_header else None
    return ScannedSegment(state, 64 + 80, header, list(damage), vouch, 80)


def spot(offset, end_offset):
    return Damage(200, 300, offset, end_offset, "a test")


@pytest.mark.parametrize(
    ("vouch", "end", "verdict", "next_offset", "new_segment", "is_cut"),
    [
        (6, 8, Verdict.DAMAGE, 20, False, False),
        (6, None, Verdict.CUT_OFF, 6, True, False),
        (5, 8, Verdict.TORN, 5, False, True),
        (5, None, Verdict.TORN, 5, False, True),
        (0, None, Verdict.TORN, 5, False, True),
    ],
)
def test_each_row_leads_to_its_plan(vouch, end, verdict, next_offset, new_segment, is_cut):
    found = plan([scanned(0, 20 if end else 5, damage=[spot(5, end)])], vouch, 0)
    assert [finding.verdict for finding in found.findings] == [verdict]
    assert found.next_offset == next_offset
    assert found.new_segment is new_segment
    assert (found.cut is not None) is is_cut
    if verdict is not Verdict.TORN:
        assert found.findings[0].offsets == range(5, end or vouch)


def test_the_frames_own_durable_offsets_vouch_too():
    found = plan([scanned(0, 20, damage=[spot(5, 8)], vouch=6)], 0, 0)
    assert found.findings[0].verdict is Verdict.DAMAGE


def test_what_the_last_of_several_segments_says_vouches_for_the_first():
    first = scanned(0, 5, damage=[spot(5, None)])
    found = plan([first, scanned(8, 20, vouch=8)], 0, 0)
    assert [finding.verdict for finding in found.findings] == [Verdict.DAMAGE]
    assert found.findings[0].offsets == range(5, 8)
    assert (found.keep, found.next_offset) == (2, 20)


def test_a_torn_spot_takes_the_segments_behind_it_along():
    found = plan([scanned(0, 5, damage=[spot(5, None)]), scanned(8, 20)], 0, 0)
    assert [finding.verdict for finding in found.findings] == [Verdict.TORN]
    assert (found.keep, found.next_offset) == (1, 5)


@pytest.mark.parametrize(("vouch", "verdict"), [(7, Verdict.DAMAGE), (5, Verdict.TORN)])
def test_a_missing_segment_is_judged_like_any_other_spot(vouch, verdict):
    found = plan([scanned(0, 5), scanned(8, 20)], vouch, 0)
    assert [finding.verdict for finding in found.findings] == [verdict]
    assert found.findings[0].offsets == range(5, 8)
    assert found.keep == (2 if verdict is Verdict.DAMAGE else 1)


def test_a_missing_segment_comes_before_the_damage_in_the_next():
    found = plan([scanned(0, 5), scanned(8, 20, damage=[spot(12, 14)])], 15, 0)
    assert [one.offsets for one in found.findings] == [range(5, 8), range(12, 14)]


@pytest.mark.parametrize(
    ("torn_at", "has_header", "keep"), [(8, True, 2), (8, False, 1), (9, False, 2)]
)
def test_a_torn_segment_goes_as_a_whole_where_nothing_of_it_is_left(torn_at, has_header, keep):
    torn = scanned(8, torn_at, damage=[spot(torn_at, None)], has_header=has_header)
    found = plan([scanned(0, 8), torn], 8, 0)
    assert [one.verdict for one in found.findings] == [Verdict.TORN]
    assert (found.keep, found.next_offset) == (keep, torn_at)


def test_offsets_that_were_vouched_for_and_are_gone_without_a_trace_are_cut_off():
    found = plan([scanned(0, 5)], 9, 0)
    assert [finding.verdict for finding in found.findings] == [Verdict.CUT_OFF]
    assert found.findings[0].offsets == range(5, 9)
    assert (found.next_offset, found.new_segment) == (9, True)


@pytest.mark.parametrize(
    ("staged", "resumes_at", "tail_lost"),
    [
        (range(7, 12), 7, range(0)),  # bridges the vouch: nothing of the tail is lost
        (range(9, 12), 9, range(0)),
        (range(7, 9), 7, range(0)),
        (range(7, 8), 7, range(8, 9)),  # ends below it: its offsets are not given out again
        (range(10, 12), 9, range(0)),  # a gap nobody vouched for: what follows it is set aside
        (range(0), 9, range(0)),
        (range(2, 4), 9, range(0)),
    ],
)
@pytest.mark.parametrize("damage", [[], [spot(5, None)]])
def test_the_log_resumes_at_the_tail_behind_what_is_cut_off(staged, resumes_at, tail_lost, damage):
    found = plan([scanned(0, 5, damage=damage)], 9, 0, staged)
    assert [finding.verdict for finding in found.findings] == [Verdict.CUT_OFF]
    assert found.findings[0].offsets == range(5, resumes_at)
    assert (found.next_offset, found.new_segment) == (resumes_at, True)
    assert found.tail_lost == tail_lost


def test_a_log_that_the_tail_goes_on_with_but_not_to_its_end_is_not_cut_off():
    found = plan([scanned(0, 5)], 9, 0, range(3, 7))
    assert (found.findings, found.next_offset, found.new_segment) == ([], 5, False)
    assert found.tail_lost == range(7, 9)


@pytest.mark.parametrize(("end", "keep"), [(8, 1), (12, 1), (13, 2)])
def test_what_follows_a_missing_segment_goes_where_the_tail_has_all_of_it(end, keep):
    found = plan([scanned(0, 5), scanned(8, end)], 9, 0, range(7, 12))
    is_held = keep == 1
    assert [one.verdict for one in found.findings] == [
        Verdict.CUT_OFF if is_held else Verdict.DAMAGE
    ]
    assert found.findings[0].offsets == range(5, 7 if is_held else 8)
    assert (found.keep, found.next_offset, found.cut) == (keep, 7 if is_held else 13, None)


def test_what_follows_where_the_tail_begins_stays():
    found = plan([scanned(0, 5), scanned(7, 12)], 9, 0, range(7, 12))
    assert [one.offsets for one in found.findings] == [range(5, 7)]
    assert (found.keep, found.next_offset, found.new_segment) == (2, 12, False)


def test_what_follows_stays_where_nobody_had_promised_the_tails_first_record():
    found = plan([scanned(0, 12, damage=[spot(5, 8)])], 6, 0, range(7, 12))
    assert [one.offsets for one in found.findings] == [range(5, 8)]
    assert (found.keep, found.next_offset, found.new_segment) == (1, 12, False)


def test_a_spot_with_parts_that_reaches_what_the_tail_has_is_lost_up_to_there():
    parts = tuple(Damage(200, 300, *lost, "a part") for lost in ((5, 6), (7, 9), (10, 11)))
    damage = Damage(200, 300, 5, 12, "a test", parts)
    found = plan([scanned(0, 20, damage=[damage])], 9, 0, range(8, 20))
    assert [one.offsets for one in found.findings] == [range(5, 6), range(7, 8), range(8, 8)]
    assert (found.keep, found.next_offset, found.new_segment) == (1, 8, True)


def test_the_log_ends_within_its_bounds():
    bounds = {"start_offset": 7, "end_offset_max": 9}
    for next_offset, staged, expected in [
        (5, range(0), 7),  # a copy with the start offset of after a trim
        (8, range(0), 8),
        (20, range(0), 9),  # a truncation that is pending
    ]:
        found = plan([scanned(0, next_offset)], next_offset, 0, staged, **bounds)
        assert (found.next_offset, found.tail_lost) == (expected, range(0))
    found = plan([scanned(0, 20)], 20, 0, start_offset=12, end_offset_max=9)
    assert found.next_offset == 12
    found = plan([scanned(0, 5)], 7, 0, range(3, 10), 10, start_offset=7)
    assert (found.findings, found.next_offset, found.tail_lost) == ([], 7, range(0))


def test_at_most_the_last_finding_is_torn():
    for spots in itertools.product([(2, 4), (6, 8), (12, 14), (16, None)], repeat=2):
        damage = sorted(set(spots), key=lambda s: s[0])
        for vouch in range(0, 20, 3):
            found = plan([scanned(0, 20, damage=[spot(*s) for s in damage])], vouch, 0)
            verdicts = [finding.verdict for finding in found.findings]
            assert Verdict.TORN not in verdicts[:-1]


@pytest.mark.parametrize(
    ("staged", "verdict"),
    [
        (range(5, 12), Verdict.TORN),  # has all of it: nothing is lost
        (range(3, 9), Verdict.TORN),
        (range(5, 8), Verdict.TORN),  # and what was promised behind it is lost
        (range(6, 12), Verdict.CUT_OFF),
    ],
)
@pytest.mark.parametrize("followed_to", [None, 8, 9, 20])
def test_what_the_tail_has_all_of_is_not_lost(staged, verdict, followed_to):
    damage = [spot(5, followed_to and 7)]
    found = plan([scanned(0, followed_to or 5, damage=damage)], 9, 0, staged)
    if (followed_to or 0) > staged.stop:
        verdict = Verdict.DAMAGE
    assert [one.verdict for one in found.findings] == [verdict]
    if verdict is Verdict.TORN:
        assert (found.keep, found.next_offset, found.cut) == (1, 5, damage[0])
        assert found.tail_lost == (range(staged.stop, 9) if staged.stop < 9 else range(0))
    elif verdict is Verdict.CUT_OFF:
        assert found.findings[0].offsets == range(5, staged.start)


@pytest.mark.parametrize(
    ("promised", "verdict", "next_offset"),
    [
        (2, Verdict.TORN, 3),
        (6, Verdict.CUT_OFF, 6),
        (8, Verdict.CUT_OFF, 8),
        (9, Verdict.CUT_OFF, 8),
    ],
)
def test_where_the_tail_was_used_again_the_segments_had_what_it_promised(
    promised, verdict, next_offset
):
    """Their own register says less, as a power cut may leave it of before."""
    found = plan([scanned(0, 3, damage=[spot(3, None)])], 2, 0, range(8, 10), promised)
    assert [finding.verdict for finding in found.findings] == [verdict]
    assert (found.next_offset, found.tail_lost) == (next_offset, range(0))
