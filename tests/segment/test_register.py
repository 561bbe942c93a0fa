"""A register that is read in the middle of a store."""

from __future__ import annotations

from typing import Any

import pytest

from segstore.format.names import OFFSET_MAX
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


@pytest.mark.parametrize("at", [0, 2])
def test_a_copy_with_a_number_that_no_offset_can_be_does_not_count(at: int) -> None:
    words = memoryview(bytearray(32)).cast("Q")
    register = Register(words.cast("B"), 0)
    register.set(7)
    words[at], words[at + 1] = OFFSET_MAX + 1, (OFFSET_MAX + 1) ^ ALL_ONES
    assert register.read() == 7


class Killed:
    """The words of a register; what they are behind each store, as a kill there leaves them."""

    def __init__(self, memory: bytearray) -> None:
        self._words = memoryview(memory).cast("Q")
        self.left: list[bytearray] = []

    def tolist(self) -> list[int]:
        return self._words.tolist()

    def __getitem__(self, at: int) -> int:
        return self._words[at]

    def __setitem__(self, at: int, word: int) -> None:
        self._words[at] = word
        self.left.append(bytearray(self._words.tobytes()))


def advanced(memory: bytearray, number: int) -> list[bytearray]:
    """What a kill leaves at each step while a writer that begins with `memory` stores a number."""
    register = Register(memoryview(memory), 0)
    before = register.read()
    words = Killed(memory)
    register._words = words  # type: ignore[assignment]
    register.advance(number)
    numbers = [Register(memoryview(left), 0).read() for left in words.left]
    assert set(numbers) == {before, number}
    assert numbers[-1] == register.read() == number
    return words.left


def test_killed_in_the_middle_of_a_store_again_and_again_it_has_the_last_number_or_the_new() -> (
    None
):
    memory = bytearray(32)
    Register(memoryview(memory), 0).set(7)
    for once in advanced(memory, 8):
        for twice in advanced(once, 9):
            advanced(twice, 10)


def test_each_number_goes_where_the_one_before_the_last_was() -> None:
    register = Register(memoryview(bytearray(32)), 0)
    register.set(7)
    words = Killed(bytearray(register.token()))
    register._words = words  # type: ignore[assignment]
    for number in (8, 9, 10):
        register.advance(number)
    left = [Register(memoryview(left), 0).read() for left in words.left]
    assert left == [7, 8, 8, 9, 9, 10]


def test_a_number_that_comes_again_after_a_lower_one_is_stored_again() -> None:
    register = Register(memoryview(bytearray(32)), 0)
    for _ in range(2):  # as a truncation, and what is appended behind it
        register.set(7)
        register.advance(10)
        assert register.read() == 10
