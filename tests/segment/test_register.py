"""A register that is read in the middle of a store."""

from __future__ import annotations

from typing import Any

import pytest

from segstore.segment.tail import Register

ALL_ONES = 2**64 - 1


class Words:
    """The words of a register as a reader has them that stood still between two of them."""

    def __init__(self, words: Any, looks: list[list[int]]) -> None:
        self._words = words
        self._looks = looks

    def tolist(self) -> list[int]:
        return self._looks.pop() if self._looks else self._words.tolist()


@pytest.mark.parametrize(
    "seen",
    [
        (7, 9 ^ ALL_ONES, 10, 8 ^ ALL_ONES),  # of neither copy both words
        (7, 7 ^ ALL_ONES, 10, 8 ^ ALL_ONES),  # of the one that was newer before
        (9, 9 ^ ALL_ONES, 8, 10 ^ ALL_ONES),
    ],
)
def test_a_reader_that_stood_still_sees_no_number_older_than_before(seen: Any) -> None:
    register = Register(memoryview(bytearray(64)), 0)
    register.set(7)
    for number in (8, 9, 10):
        register.advance(number)
    assert register.read() == 10
    register._words = Words(register._words, [list(seen)])  # type: ignore[assignment]
    assert register.read() == 10


def test_a_copy_that_was_cut_short_does_not_count() -> None:
    words = memoryview(bytearray(32)).cast("Q")
    register = Register(words.cast("B"), 0)
    assert register.read() is None
    register.set(7)
    words[2] = 8
    assert register.read() == 7
    words[0] = 8
    assert register.read() is None
