"""One trust-region step: surrogate, direction, β, line search, and the old parameters back if it fails."""

from sb3_trpo_fvp.trust_region.step import StepStatus, TrustRegionStats, trust_region_step
from sb3_trpo_fvp.trust_region.surrogate import Evaluation, SurrogateProblem

__all__ = ["Evaluation", "StepStatus", "SurrogateProblem", "TrustRegionStats", "trust_region_step"]
