"""
Small policies and models, by the distribution of their actions or by their spaces.

``make_policy`` and ``model_of`` take the name of a distribution (``DISTRIBUTIONS``) and of an architecture
(``ARCHITECTURES``); ``make_model`` takes spaces and every argument of the algorithm.
"""

from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_trpo_fvp import TRPO
from tests.helpers.environments import ACTION_SPACES, OBSERVATION_DIM, VECTOR, Memoryless, unbounded

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


class Extractor(BaseFeaturesExtractor):
    """Learned features, through whatever module is put in their middle."""

    def __init__(self, observation_space: spaces.Space, middle: type[nn.Module] = nn.Identity, **kwargs: Any):
        super().__init__(observation_space, features_dim=8)
        self.net = nn.Sequential(nn.Linear(4, 8), middle(**kwargs), nn.Tanh())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


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
    policy = ActorCriticPolicy(unbounded(), ACTION_SPACES[space], lambda _: 1e-3, use_sde=use_sde, **kwargs).to(dtype)
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


def forbid_stacks(policy: ActorCriticPolicy) -> None:
    """A hook on a layer of each network: calling the layers is no longer the same as their arithmetic."""
    for layer in (policy.action_net, policy.value_net):
        layer.register_forward_hook(lambda module, inputs, output: None)


BOUND = {"target_kl": 0.01, "cg_damping": 0.1}
"""What the small models are held against, whatever the defaults are; sb3-contrib's defaults."""
SMALL = {"net_arch": {"pi": [16], "vf": [16]}}


def with_extractor(**kwargs: Any) -> dict[str, Any]:
    """``policy_kwargs`` of a small network behind an :class:`Extractor`."""
    return {**SMALL, "features_extractor_class": Extractor, **kwargs}


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
    if algorithm is TRPO:  # one update from one rollout, unless a test is about more
        kwargs = {"sample_reuse": 1} | kwargs
    kwargs = BOUND | {"n_steps": 64, "batch_size": 32, "n_critic_updates": 1, "seed": 0, "policy_kwargs": SMALL} | kwargs
    return algorithm(policy, env, device="cpu", **kwargs)


def model_of(distribution: str = "gaussian", architecture: str = "mlp", *, dtype: th.dtype = th.float32, **kwargs: Any) -> Any:
    """A small model with this distribution of actions, its policy's parameters as SB3 initialises them."""
    space, use_sde, policy_kwargs = DISTRIBUTIONS[distribution]
    policy_kwargs = policy_kwargs | ARCHITECTURES[architecture] | kwargs.pop("policy_kwargs", {})
    if dtype is th.float64:
        policy_kwargs = {"features_extractor_class": DoubleFlatten} | policy_kwargs
    kwargs = {"n_critic_updates": 2} | kwargs
    model = make_model(ACTION_SPACES[space], unbounded(), use_sde=use_sde, policy_kwargs=policy_kwargs, **kwargs)
    model.policy.to(dtype)
    return model
