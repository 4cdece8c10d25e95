"""Whether a Fisher operator is right, on a model's own policy and states; contracts of what can be swapped."""

from sb3_trpo_fvp.check.check import check_fisher, check_model_file
from sb3_trpo_fvp.check.contracts import (
    check_critic,
    check_family,
    check_fisher_operator,
    check_linearization,
    check_solver,
)
from sb3_trpo_fvp.check.finding import Finding, Outcome, failures
from sb3_trpo_fvp.check.measure import OperatorReport, StepQuality
from sb3_trpo_fvp.check.report import FisherReport
from sb3_trpo_fvp.check.states import StateSource

__all__ = [
    "Finding",
    "FisherReport",
    "OperatorReport",
    "Outcome",
    "StateSource",
    "StepQuality",
    "check_critic",
    "check_family",
    "check_fisher",
    "check_fisher_operator",
    "check_linearization",
    "check_model_file",
    "check_solver",
    "failures",
]
