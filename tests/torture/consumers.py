"""The model of the consumers of a log: who may hold a name, what it committed, what it was given.

A call may change a committed offset anywhere between its begin and its return, so until then both
what was and what is to be are possible; and for longer where somebody else was at it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segstore.errors import ConsumerLockedError
from segstore.format.batch import Record
from segstore.format.names import OFFSET_MAX
from tests.torture.campaign import BrokenError
from tests.torture.expected import Committed, held_back
from tests.torture.ledger import Ledger

# Where a call registers a consumer at the end of the log, whatever that is by then.
ANY_END = OFFSET_MAX
_NEVER: frozenset[int | None] = frozenset([None])


class Claim:
    """One use of a name: by a consumer, or by whoever removes it.

    Attributes:
        is_held: the name is surely its own.
        is_alone: nobody else has claimed the name since this was last set.
    """

    def __init__(self, name: str, others: list[Claim]) -> None:
        self.name = name
        self.is_held = False
        self.is_alone = not others
        self._in_the_way = [other for other in others if other.is_held]

    def take(self) -> None:
        """It has the name now.

        Raises:
            BrokenError: somebody else has had it all the time.
        """
        if any(other.is_held for other in self._in_the_way):
            raise BrokenError(f"C6: consumer {self.name} has a second holder")
        self.is_held = True


class Change:
    """One call that may change a committed offset.

    Attributes:
        before: what it may have been.
        became: what it is by its return.
        may_skip: it may become the log start offset as well.
    """

    def __init__(self, name: str, before: frozenset[int | None], *, may_skip: bool) -> None:
        self.name = name
        self.before = before
        self.may_skip = may_skip
        self.became: int | None = -1


class Consumers:
    """What is known of each.

    Attributes:
        committed: see `Committed`.
        highest: by consumer, the highest offset it ever had committed.
    """

    def __init__(self, ledger: Ledger, start_offset: Callable[[], int]) -> None:
        """`start_offset` is of the log, as far as anybody may have seen it."""
        self._start_offset = start_offset
        self.committed: Committed = {}
        self.highest: dict[str, int] = {}
        self._ledger = ledger
        self._claims: list[Claim] = []
        self._changes: list[Change] = []
        self._watchers: list[Committed] = []
        # By consumer and offset: the value it was given, or how many truncations had begun when it
        # was let off that offset.
        self._given: dict[str, dict[int, bytes | int]] = {}

    # Names

    @contextmanager
    def claim(self, name: str) -> Iterator[Claim]:
        """Somebody asks for a name, and has it to the end of the block if it gets it.

        Raises:
            BrokenError: it was refused, and nobody else was there.
        """
        others = [claim for claim in self._claims if claim.name == name]
        claim = Claim(name, others)
        for other in others:
            other.is_alone = False
        self._claims.append(claim)
        try:
            yield claim
        except ConsumerLockedError:
            if claim.is_alone:
                raise BrokenError(f"C6: nobody holds consumer {name}, and it was refused") from None
            raise
        finally:
            claim.is_held = False
            self._claims.remove(claim)

    # Committed offsets

    def may_be(self, name: str) -> frozenset[int | None]:
        """What its committed offset may be now."""
        return self.committed.get(name, _NEVER)

    @contextmanager
    def changing(
        self, claim: Claim, *wanted: int | None, may_skip: bool = False
    ) -> Iterator[Change]:
        """A call that may commit one of these offsets, or remove the consumer (None).

        Where it raises, or somebody else was at it, nobody knows which it is.
        """
        name, calm = claim.name, self._ledger.calm()
        claim.is_alone = not any(c.name == name for c in self._claims if c is not claim)
        change = Change(name, self.may_be(name), may_skip=may_skip)
        self._set(name, self.may_be(name).union(wanted))
        self._changes.append(change)
        try:
            yield change
        except BaseException:
            self._set(name, self._with_skip(change, self.may_be(name)))
            raise
        finally:
            self._changes.remove(change)
        is_exact = claim.is_alone and self._ledger.is_calm(calm)
        became = frozenset([change.became])
        if not is_exact:  # which came first, a truncation or this, is not known
            became |= self.may_be(name)
            ends = self._ledger.truncations_since(calm)
            became = became.union(*(held_back(became, end) for end in ends))
        self._set(name, became)

    def _set(self, name: str, offsets: frozenset[int | None]) -> None:
        self.committed[name] = offsets
        known = [offset for offset in offsets if offset is not None and offset != ANY_END]
        self.highest[name] = max([self.highest.get(name, 0), *known])
        for seen in self._watchers:
            seen[name] = seen.get(name, _NEVER) | offsets

    @contextmanager
    def truncating(self, end_offset: int) -> Iterator[None]:
        """A truncation; those that are not changed meanwhile are held back for sure."""
        number = self._ledger.calm()
        seen = {change.name: self.may_be(change.name) for change in self._changes}
        for name, offsets in self.committed.items():
            self._set(name, offsets | held_back(offsets, end_offset))
        with self._watched(seen):
            yield
        for name in self.committed.keys() - seen.keys():
            self._set(name, held_back(self.committed[name], end_offset))
        self._hold_to_it(end_offset, number)

    def settle(self, end_offset: int) -> None:
        """The log was opened, and ends there."""
        for name, offsets in self.committed.items():
            self._set(name, held_back(offsets, end_offset))
        self._hold_to_it(end_offset, self._ledger.calm())

    def at_a_crash(self) -> Committed:
        """What a crash may leave now."""
        found = dict(self.committed)
        self.add_skips(found)
        return found

    @contextmanager
    def watched(self) -> Iterator[Committed]:
        """All that the committed offsets are in the block."""
        seen = dict(self.committed)
        with self._watched(seen):
            yield seen

    @contextmanager
    def _watched(self, seen: Committed) -> Iterator[None]:
        self._watchers.append(seen)
        try:
            yield
        finally:  # not `remove`, to which one is as good as another that is equal
            self._watchers = [other for other in self._watchers if other is not seen]

    def add_skips(self, seen: Committed) -> None:
        """What they may be by calls that are not through, which `committed` has not yet."""
        for change in self._changes:
            seen[change.name] = self._with_skip(change, seen[change.name])

    def _with_skip(self, change: Change, offsets: frozenset[int | None]) -> frozenset[int | None]:
        return offsets | {self._start_offset()} if change.may_skip else offsets

    def check_start(self, seen: Committed, start_offset: int) -> None:
        """C4: retention, which moved the start there, left them what they had not committed."""
        for name, offsets in seen.items():
            if None not in offsets and start_offset > (
                highest := max(filter(None, offsets), default=0)
            ):
                raise BrokenError(f"C4: the log starts at {start_offset}, {name} was at {highest}")

    # Records

    def registered(self, name: str, offset: int, *, is_new: bool) -> None:
        """It begins there."""
        if is_new:
            self._given[name] = {}
            self.highest[name] = offset
            self.let_off(name, range(offset))

    def gave(self, name: str, records: list[Record]) -> None:
        """It was given these."""
        self._given[name].update((record.offset, record.value) for record in records)

    def let_off(self, name: str, offsets: range) -> None:
        """It will not be given these: it went past them, or retention took them and said so."""
        number = len(self._ledger.truncation_ends)
        self._given[name].update(dict.fromkeys(offsets, number))

    def _hold_to_it(self, end_offset: int, number: int) -> None:
        """What comes at offsets that are given out again has to be given to all."""
        for given in self._given.values():
            for offset in [offset for offset in given if offset >= end_offset]:
                let_off = given[offset]
                if isinstance(let_off, int) and let_off <= number:
                    del given[offset]

    def check_given(self, name: str, committed: int) -> None:
        """C3: it was given every record that there is below its committed offset."""
        given, known = self._given[name], self._ledger.known
        for offset in range(self._start_offset(), committed):
            sent, got = known.get(offset), given.get(offset)
            if sent is not None and not isinstance(got, int) and got != sent.value:
                raise BrokenError(
                    f"C3: consumer {name} committed {committed}, and was given "
                    f"{None if got is None else got[:60]!r} at {offset}, not {sent.value[:60]!r}"
                )
