"""The one background thread of a writer.

It holds the log only weakly between two rounds, so that a log that nobody uses any more goes away,
thread and all. Each round is `Log.maintain`, which is also what a caller without the thread calls.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from segstore.errors import LogClosedError


class Maintenance:
    """Calls a bound method every so often, and earlier when woken, until stopped.

    Attributes:
        error: what the last failed round raised, as text, or None.
    """

    def __init__(self, round_: Callable[[], Any], interval_s: float, name: str) -> None:
        self.error: str | None = None
        self._interval_s = interval_s
        # Held while nobody woke it. Not an Event: Ctrl-C in the middle of its `set`, which is in
        # Python, leaves a lock behind that every later one waits for.
        self._sleep = threading.Lock()
        self._sleep.acquire()
        self._is_stopped = False
        # The thread holds this object, not the log: the log's death sets it free.
        self._round = weakref.WeakMethod(round_, lambda _: self.wake())
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Have the next round now."""
        with suppress(RuntimeError):  # woken already
            self._sleep.release()

    def stop(self) -> None:
        """Stop, and wait for a round under way (unless it is that round which calls)."""
        self._is_stopped = True
        self.wake()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._is_stopped:
            self._sleep.acquire(timeout=self._interval_s)
            round_ = self._round()
            if round_ is None or self._is_stopped:
                return
            try:
                round_()
            except LogClosedError:  # closed in the middle of a round, which `close` waits for
                return
            except Exception as error:
                # What reports it may fail too, on the same full disk, for one.
                with suppress(Exception):
                    self._report(error)
            else:
                self.error = None
            del round_

    def _report(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        is_new, self.error = text != self.error, text
        if is_new:  # once, and not every round again
            import logging

            logging.getLogger("segstore").error("background maintenance failed: %s", text)
