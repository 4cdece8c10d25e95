"""TRPO for Stable-Baselines3 with swappable Fisher-vector products."""

from sb3_trpo_fvp.check.check import check_fisher, check_model_file
from sb3_trpo_fvp.check.measure import OperatorReport
from sb3_trpo_fvp.check.report import FisherReport
from sb3_trpo_fvp.distributions import DistributionFamily, register_family
from sb3_trpo_fvp.fisher import EmpiricalFisher, FisherOperator, GaussNewton, KLHessian, fisher_operator
from sb3_trpo_fvp.linalg.conjugate_gradient import CGSolution, CGStatus, conjugate_gradient
from sb3_trpo_fvp.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_trpo_fvp.trpo import TRPO
from sb3_trpo_fvp.trust_region import StepStatus, TrustRegionStats

__version__ = "0.1.0"

__all__ = [
    "TRPO",
    "CGSolution",
    "CGStatus",
    "CnnPolicy",
    "DistributionFamily",
    "EmpiricalFisher",
    "FisherOperator",
    "FisherReport",
    "GaussNewton",
    "KLHessian",
    "MlpPolicy",
    "MultiInputPolicy",
    "OperatorReport",
    "StepStatus",
    "TrustRegionStats",
    "check_fisher",
    "check_model_file",
    "conjugate_gradient",
    "fisher_operator",
    "register_family",
]
