"""What threads do that consume a log: register, poll, iterate, seek, commit, look and remove."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from random import Random
from typing import Any

from segstore.format.batch import Record
from segstore.log.log import Log
from tests.torture.campaign import BrokenError
from tests.torture.consumers import ANY_END, Claim
from tests.torture.expected import check_all_committed, check_committed
from tests.torture.scene import Scene, Step

NAMES = ("one", "two", "three")


class Consuming:
    """The steps; each takes a name, which others may want as well."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def steps(self) -> list[Step]:
        return [self.consume] * 6 + [self.look, self.remove]

    def consume(self, _: str, random: Random) -> None:
        scene, name = self._scene, random.choice(NAMES)
        with scene.some_handle(random) as log, scene.consumers.claim(name) as claim:
            session = _Session(scene, log, claim, random)
            try:
                session.check_registered()
                for _ in range(random.randrange(1, 8)):
                    random.choice(session.steps())(random)
            finally:
                claim.is_held = False
                session.consumer.close()

    def look(self, _: str, random: Random) -> None:
        consumers, ledger = self._scene.consumers, self._scene.ledger
        calm = ledger.calm()
        with self._scene.some_handle(random) as log, consumers.watched() as seen:
            found, end = log.consumers(), log.end_offset
            consumers.add_skips(seen)
        check_all_committed(found, seen)
        if ledger.is_calm(calm) and any(info.committed > end for info in found):
            raise BrokenError(f"C2: {found}, and the log ends at {end}")

    def remove(self, _: str, random: Random) -> None:
        consumers, name = self._scene.consumers, random.choice(NAMES)
        with self._scene.some_handle(random) as log, consumers.claim(name) as claim:
            with consumers.changing(claim, None) as change:
                was_there = log.remove_consumer(name)
                change.became = None
            if was_there:
                claim.take()
                self._scene.run.count("consumers removed")
            if claim.is_alone and was_there not in {offset is not None for offset in change.before}:
                raise BrokenError(f"C1: consumer {name} was at {change.before}, and {was_there=}")


class _Session:
    """A consumer in the hands of one thread, and what it may be given next."""

    def __init__(self, scene: Scene, log: Log, claim: Claim, random: Random) -> None:
        self._scene = scene
        self._log = log
        self._claim = claim
        consumers, name = scene.consumers, claim.name
        # As of the last call that takes back what truncations have taken.
        self._calm = scene.ledger.calm()
        first, end = log.start_offset, log.end_offset
        self._start: Any = random.choice(("start", "start", "end", random.randint(0, end)))
        self._least = {"start": first, "end": end}.get(self._start, self._start)
        wanted = (end, ANY_END) if self._start == "end" else (self._least,)
        with consumers.changing(claim, *wanted, may_skip=True) as change:
            self.consumer = log.consumer(name, self._start)
            change.became = self.consumer.committed
        self._before, self._is_alone = change.before, claim.is_alone

    def check_registered(self) -> None:
        """C1, C2: it is where it was, or begins where it was to."""
        consumers, name, found = self._scene.consumers, self._claim.name, self.consumer.committed
        self._claim.take()
        is_new = None in self._before or not self._is_alone  # as far as is known
        consumers.registered(name, found, is_new=is_new)
        self._scene.run.count("consumed")
        last = {"start": self._log.start_offset, "end": self._log.end_offset}
        begins = {self._least, last.get(self._start, self._start)}
        if self._is_alone and self._is_calm():
            check_committed(name, found, self._before | begins if is_new else self._before)
            position = self.consumer.position
            if self._is_calm():
                if position != found:
                    raise BrokenError(f"C2: {self.consumer} committed {found}, is at {position}")
                consumers.check_given(name, found)

    def _is_calm(self) -> bool:
        """Whether what it was given by then is still the log."""
        return self._scene.ledger.is_calm(self._calm)

    def steps(self) -> list[Callable[[Random], None]]:
        polls = [self.poll, self.poll, self.poll, self.iterate]
        return [*polls, self.commit, self.commit, self.commit_to, self.seek, self.seek_a_time]

    def poll(self, random: Random) -> None:
        count, timeout = random.choice((1, 5, 20, 500)), random.choice((0.0, 0.0, 0.02, 0.2))
        calm, written = self._scene.ledger.calm(), self._scene.ledger.written
        records = self._receive(lambda: self.consumer.poll(count, timeout))
        if not records and self._is_calm() and self.consumer.position < written:
            raise BrokenError(f"C3: {self.consumer} gets nothing, and the log ends at {written}")
        self._calm = calm

    def iterate(self, random: Random) -> None:
        calm, records = self._scene.ledger.calm(), iter(self.consumer)
        for _ in range(random.choice((1, 5, 20, 500))):
            if not self._receive(lambda: list(islice(records, 1))):
                break
        self._calm = calm

    def _receive(self, receive: Callable[[], list[Record]]) -> list[Record]:
        """C3: what comes is in a row from the position on, but for what retention took.

        Of that it has lost what it was not done with.
        """
        consumer, consumers, ledger = self.consumer, self._scene.consumers, self._scene.ledger
        name = consumer.name
        position, done = consumer.position, max(consumer.position, consumer.committed)
        lost = consumer._file.current.lost_count
        with consumers.changing(self._claim, may_skip=True) as change:
            records = receive()
            change.became = consumer.committed
        consumers.gave(name, records)
        ledger.check(records, records[0].offset if records else None)
        after, lost = consumer.position, consumer._file.current.lost_count - lost
        if lost < 0 or (records and after != records[-1].offset + 1):
            raise BrokenError(f"C3: consumer {name} is at {after}, {lost} lost, after {records}")
        first = records[0].offset if records else after
        if lost:
            self._check_lost(range(first - lost, first))
            consumers.let_off(name, range(first - lost, first))
        following = done + lost if lost else position
        if position < first <= done and first <= consumer._reader.view.start_offset():
            following = first
        if first > following or (first < following and self._is_calm()):
            raise BrokenError(f"C3: consumer {name} gets {first}, not {following} ({lost=})")
        self._scene.run.count("records consumed", len(records))
        self._scene.run.count("records lost to retention", lost)
        return records

    def _check_lost(self, offsets: range) -> None:
        """C4: retention took what it was to leave alone."""
        scene, name = self._scene, self.consumer.name
        if scene.waits_for_consumers:
            highest = max(scene.ledger.trimmed, scene.consumers.highest[name])
            if offsets.stop > highest:
                raise BrokenError(f"C4: retention took {offsets} from consumer {name} ({highest})")

    def commit(self, random: Random) -> None:
        self._commit(None)

    def commit_to(self, random: Random) -> None:
        """No further than it was given."""
        position = self.consumer.position
        self._commit(random.randint(max(0, position - 20), position))

    def _commit(self, offset: int | None) -> None:
        consumer, consumers, calm = self.consumer, self._scene.consumers, self._scene.ledger.calm()
        wanted = consumer.position if offset is None else offset
        with consumers.changing(self._claim, wanted) as change:
            consumer.commit(offset)
            change.became = consumer.committed
        if self._is_calm():
            if consumer.committed != wanted:
                raise BrokenError(f"C1: {consumer} committed {wanted}, is at {consumer.committed}")
            consumers.check_given(consumer.name, wanted)
        elif offset is not None:  # what it was given may have gone, and others be there
            consumers.let_off(consumer.name, range(offset))
        self._calm = calm
        self._scene.run.count("commits")

    def seek(self, random: Random) -> None:
        first, end = self._log.start_offset, self._log.end_offset
        offset = random.randint(first, max(first, end))
        if self._seek(offset=offset) != offset:
            raise BrokenError(f"{self.consumer} went elsewhere than to {offset}")

    def seek_a_time(self, random: Random) -> None:
        self._seek(timestamp=random.randrange(10**18))

    def _seek(self, **place: int) -> int:
        consumer, calm = self.consumer, self._scene.ledger.calm()
        position = consumer.position
        reached = consumer.seek(**place)  # type: ignore[arg-type]
        passed = range(position if self._is_calm() else 0, reached)
        self._scene.consumers.let_off(consumer.name, passed)
        self._calm = calm
        return reached
