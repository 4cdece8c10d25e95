"""Rollouts collected the fast way are those of SB3's own loop: actions, numbers, callbacks, hooks."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_fvp import TRPO
from tests.helpers.environments import ACTION_SPACES, Memoryless, unbounded
from tests.helpers.models import DISTRIBUTIONS, forbid_stacks, model_of
from tests.helpers.training import collect


class TimeLimited(gym.Wrapper[Any, Any, Any, Any]):
    """Ends by truncation after 7 steps, by termination now and then, so that both are met."""

    def reset(self, **kwargs: Any) -> Any:
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        self.steps += 1
        return observation, reward, bool(observation[0] > 1.5), self.steps >= 7, info


@pytest.mark.parametrize(
    ("distribution", "sde_sample_freq"), [*((name, -1) for name in DISTRIBUTIONS), ("gsde", 4), ("squashed_gsde", 4)]
)
def test_rollouts_draw_the_same_actions_and_hold_the_same_numbers(distribution: str, sde_sample_freq: int) -> None:
    space, use_sde, policy_kwargs = DISTRIBUTIONS[distribution]
    buffers = []
    for short in (True, False):
        env = make_vec_env(lambda: TimeLimited(Memoryless(unbounded(), ACTION_SPACES[space])), n_envs=3, seed=0)
        sde = {"use_sde": use_sde, "sde_sample_freq": sde_sample_freq, "policy_kwargs": policy_kwargs}
        model = TRPO("MlpPolicy", env, n_steps=64, batch_size=96, seed=0, device="cpu", **sde)
        if not short:
            forbid_stacks(model.policy)
        collect(model)
        buffers.append(model.rollout_buffer)
        episodes = model.ep_info_buffer
        assert episodes is not None
        assert len(episodes) > 10
    for name in ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns"):
        # The log-probability undoes the squashing, which near ±1 magnifies rounding without bound.
        rounding = 1e-2 if name == "log_probs" and distribution == "squashed_gsde" else 1e-4
        one, other = (getattr(buffer, name) for buffer in buffers)
        np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding / 10, err_msg=name)
    assert buffers[0].full


class Recorder(BaseCallback):
    """Looks at what SB3's and users' callbacks look at."""

    def __init__(self, stop_at: int = 10**9):
        super().__init__()
        self.stop_at = stop_at
        self.seen: list[tuple[Any, ...]] = []

    def _on_step(self) -> bool:
        found = self.locals
        self.seen.append(
            (found["n_steps"], found["rewards"].copy(), found["dones"].copy(), found["actions"].copy(), len(found["infos"]))
        )
        assert found["self"] is self.model
        assert found["new_obs"].shape == (2, 4)
        return len(self.seen) < self.stop_at


def test_callbacks_see_the_same_and_can_stop() -> None:
    seen = []
    for short in (True, False):
        model = model_of("gaussian", n_steps=128)
        if not short:
            forbid_stacks(model.policy)
        recorder = Recorder(stop_at=100)
        model.learn(10_000, callback=recorder)
        assert model.num_timesteps == 200
        seen.append(recorder.seen)
    for one, other in zip(*seen, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_a_hook_on_the_policy_is_called_at_every_step() -> None:
    model = model_of("gaussian")
    calls: list[int] = []
    model.policy.register_forward_hook(lambda module, inputs, output: calls.append(1))
    collect(model)
    assert len(calls) == model.n_steps


def test_observations_that_are_not_finite_stop_the_rollout() -> None:
    model = model_of("gaussian")
    model._setup_learn(64)
    model._last_obs[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"`env` must return finite observations, got NaN or infinity at step 0"):
        collect_from_last(model)


def collect_from_last(model: Any) -> None:
    callback = model._init_callback(None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
