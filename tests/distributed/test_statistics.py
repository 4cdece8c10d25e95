"""Statistics of all ranks are those of all numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_trpo_fvp.distributed.communicator import Communicator
from sb3_trpo_fvp.distributed.statistics import StatisticsGuard, merge_running_statistics, pooled_moments, window
from tests.helpers.environments import VECTOR, Memoryless


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


class Spoiling(VecEnvWrapper):
    """Puts a number into the rewards or the observations of the second environment."""

    reward: float | None = None
    observation: float | None = None

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        if self.reward is not None:
            rewards[1] = self.reward
        if self.observation is not None:
            (observations["a"] if isinstance(observations, dict) else observations)[1, 0] = self.observation
        return observations, rewards, dones, infos


def numbers(env: VecNormalize) -> list[Any]:
    statistics = [env.ret_rms, *(env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms])]
    return [(statistic.mean.tolist(), statistic.var.tolist(), statistic.count) for statistic in statistics]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("dict_observations", [False, True])
@pytest.mark.filterwarnings("ignore:(invalid value|overflow)")  # numpy, in VecNormalize
def test_a_guarded_normaliser_takes_in_nothing_that_is_not_finite(bad: float, what: str, dict_observations: bool) -> None:
    vector = spaces.Box(-1.0, 1.0, (4,), np.float64)
    space = spaces.Dict({"a": vector, "vector": VECTOR}) if dict_observations else vector
    spoiling = Spoiling(make_vec_env(lambda: Memoryless(space, spaces.Discrete(3)), n_envs=3))
    env = VecNormalize(spoiling)
    env.reset()
    guard = StatisticsGuard(env)

    def step() -> Any:
        rewards = env.step(np.array([0, 1, 2]))[1]
        guard.check(rewards)
        return rewards

    for _ in range(5):
        step()
    before, returns = numbers(env), env.returns.copy()
    setattr(spoiling, what, bad)
    rewards = step()
    assert numbers(env) == before
    assert np.isfinite(env.returns).all()
    assert np.isfinite(rewards[[0, 2]]).all(), "the other environments are paid as ever"
    assert math.isfinite(rewards[1]) == (what == "observation")
    if what == "reward":
        assert env.returns[1] == returns[1]
    setattr(spoiling, what, None)
    assert np.isfinite(step()).all()
    assert [count for _, _, count in numbers(env)] == [count + 3 for _, _, count in before]


def test_statistics_that_are_not_finite_to_begin_with_are_named() -> None:
    env = VecNormalize(make_vec_env(lambda: Memoryless(VECTOR, spaces.Discrete(3))))
    env.ret_rms.var = np.float64(np.nan)
    with pytest.raises(ValueError, match="VecNormalize with finite statistics, got NaN"):
        StatisticsGuard(env)
