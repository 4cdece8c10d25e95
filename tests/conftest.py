"""What several test files share: an environment for every action space, policies in double precision, a rollout."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.linalg.status import NamedNumber

OBSERVATION_DIM = 4

ACTION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-1.0, 1.0, (3,)),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}

SQUASHED = {"squash_output": True}
DISTRIBUTIONS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "gaussian": ("box", False, {}),
    "gsde": ("box", True, {}),
    "squashed_gsde": ("box", True, SQUASHED),
    "categorical": ("discrete", False, {}),
    "multi_categorical": ("multi_discrete", False, {}),
    "bernoulli": ("multi_binary", False, {}),
}
"""Action space, use_sde and policy_kwargs of every distribution that SB3's actor-critic policies know."""


class DoubleFlatten(FlattenExtractor):
    """SB3 casts observations to single precision before the extractor; here they become double again."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).double()


class LearnedExtractor(BaseFeaturesExtractor):
    """An extractor with parameters, a normalisation and a skip connection: nothing that can be written out layer by layer."""

    def __init__(self, observation_space: spaces.Space, features_dim: int = 4):
        super().__init__(observation_space, features_dim)
        self.first = nn.Linear(OBSERVATION_DIM, features_dim)
        self.norm = nn.LayerNorm(features_dim)
        self.second = nn.Linear(features_dim, features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.norm(th.tanh(self.first(observations.to(self.first.weight.dtype))))
        return hidden + th.nn.functional.softplus(self.second(hidden))


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mlp": {"net_arch": {"pi": [5, 4], "vf": [4]}},
    "relu": {"net_arch": {"pi": [4, 5], "vf": [4]}, "activation_fn": nn.ReLU},
    "linear": {"net_arch": []},
    "learned_extractor": {"net_arch": {"pi": [4], "vf": [4]}, "features_extractor_class": LearnedExtractor},
}


def make_policy(
    distribution: str, architecture: str = "mlp", *, dtype: th.dtype = th.float64, seed: int = 0
) -> ActorCriticPolicy:
    """A policy whose every parameter, output layer and standard deviations included, is far from its initial value."""
    space, use_sde, kwargs = DISTRIBUTIONS[distribution]
    kwargs = kwargs | ARCHITECTURES[architecture]
    if dtype is th.float64:
        kwargs = {"features_extractor_class": DoubleFlatten} | kwargs
    th.manual_seed(seed)
    policy = ActorCriticPolicy(
        spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,)), ACTION_SPACES[space], lambda _: 1e-3, use_sde=use_sde, **kwargs
    ).to(dtype)
    scatter(policy)
    return policy


@th.no_grad()
def scatter(policy: ActorCriticPolicy, scale: float = 0.4) -> None:
    """Give every parameter a random value."""
    for name, parameter in policy.named_parameters():
        parameter.copy_(scale * th.randn_like(parameter) - (0.5 if name == "log_std" else 0.0))


def make_batch(policy: ActorCriticPolicy, size: int = 6, *, seed: int = 1) -> tuple[th.Tensor, th.Tensor]:
    """States, and one action of the policy's own in each, as a rollout buffer holds them."""
    th.manual_seed(seed)
    observations = th.randn(size, OBSERVATION_DIM)
    return observations, sample_actions(policy, observations)


@th.no_grad()
def sample_actions(policy: ActorCriticPolicy, observations: th.Tensor) -> th.Tensor:
    """One action in each state, drawn independently: gSDE has a noise matrix for every state."""
    if policy.use_sde:
        policy.reset_noise(len(observations))
    return policy.get_distribution(observations).get_actions().reshape(len(observations), -1)


class RandomStates(gym.Env):
    """States without memory, a reward that every action component takes part in, episodes of 16 steps."""

    def __init__(self, action_space: spaces.Space, episode_length: int = 16):
        self.observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
        self.action_space = action_space
        self.episode_length = episode_length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = float(np.sum(np.atleast_1d(action)) * self.state[0] - self.state[1])
        return self._observe(), reward, False, self.steps >= self.episode_length, {}

    def _observe(self) -> np.ndarray:
        self.state = self.np_random.standard_normal(OBSERVATION_DIM).astype(np.float32)
        return self.state


BOUND = {"target_kl": 0.01, "cg_damping": 0.1}
"""What the small models are held against, whatever the defaults are; sb3-contrib's defaults."""


def make_model(
    distribution: str = "gaussian",
    architecture: str = "mlp",
    *,
    dtype: th.dtype = th.float32,
    n_envs: int = 2,
    seed: int = 0,
    algorithm: Callable[..., Any] = TRPO,
    **kwargs: Any,
) -> Any:
    """A small TRPO on :class:`RandomStates`, its policy's parameters as SB3 initialises them."""
    space, use_sde, policy_kwargs = DISTRIBUTIONS[distribution]
    policy_kwargs = policy_kwargs | ARCHITECTURES[architecture] | kwargs.pop("policy_kwargs", {})
    if dtype is th.float64:
        policy_kwargs = {"features_extractor_class": DoubleFlatten} | policy_kwargs
    kwargs = BOUND | {"n_steps": 64, "batch_size": 32, "n_critic_updates": 2} | kwargs
    env = DummyVecEnv([lambda: RandomStates(ACTION_SPACES[space]) for _ in range(n_envs)])
    model = algorithm("MlpPolicy", env, use_sde=use_sde, policy_kwargs=policy_kwargs, seed=seed, device="cpu", **kwargs)
    model.policy.to(dtype)
    return model


def collect(model: Any) -> Any:
    """Fill the model's rollout buffer once, as ``learn`` does before ``train``; logs go nowhere."""
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(model.n_steps * model.n_envs)
    model.collect_rollouts(model.env, callback or CallbackList([]), model.rollout_buffer, n_rollout_steps=model.n_steps)
    return model.rollout_buffer


def rollout_of(model: Any) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """States, actions and advantages of the buffer, copied before anything reads it."""
    buffer = model.rollout_buffer
    assert not buffer.generator_ready
    flat = [th.as_tensor(buffer.swap_and_flatten(a)).float() for a in (buffer.observations, buffer.actions, buffer.advantages)]
    return flat[0], flat[1], flat[2].flatten()


def logged(model: Any) -> dict[str, Any]:
    """What the last ``train`` recorded, statuses by the names that they print as."""
    return readable(model.logger.name_to_value)


def readable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Logged values, with the names of those that have one."""
    return {key: str(value) if isinstance(value, NamedNumber) else value for key, value in values.items()}


def parameters_of(model: Any) -> dict[str, th.Tensor]:
    """Copies of all parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Several test workers share the cores."""
    th.set_num_threads(1)
