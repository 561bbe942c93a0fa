import logging
import threading

import pytest

from segstore.errors import LogClosedError, StorageError
from segstore.log.maintenance import Maintenance

PATIENCE_S = 10


class Rounds:
    """A log whose rounds fail in a given way."""

    def __init__(self, error):
        self.error = error
        self.was_called = threading.Event()

    def maintain(self):
        self.was_called.set()
        raise self.error


@pytest.mark.parametrize(
    ("error", "is_reported"),
    [(LogClosedError("closed"), False), (StorageError(28, "disk full"), True)],
)
def test_a_round_that_close_overtakes_is_no_failure_and_any_other_is(caplog, error, is_reported):
    rounds = Rounds(error)
    maintenance = Maintenance(rounds.maintain, 0.001, "test")
    with caplog.at_level(logging.ERROR, "segstore"):
        maintenance.start()
        assert rounds.was_called.wait(PATIENCE_S)
        maintenance.stop()
    assert (maintenance.error is not None) == is_reported
    assert bool(caplog.records) == is_reported


def test_a_handler_of_the_log_messages_that_fails_stops_no_round():
    class Failing(logging.Handler):
        def emit(self, record):
            raise OSError(28, "the same full disk")

    rounds = Rounds(StorageError(28, "disk full"))
    maintenance = Maintenance(rounds.maintain, 0.001, "test")
    logger, handler = logging.getLogger("segstore"), Failing()
    logger.addHandler(handler)
    try:
        maintenance.start()
        for _ in range(3):
            assert rounds.was_called.wait(PATIENCE_S)
            rounds.was_called.clear()
    finally:
        maintenance.stop()
        logger.removeHandler(handler)
    assert maintenance.error is not None


def test_neither_a_wake_nor_a_stop_waits_for_the_interval():
    rounds = Rounds(StorageError(28, "disk full"))
    maintenance = Maintenance(rounds.maintain, 3600, "test")
    maintenance.start()
    for _ in range(2):
        maintenance.wake()
        assert rounds.was_called.wait(PATIENCE_S)
        rounds.was_called.clear()
    stopping = threading.Thread(target=maintenance.stop, daemon=True)
    stopping.start()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
