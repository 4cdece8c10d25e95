"""Rollouts collected the fast way are those of SB3's own loop: actions, numbers, callbacks, hooks."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

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


# ------------------------------------------------------------------------------------- callbacks that change the policy


class At(BaseCallback):
    """Does something to the policy at one step; at step 0, when the rollout starts."""

    def __init__(self, step: int, action: Callable[[Any], Any]):
        super().__init__()
        self.step, self.action = step, action

    def _on_rollout_start(self) -> None:
        if self.step == 0:
            self.action(self.model.policy)

    def _on_step(self) -> bool:
        if self.n_calls == self.step:
            self.action(self.model.policy)
        return True


@th.no_grad()
def fill(policy: Any) -> None:
    policy.log_std.fill_(-5.0)


def fill_data(policy: Any) -> None:
    policy.log_std.data.fill_(-5.0)


def replace_data(policy: Any) -> None:
    policy.log_std.data = policy.log_std.data - 5.0
    policy.action_net.weight.data = policy.action_net.weight.data + 0.3


def replace_parameter(policy: Any) -> None:
    policy.action_net.bias = th.nn.Parameter(policy.action_net.bias.detach() + 2.0)


def shift_weights(policy: Any) -> None:
    for parameter in policy.mlp_extractor.policy_net.parameters():
        parameter.data.add_(0.5)


def load(policy: Any, **options: Any) -> None:
    state = {name: tensor + 0.2 for name, tensor in policy.state_dict().items()}
    policy.load_state_dict(state, **options)


def load_assigning(policy: Any) -> None:
    load(policy, assign=True)


def add_a_hook(policy: Any) -> None:
    """From here on it is no policy that can be written out."""
    policy.action_net.bias.data = policy.action_net.bias.data + 0.7
    policy.action_net.register_forward_hook(lambda module, inputs, output: output + 1.0)


CHANGES = [fill, fill_data, replace_data, replace_parameter, shift_weights, load, load_assigning, add_a_hook]


def learned_with(callback: Any, short: bool, distribution: str = "gaussian", **kwargs: Any) -> Any:
    """One rollout of 64 steps in two environments, by the short way or by SB3's own loop."""
    space, use_sde, policy_kwargs = DISTRIBUTIONS[distribution]
    kwargs = {"use_sde": use_sde, "policy_kwargs": policy_kwargs, "n_steps": 64, "batch_size": 64, "seed": 0} | kwargs
    env = make_vec_env(lambda: TimeLimited(Memoryless(unbounded(), ACTION_SPACES[space])), n_envs=2, seed=0)
    model = TRPO("MlpPolicy", env, device="cpu", **kwargs)
    if not short:
        forbid_stacks(model.policy)
    model.train = lambda: None  # type: ignore[method-assign]
    return model.learn(128, callback=callback)


@pytest.mark.parametrize("step", [0, 20])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_callback_that_changes_the_policy_is_obeyed_at_the_next_step(change: Any, step: int) -> None:
    buffers = [learned_with(At(step, change), short).rollout_buffer for short in (True, False)]
    unchanged = learned_with(None, True).rollout_buffer
    assert not np.allclose(buffers[0].actions[step + 1 :], unchanged.actions[step + 1 :])
    for name in ("actions", "log_probs"):
        one, other = (getattr(buffer, name) for buffer in buffers)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("distribution", sorted(set(DISTRIBUTIONS) - {"gaussian", "squashed_gsde"}))
def test_log_probabilities_are_those_of_the_policy_that_acted(distribution: str) -> None:
    def change(policy: Any) -> None:
        for parameter in policy.parameters():
            parameter.data.add_(0.1)

    one, other = (learned_with(At(20, change), short, distribution).rollout_buffer for short in (True, False))
    for name in ("actions", "log_probs"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-4, err_msg=name)


# ---------------------------------------------------------------------------------- callbacks that read SB3's locals


class Reader(BaseCallback):
    """Keeps what SB3's loop has computed at each step and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        assert "values" in self.locals
        assert self.locals["rollout_buffer"].pos == self.locals["n_steps"] == len(self.seen)
        self.seen.append({name: self.locals[name].numpy().copy() for name in ("log_probs", "values", "obs_tensor")})
        assert self.locals.get("values") is not None
        assert self.locals.get("nothing", 3) == 3
        with pytest.raises(KeyError):
            self.locals["nothing"]
        return True

    def _on_rollout_end(self) -> None:
        self.seen.append({"last_values": self.locals["values"].numpy()})


@pytest.mark.parametrize("nest", [lambda x: x, lambda x: [x], lambda x: CallbackList([EveryNTimesteps(1, x)])])
@pytest.mark.parametrize("distribution", ["gaussian", "categorical", "gsde"])
def test_callbacks_find_what_sb3s_loop_has_computed(distribution: str, nest: Any) -> None:
    seen = []
    for short in (True, False):
        reader = Reader()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learned_with(nest(reader), short, distribution)
        told = [warning for warning in caught if "A callback looks" in str(warning.message)]
        assert len(told) == short, "said once, and only where it costs time"
        seen.append(reader.seen)
    assert len(seen[0]) == len(seen[1]) >= 64
    for one, other in zip(*seen, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].shape == other[name].shape
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name)


# --------------------------------------------------------------------------------------------------------- what goes wrong


class OneArray(VecEnvWrapper):
    """Gives the last observation of every episode in the same array."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                self.array = vars(self).get("array", info["terminal_observation"])
                self.array[:] = info["terminal_observation"]
                info["terminal_observation"] = self.array
        return observations, rewards, dones, infos


@pytest.mark.parametrize("short", [True, False])
def test_time_limits_are_bootstrapped_from_their_own_last_observations(short: bool) -> None:
    rewards = []
    for wrapper in (lambda env: env, OneArray):
        env = wrapper(make_vec_env(lambda: TimeLimited(Memoryless(unbounded(), ACTION_SPACES["box"])), n_envs=1, seed=0))
        model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, device="cpu")
        if not short:
            forbid_stacks(model.policy)
        model.policy.value_net.weight.data *= 100
        rewards.append(collect(model).rollout_buffer.rewards)
    np.testing.assert_array_equal(*rewards)


class Counting(gym.Wrapper[Any, Any, Any, Any]):
    """Counts its steps, and gives one observation that only double precision can hold."""

    steps, huge_at = 0, 10**9

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        self.steps += 1
        return (observation * 1e300 if self.steps == self.huge_at else observation), *rest


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_no_action_that_is_not_finite_reaches_the_environment(distribution: str) -> None:
    space, use_sde, policy_kwargs = DISTRIBUTIONS[distribution]
    env = DummyVecEnv([lambda: Counting(Memoryless(unbounded(), ACTION_SPACES[space]))])
    model = TRPO("MlpPolicy", env, n_steps=32, batch_size=32, use_sde=use_sde, policy_kwargs=policy_kwargs, device="cpu")

    def spoil(policy: Any) -> None:
        policy.action_net.weight.data[0, 0] = np.nan

    with pytest.raises(ValueError, match=r"finite actions, got NaN or infinity in action_net\.weight"):
        model.learn(32, callback=At(10, spoil))
    assert env.envs[0].steps == 10
    assert np.isfinite(model.rollout_buffer.actions).all()


def test_an_observation_that_overflows_single_precision_is_named() -> None:
    observations = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    env = DummyVecEnv([lambda: Counting(Memoryless(observations, ACTION_SPACES["box"]))])
    env.envs[0].huge_at = 7
    model = TRPO("MlpPolicy", env, n_steps=32, batch_size=32, device="cpu")
    with pytest.raises(ValueError, match="finite observations, got NaN or infinity at step 7 of a rollout"):
        model.learn(32)
    assert env.envs[0].steps == 7


def test_a_standard_deviation_that_is_not_finite_is_named() -> None:
    model = model_of("gaussian")
    model.policy.log_std.data[0] = np.inf
    with pytest.raises(ValueError, match="infinity in log_std"):
        collect(model)
