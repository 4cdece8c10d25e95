"""Whether a Fisher operator is right, on a model's own policy and states."""

from sb3_trpo_fvp.check.check import check_fisher, check_model_file
from sb3_trpo_fvp.check.measure import OperatorReport
from sb3_trpo_fvp.check.report import FisherReport

__all__ = ["FisherReport", "OperatorReport", "check_fisher", "check_model_file"]
