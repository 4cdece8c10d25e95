"""Action distributions of a user's own, and SB3's policy around one."""

from typing import Any

import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.distributions import (
    Beta,
    Categorical,
    Laplace,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from sb3_trpo_fvp import DistributionFamily
from sb3_trpo_fvp.distributions import (
    Phi,
)


class OwnDistribution(Distribution):
    """Base of the own distributions below: a network with ``outputs`` columns for each action dimension."""

    outputs = 2

    def __init__(self, action_dim: int):
        super().__init__()
        self.action_dim = action_dim

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        return nn.Linear(latent_dim, self.outputs * self.action_dim)

    def proba_distribution(self, params: th.Tensor) -> Any:
        self.distribution = self.build(*params.reshape(len(params), self.action_dim, self.outputs).unbind(-1))
        return self

    def build(self, *params: th.Tensor) -> th.distributions.Distribution:
        raise NotImplementedError

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return self.distribution.log_prob(actions).sum(1)

    def entropy(self) -> th.Tensor | None:
        return None

    def sample(self) -> th.Tensor:
        return self.distribution.sample()

    def mode(self) -> th.Tensor:
        return self.distribution.mean

    def actions_from_params(self, params: th.Tensor, deterministic: bool = False) -> th.Tensor:
        return self.proba_distribution(params).get_actions(deterministic)

    def log_prob_from_params(self, params: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        actions = self.actions_from_params(params)
        return actions, self.log_prob(actions)


class BetaDistribution(OwnDistribution):
    """Bounded actions without clipping."""

    def build(self, a: th.Tensor, b: th.Tensor) -> Beta:
        return Beta(1 + nn.functional.softplus(a), 1 + nn.functional.softplus(b))


class MixtureDistribution(OwnDistribution):
    """Two normals: a density without a closed-form KL."""

    outputs = 3

    def build(self, logit: th.Tensor, first: th.Tensor, second: th.Tensor) -> MixtureSameFamily:
        means = th.stack([first, second], -1) + th.tensor([-1.0, 1.0])
        weights = Categorical(logits=th.stack([logit, -logit], -1))
        return MixtureSameFamily(weights, Normal(means, th.full_like(means, 0.5)))


class LaplaceDistribution(OwnDistribution):
    """Heavy tails; torch's KL for it has a kink where old and new agree."""

    def build(self, mean: th.Tensor, log_scale: th.Tensor) -> Laplace:
        return Laplace(mean, log_scale.exp())


class LaplaceFamily(DistributionFamily):
    """φ = (μ, b), M = diag(1/b², 1/b²)."""

    def parameters(self, distribution: Distribution) -> Phi:
        laplace: Any = distribution.distribution
        return laplace.loc, laplace.scale

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        return kl_divergence(Laplace(*old), Laplace(*new))

    def fisher(self, phi: Phi) -> Any:
        return lambda u: tuple(tangent / phi[1].square() for tangent in u)


def policy_with(distribution_class: type[OwnDistribution]) -> type[ActorCriticPolicy]:
    """SB3's policy around an own action distribution."""

    class OwnPolicy(ActorCriticPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.action_dist: Any = distribution_class(self.action_space.shape[0])
            self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
            self.log_std = None
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

        def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
            return self.action_dist.proba_distribution(self.action_net(latent_pi))

    return OwnPolicy
