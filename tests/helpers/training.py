"""Rollouts in a synthetic environment of any spaces, and the joint KL measured by formulas of the tests' own."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_fvp import TRPO
from tests.conftest import BOUND

VECTOR = spaces.Box(-1.0, 1.0, (4,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"vector": VECTOR, "image": IMAGE, "index": spaces.Discrete(3)})
SMALL = {"net_arch": {"pi": [16], "vf": [16]}}


class Memoryless(gym.Env):
    """Every observation is drawn anew; the reward pays for the sum of the action where the first coordinate is positive."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, episode_length: int = 17):
        self.observation_space, self.action_space = observation_space, action_space
        self.episode_length = episode_length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(np.sum(np.asarray(action, dtype=np.float64)) * self.sign)
        self.steps += 1
        return self._observe(), reward, False, self.steps >= self.episode_length, {}

    def _observe(self) -> Any:
        observation = self.observation_space.sample()
        first = observation["vector"] if isinstance(observation, dict) else observation
        self.sign = 1.0 if np.ravel(first)[0] > 0 else -1.0
        return observation


def make_model(
    action_space: spaces.Space,
    observation_space: spaces.Space = VECTOR,
    *,
    algorithm: Callable[..., Any] = TRPO,
    policy: Any = None,
    n_envs: int = 2,
    **kwargs: Any,
) -> Any:
    """A small model on :class:`Memoryless`; sb3-contrib's TRPO with ``algorithm=``."""
    if policy is None:
        policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    env = DummyVecEnv([lambda: Memoryless(observation_space, action_space) for _ in range(n_envs)])
    kwargs = BOUND | {"n_steps": 64, "batch_size": 32, "n_critic_updates": 1, "seed": 0, "policy_kwargs": SMALL} | kwargs
    return algorithm(policy, env, device="cpu", **kwargs)


def collect(model: OnPolicyAlgorithm) -> OnPolicyAlgorithm:
    """Fill the rollout buffer as ``learn`` does before ``train``."""
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(total_timesteps=10**6, reset_num_timesteps=False)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def collected(action_space: spaces.Space, observation_space: spaces.Space = VECTOR, **kwargs: Any) -> Any:
    """A small model with a full rollout buffer."""
    return collect(make_model(action_space, observation_space, **kwargs))


def rollout(model: OnPolicyAlgorithm) -> Any:
    """The whole rollout in the buffer's order, as ``train`` sees it."""
    state = np.random.get_state()
    next(model.rollout_buffer.get(batch_size=1))
    np.random.set_state(state)
    return model.rollout_buffer._get_samples(np.arange(model.n_steps * model.n_envs))


@th.no_grad()
def distributions(policy: ActorCriticPolicy, observations: Any) -> list[th.distributions.Distribution]:
    """The policy's action distribution now, as independent torch distributions in double precision."""
    policy.set_training_mode(False)
    inner = policy.get_distribution(observations).distribution
    copies: list[th.distributions.Distribution] = []
    for factor in inner if isinstance(inner, list) else [inner]:
        if isinstance(factor, th.distributions.Normal):
            copies.append(th.distributions.Normal(factor.loc.double(), factor.scale.double()))
        else:
            copies.append(type(factor)(logits=factor.logits.double()))
    return copies


def joint_kl(old: list[th.distributions.Distribution], new: list[th.distributions.Distribution]) -> float:
    """Mean over the states of KL(old ‖ new), summed over whatever the action consists of."""
    return float(np.mean(sum(_kl(p, q).reshape(len(_kl(p, q)), -1).sum(1) for p, q in zip(old, new, strict=True))))


def _kl(p: Any, q: Any) -> np.ndarray:
    """By the textbook; torch's own calls a KL infinite where a probability of q underflows, however seldom p goes there."""
    if isinstance(p, th.distributions.Normal):
        (m, s), (n, t) = ((d.loc.numpy(), d.scale.numpy()) for d in (p, q))
        return np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    logits = [d.logits.numpy() for d in (p, q)]
    if isinstance(p, th.distributions.Bernoulli):
        logits = [np.stack([z, np.zeros_like(z)], -1) for z in logits]
    log_p, log_q = (z - np.logaddexp.reduce(z, -1, keepdims=True) for z in logits)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def train(model: OnPolicyAlgorithm) -> dict[str, Any]:
    """Run ``train`` and return what it recorded."""
    model.train()
    return dict(model.logger.name_to_value)


def train_measuring_kl(model: OnPolicyAlgorithm) -> tuple[dict[str, Any], float]:
    """Run ``train`` and return what it recorded, and the joint KL over the rollout's states as measured here."""
    observations = rollout(model).observations
    old = distributions(model.policy, observations)
    log = train(model)
    return log, joint_kl(old, distributions(model.policy, observations))


def snapshot(policy: ActorCriticPolicy) -> dict[str, th.Tensor]:
    """Copies of all parameters and buffers, by name."""
    return {name: tensor.detach().clone() for name, tensor in policy.state_dict().items()}


def changed(before: dict[str, th.Tensor], policy: ActorCriticPolicy) -> set[str]:
    """Names of the parameters and buffers that are not bit for bit what they were."""
    after = policy.state_dict()
    return {name for name, tensor in before.items() if not th.equal(tensor, after[name])}


def all_finite(policy: ActorCriticPolicy) -> bool:
    return all(bool(th.isfinite(tensor).all()) for tensor in policy.state_dict().values())
