import os
import random

from tests.kill_rounds import run_rounds

ROUNDS = int(os.environ.get("KILL_ROUNDS", "15"))


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails; python -m tests.kill_rounds 1 SEED repeats
    results = run_rounds(ROUNDS, seed, rounds_a_log=5)
    assert len(results) == ROUNDS
    assert sum(result.acknowledged for result in results) > 0
