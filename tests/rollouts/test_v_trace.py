"""Advantages of older rollouts, against sums written down term by term, and against SB3's own GAE where both are the same."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_trpo_fvp.rollouts.v_trace import v_trace

GAMMA, LAMBDA = 0.9, 0.8


def random_rollout(seed: int, steps: int = 12, n_envs: int = 3) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "rewards": draw.normal(size=(steps, n_envs)),
        "values": draw.normal(size=(steps, n_envs)),
        "last_values": draw.normal(size=n_envs),
        "episode_starts": draw.random((steps, n_envs)) < 0.25,
        "last_dones": draw.random(n_envs) < 0.5,
        "ratios": np.exp(draw.normal(size=(steps, n_envs))),
    }


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_sum_of_discounted_and_truncated_temporal_differences(seed: int) -> None:
    data = random_rollout(seed)
    advantages, targets = v_trace(**data, gamma=GAMMA, gae_lambda=LAMBDA)
    steps, n_envs = data["rewards"].shape
    ends = np.vstack([data["episode_starts"][1:], data["last_dones"]])
    for env in range(n_envs):
        values = [*data["values"][:, env], data["last_values"][env]]
        for t in range(steps):
            total, factor = 0.0, 1.0
            for k in range(t, steps):
                behind = 0.0 if ends[k, env] else values[k + 1]
                total += factor * (data["rewards"][k, env] + GAMMA * behind - values[k])
                if ends[k, env] or k + 1 == steps:
                    break
                factor *= GAMMA * LAMBDA * min(1.0, data["ratios"][k + 1, env])
            assert advantages[t, env] == pytest.approx(total, rel=1e-12, abs=1e-12)
            target = values[t] + min(1.0, data["ratios"][t, env]) * total
            assert targets[t, env] == pytest.approx(target, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_with_the_same_policy_it_is_generalized_advantage_estimation(seed: int) -> None:
    data = random_rollout(seed) | {"ratios": np.ones((12, 3))}
    buffer = RolloutBuffer(12, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", LAMBDA, GAMMA, n_envs=3)
    buffer.reset()
    buffer.rewards[:], buffer.values[:], buffer.episode_starts[:] = data["rewards"], data["values"], data["episode_starts"]
    buffer.compute_returns_and_advantage(th.as_tensor(data["last_values"]), data["last_dones"])
    advantages, targets = v_trace(**data, gamma=GAMMA, gae_lambda=LAMBDA)
    np.testing.assert_allclose(advantages, buffer.advantages, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(targets, buffer.returns, rtol=1e-5, atol=1e-6)
