"""A rank that raises, dies or hangs stops the others, which say its name."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.distributed import RankFailure
from tests.helpers.ranks import Everywhere, run_ranks, small_model


def _raise(model: TRPO) -> None:
    msg = "the simulator broke"
    raise ValueError(msg)


def _kill(model: TRPO) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(model: TRPO) -> None:
    time.sleep(300)


def _faulty_rank(rank: int, fault: Callable[[TRPO], Any]) -> None:
    small_model().learn(100_000, callback=Everywhere(1, 70, fault))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_raise, "rank 1 raised ValueError: the simulator broke"),
        (_kill, "rank 1 of 3 was killed"),
        (_hang, "rank 1 of 3 hung until the timeout"),
    ],
)
def test_a_fault_of_one_rank_stops_the_others_and_is_named(tmp_path: Path, fault: Any, message: str) -> None:
    # Only what hangs has to be waited for; on a busy machine a rank that is well may stand still for seconds.
    results = run_ranks(_faulty_rank, 3, tmp_path / "ranks", fault, seconds=12.0 if fault is _hang else 60.0)
    for rank in (0, 2):
        assert isinstance(results[rank], RankFailure)
        assert message in str(results[rank])
    assert isinstance(results[1], ValueError) == (fault is _raise)
