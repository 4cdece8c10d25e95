"""Statistics of all ranks are those of all numbers."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_trpo_fvp.distributed.communicator import Communicator
from sb3_trpo_fvp.distributed.statistics import merge_running_statistics, pooled_moments, window


class Pretended(Communicator):
    """Ranks whose answers are known beforehand: the group as one of its ranks sees it."""

    def __init__(self, others: list[Any]):
        self.others = others
        self.world_size = 1 + len(others)

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def test_moments_of_all_ranks_are_those_of_all_numbers() -> None:
    parts = [th.randn(n, dtype=th.float64) * 3 + 1e4 for n in (5, 1, 8)]
    others = [pooled_moments(part, Communicator()) for part in parts[1:]]
    moments = pooled_moments(parts[0], Pretended(others))
    everything = th.cat(parts)
    assert moments.mean == pytest.approx(float(everything.mean()), rel=1e-14)
    assert moments.std == pytest.approx(float(everything.std()), rel=1e-12)
    assert moments.largest == float(everything.abs().max())
    assert np.isnan(pooled_moments(th.tensor([1.0, float("nan")]), Pretended(others)).largest)


def test_merging_alone_changes_nothing_but_rounding() -> None:
    rng = np.random.default_rng(0)
    statistic = RunningMeanStd(shape=(3,))
    statistic.update(rng.normal(100.0, 5.0, (1000, 3)))
    base = statistic.copy()
    statistic.update(rng.normal(90.0, 5.0, (50, 3)))
    expected = statistic.copy()
    merge_running_statistics([statistic], [base], Communicator())
    assert statistic.count == pytest.approx(expected.count, rel=1e-15)
    np.testing.assert_allclose(statistic.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(statistic.var, expected.var, rtol=1e-12)


def test_a_frozen_normalizer_is_left_alone() -> None:
    statistic = RunningMeanStd(shape=(2,))
    statistic.update(np.ones((4, 2)))
    before = statistic.copy()
    merge_running_statistics([statistic], [statistic.copy()], Communicator())
    assert (statistic.count, statistic.mean.tolist(), statistic.var.tolist()) == (
        before.count,
        before.mean.tolist(),
        before.var.tolist(),
    )


def test_a_full_window_holds_episodes_of_every_rank() -> None:
    assert list(window([0], [[1, 2, 3], [10, 20], []], size=4)) == [10, 2, 20, 3]
    assert list(window([0], [[1, 2, 3], [10, 20], []], size=None)) == [0, 1, 10, 2, 20, 3]
    assert list(window([0], [[False], [True]], size=2)) == [False, True]
