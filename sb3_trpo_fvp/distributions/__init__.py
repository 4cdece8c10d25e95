"""The geometry of action distributions: joint KL, Fisher matrix and score, as functions of a distribution's parameters φ."""

from sb3_trpo_fvp.distributions.divergence import joint_kl, monte_carlo_kl
from sb3_trpo_fvp.distributions.families import (
    BernoulliFamily,
    CategoricalFamily,
    DistributionFamily,
    NormalFamily,
    Phi,
    TorchFamily,
    detach,
)
from sb3_trpo_fvp.distributions.lookup import family_of, register_family, registered_family, require_family
from sb3_trpo_fvp.distributions.unwrapping import base_distribution
from sb3_trpo_fvp.distributions.validation import without_validation

__all__ = [
    "BernoulliFamily",
    "CategoricalFamily",
    "DistributionFamily",
    "NormalFamily",
    "Phi",
    "TorchFamily",
    "base_distribution",
    "detach",
    "family_of",
    "joint_kl",
    "monte_carlo_kl",
    "register_family",
    "registered_family",
    "require_family",
    "without_validation",
]
