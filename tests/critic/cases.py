"""Small critics in double precision, a rollout to fit them on, and their Jacobian row by row."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_fvp.critic.fit import fit_critic
from sb3_trpo_fvp.critic.gauss_newton import GaussNewtonCritic, GaussNewtonCriticStats
from sb3_trpo_fvp.policies import evaluation_mode, split_parameters
from tests.helpers.models import DoubleFlatten

DIMENSION = 3
ACTIONS = spaces.Box(-1.0, 1.0, (2,))


class Normalised(BaseFeaturesExtractor):
    """An extractor with parameters that is not written out layer by layer."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, 4)
        self.layers = nn.Sequential(nn.Linear(DIMENSION, 4), nn.LayerNorm(4), nn.Tanh())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations.double())


class Arctangent(ActorCriticPolicy):
    """Values that Gauss-Newton steps overshoot from far away."""

    def predict_values(self, obs: Any) -> th.Tensor:
        return th.atan(super().predict_values(obs))


class Rollout:
    """What :func:`fit_critic` reads of a rollout."""

    def __init__(self, policy: ActorCriticPolicy, targets: th.Tensor | None = None, size: int = 40, seed: int = 0):
        generator = th.Generator().manual_seed(seed)
        self.observations = th.randn(size, DIMENSION, generator=generator)
        self.returns = th.randn(size, generator=generator, dtype=th.float64) if targets is None else targets

    def fit(self, policy: ActorCriticPolicy, state: dict[str, float] | None = None, **kwargs: Any) -> GaussNewtonCriticStats:
        state = {} if state is None else state
        split = split_parameters(policy, self.observations)
        stats = fit_critic(GaussNewtonCritic(**kwargs), policy, split, self, state)
        assert isinstance(stats, GaussNewtonCriticStats)
        state |= stats.state
        return stats


def make_policy(
    cls: type[ActorCriticPolicy] = ActorCriticPolicy, *, seed: int = 0, vf: tuple[int, ...] = (5, 4), **kwargs: Any
) -> ActorCriticPolicy:
    """In double precision, every parameter far from where SB3 starts it."""
    th.manual_seed(seed)
    kwargs = {"net_arch": {"pi": [4], "vf": list(vf)}, "features_extractor_class": DoubleFlatten} | kwargs
    policy = cls(spaces.Box(-np.inf, np.inf, (DIMENSION,)), ACTIONS, lambda _: 1e-3, **kwargs).double()
    for parameter in policy.parameters():
        parameter.data = 0.5 * th.randn_like(parameter)
    return policy


@th.no_grad()
def mean_squared_error(policy: ActorCriticPolicy, data: Any) -> float:
    """In the mode in which values are predicted while data is collected."""
    with evaluation_mode(policy):
        return float((policy.predict_values(data.observations).flatten().double() - data.returns.double()).square().mean())


def jacobian(policy: ActorCriticPolicy, observations: th.Tensor, parameters: list[nn.Parameter]) -> th.Tensor:
    """∂V/∂θ, (N, P), one row of plain backpropagation after the other."""
    rows = []
    for value in policy.predict_values(observations).flatten():
        gradients = th.autograd.grad(value, parameters, retain_graph=True)
        rows.append(th.cat([gradient.flatten() for gradient in gradients]))
    return th.stack(rows)


NETWORKS: dict[str, dict[str, Any]] = {
    "written_out": {},
    "shared_extractor": {"features_extractor_class": Normalised},
    "own_extractor": {"features_extractor_class": Normalised, "share_features_extractor": False},
    "own_methods": {"cls": Arctangent},
}
