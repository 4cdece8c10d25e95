"""
What every operator, family, linearisation, solver and critic promises, as checks that anyone runs on a class of their own.

Each function yields one :class:`Finding` for each promise; ``assert not failures(check_family(...))`` makes a test of it.
"""

from sb3_trpo_fvp.check.contracts.critic import check_critic
from sb3_trpo_fvp.check.contracts.family import check_family
from sb3_trpo_fvp.check.contracts.fisher_operator import check_fisher_operator
from sb3_trpo_fvp.check.contracts.linearization import check_linearization
from sb3_trpo_fvp.check.contracts.solver import check_solver
from sb3_trpo_fvp.check.finding import Finding, Outcome, failures

__all__ = [
    "Finding",
    "Outcome",
    "check_critic",
    "check_family",
    "check_fisher_operator",
    "check_linearization",
    "check_solver",
    "failures",
]
