"""
Fisher-vector products: the policy's Fisher matrix, (P, P), known by what it does to a vector.

Every operator here is undamped and reduced over states by their mean; λI is added outside, by whoever solves with it.
"""

from sb3_trpo_fvp.fisher.operator import FisherOperator
from sb3_trpo_fvp.fisher.operators import (
    FISHER_OPERATORS,
    EmpiricalFisher,
    GaussNewton,
    KLHessian,
    fisher_class,
    fisher_operator,
)

__all__ = [
    "FISHER_OPERATORS",
    "EmpiricalFisher",
    "FisherOperator",
    "GaussNewton",
    "KLHessian",
    "fisher_class",
    "fisher_operator",
]
