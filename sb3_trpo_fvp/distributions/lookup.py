"""Which family an action distribution belongs to."""

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

from sb3_trpo_fvp.distributions.families import (
    BernoulliFamily,
    CategoricalFamily,
    DistributionFamily,
    NormalFamily,
    TorchFamily,
)
from sb3_trpo_fvp.distributions.unwrapping import base_distribution

_TORCH_FAMILIES: dict[type[th.distributions.Distribution], DistributionFamily] = {
    th.distributions.Normal: NormalFamily(),
    th.distributions.Categorical: CategoricalFamily(),
    th.distributions.Bernoulli: BernoulliFamily(),
}


_SB3_FAMILIES: dict[type[Distribution], DistributionFamily] = {
    DiagGaussianDistribution: NormalFamily(),
    SquashedDiagGaussianDistribution: NormalFamily(),
    StateDependentNoiseDistribution: NormalFamily(),
    CategoricalDistribution: CategoricalFamily(),
    MultiCategoricalDistribution: CategoricalFamily(),
    BernoulliDistribution: BernoulliFamily(),
}


_REGISTERED: dict[type[Distribution], DistributionFamily] = {}


def register_family(distribution_class: type[Distribution], family: DistributionFamily) -> None:
    """
    Teach this package the geometry of an own action distribution.

    Not needed where the distribution's ``distribution`` attribute is a torch distribution with a registered KL, nor
    for ``fisher="empirical"`` with ``kl_estimator="monte_carlo"``, which ask for ``log_prob`` only.

    :param distribution_class: subclass of SB3's ``Distribution``; its own subclasses share the family
    :param family: its geometry
    """
    _REGISTERED[distribution_class] = family


def family_of(distribution: Distribution) -> DistributionFamily | None:
    """
    Find the geometry of an action distribution.

    :param distribution: what ``policy.get_distribution`` returns
    :return: the registered family, else that of its torch distribution, else None: only ``log_prob`` is known
    """
    # By exact class: a subclass of a normal policy, or of Normal, may well not be normal.
    known = registered_family(distribution) or _SB3_FAMILIES.get(type(distribution))
    base = base_distribution(distribution)
    if known is not None or base is None:
        return known
    return _TORCH_FAMILIES.get(type(base)) or TorchFamily.of(base)


def registered_family(distribution: Distribution) -> DistributionFamily | None:
    """
    Look up what :func:`register_family` was given.

    :param distribution: what ``policy.get_distribution`` returns
    :return: the family of its class or nearest base class, None if there is none
    """
    found = (_REGISTERED[cls] for cls in type(distribution).__mro__ if cls in _REGISTERED)
    return next(found, None)


def require_family(distribution: Distribution, what: str) -> DistributionFamily:
    """
    Find the geometry of a distribution, or say how to do without it.

    :param distribution: what ``policy.get_distribution`` returns
    :param what: the option that needs it, for the message
    :return: its family
    :raises ValueError: if its KL is not known
    """
    family = family_of(distribution)
    if family is None:
        msg = (
            f'"{what}" needs the KL divergence of {type(distribution).__name__}, which is not known: describe it with '
            'register_family(), or train with fisher="empirical" and kl_estimator="monte_carlo"'
        )
        raise ValueError(msg)
    return family
