"""
Everything that has a contract. A new operator, family, solver or critic is one line here, and inherits every promise.

Each family comes with x → an SB3 distribution of it, and the number of columns of x.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)

from sb3_trpo_fvp import EmpiricalFisher, FisherOperator, GaussNewton, KLHessian, conjugate_gradient
from sb3_trpo_fvp.check.contracts.solver import Solver
from sb3_trpo_fvp.critic.adam import AdamCritic
from sb3_trpo_fvp.critic.fit import CriticFit
from sb3_trpo_fvp.critic.gauss_newton import GaussNewtonCritic
from sb3_trpo_fvp.distributions import BernoulliFamily, CategoricalFamily, DistributionFamily, NormalFamily, TorchFamily
from tests.helpers.distributions import BetaDistribution, LaplaceDistribution, LaplaceFamily

OPERATORS: dict[str, type[FisherOperator]] = {
    "kl_hessian": KLHessian,
    "gauss_newton": GaussNewton,
    "empirical": EmpiricalFisher,
}

SOLVERS: dict[str, Solver] = {
    "conjugate_gradient": conjugate_gradient,
    "preconditioned": partial(conjugate_gradient, preconditioner=lambda r: 0.5 * r),
}

CRITICS: dict[str, Callable[[], CriticFit]] = {
    "adam": lambda: AdamCritic(n_epochs=5, batch_size=16),
    "gauss_newton": GaussNewtonCritic,
}

Build = Callable[[th.Tensor], Distribution]


def gaussian(x: th.Tensor, cls: type[DiagGaussianDistribution] = DiagGaussianDistribution) -> Any:
    return cls(2).proba_distribution(x[:, :2], 0.3 * x[:, 2:])


def gsde(x: th.Tensor, squash: bool = False) -> Any:
    distribution = StateDependentNoiseDistribution(2, squash_output=squash, learn_features=True)
    _, log_std = distribution.proba_distribution_net(latent_dim=2, latent_sde_dim=2)
    return distribution.proba_distribution(x[:, :2], log_std.detach().to(x.dtype), x[:, 2:])


FAMILIES: dict[str, tuple[DistributionFamily, Build, int]] = {
    "gaussian": (NormalFamily(), gaussian, 4),
    "squashed": (NormalFamily(), partial(gaussian, cls=SquashedDiagGaussianDistribution), 4),
    "gsde": (NormalFamily(), gsde, 4),
    "squashed_gsde": (NormalFamily(), partial(gsde, squash=True), 4),
    "categorical": (CategoricalFamily(), lambda x: CategoricalDistribution(4).proba_distribution(x), 4),
    "multi_categorical": (CategoricalFamily(), lambda x: MultiCategoricalDistribution([3, 2]).proba_distribution(x), 5),
    "bernoulli": (BernoulliFamily(), lambda x: BernoulliDistribution(3).proba_distribution(x), 3),
    "beta": (
        TorchFamily(th.distributions.Beta, ("concentration1", "concentration0")),
        lambda x: BetaDistribution(2).proba_distribution(x),
        4,
    ),
    "laplace": (LaplaceFamily(), lambda x: LaplaceDistribution(2).proba_distribution(x), 4),
}
