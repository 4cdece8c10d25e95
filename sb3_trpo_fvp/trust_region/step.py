"""The trust-region step, and every way it can end."""

import math
from dataclasses import dataclass, replace
from functools import partial

from sb3_trpo_fvp.fisher import FisherOperator
from sb3_trpo_fvp.linalg.conjugate_gradient import CGStatus
from sb3_trpo_fvp.linalg.status import Status
from sb3_trpo_fvp.linalg.vectors import all_finite
from sb3_trpo_fvp.policies.batch_normalization import StatisticsStep
from sb3_trpo_fvp.trust_region.direction import DampedCurvature, Direction, natural_gradient
from sb3_trpo_fvp.trust_region.line_search import line_search
from sb3_trpo_fvp.trust_region.surrogate import SurrogateProblem

_SATURATED = "the policy is close to deterministic (σ → 0) or its weights are huge: check `train/std`, bound the observations"


class StepStatus(Status):
    """How an actor step ended; all but ACCEPTED leave the actor bit for bit as it was."""

    ACCEPTED = 0, "a step was taken: the surrogate rose, the KL is within its bound"
    LINE_SEARCH_FAILED = (
        1,
        "no tried fraction of the step met both conditions",
        "now and then: nothing; often: lower `target_kl`, raise `line_search_max_iter` or `cg_damping`",
    )
    ZERO_GRADIENT = (
        2,
        "the surrogate has no slope: all advantages are equal to rounding, or nothing is trainable",
        "nothing, if rewards are sparse; else look at the rewards",
    )
    NONFINITE_GRADIENT = 3, "finite data, but NaN or infinity in the gradient", _SATURATED, True
    NONFINITE_CURVATURE = 4, "finite data, but NaN or infinity in the first Fisher-vector product", _SATURATED, True
    NONPOSITIVE_CURVATURE = (
        5,
        "the first direction has no curvature",
        "raise `cg_damping`; with an operator of your own, see `check_fisher`",
        True,
    )
    NONFINITE_ADVANTAGES = (
        6,
        "NaN or infinity in the advantages",
        "look at the environment's rewards, or at a critic with huge outputs",
        True,
    )
    NONFINITE_OBSERVATIONS = 7, "NaN or infinity in the observations", "look at the environment's observations", True


@dataclass(frozen=True)
class TrustRegionStats:
    """
    What happened in an actor step.

    :param status: how it ended
    :param cg_status: how the linear solve ended
    :param cg_steps: conjugate-gradient steps
    :param cg_residual: ‖g − (H + λI)s‖ / ‖g‖
    :param gradient_cosine: cos(s, g): at 1 the step is the plain gradient's; NaN without a direction
    :param fvp_count: Fisher-vector products spent
    :param beta: β = √(2δ / sᵀHs), of H + λI instead where that was asked for
    :param backtracks: times that the step was shortened
    :param step_fraction: the part of βs that was taken, 0 if none
    :param kl: mean joint KL(old ‖ new) of the step taken, nats; NaN where the distribution's KL is not known
    :param kl_monte_carlo: its estimate from the rollout's actions, nats
    :param constraint: the KL that was held against the bound, in its reduction and estimate
    :param predicted_improvement: step_fraction · β gᵀs, of the first step tried if none was taken
    :param actual_improvement: of the surrogate
    :param objective: the surrogate after the step
    :param entropy: mean entropy of the policy after the step, nats
    """

    status: StepStatus
    cg_status: CGStatus
    cg_steps: int = 0
    cg_residual: float = 0.0
    gradient_cosine: float = math.nan
    fvp_count: int = 0
    beta: float = 0.0
    backtracks: int = 0
    step_fraction: float = 0.0
    kl: float = 0.0
    kl_monte_carlo: float = 0.0
    constraint: float = 0.0
    predicted_improvement: float = 0.0
    actual_improvement: float = 0.0
    objective: float = 0.0
    entropy: float = 0.0


def trust_region_step(
    problem: SurrogateProblem,
    operator: FisherOperator,
    *,
    target_kl: float,
    damping: float,
    cg_max_steps: int,
    cg_residual_tol: float,
    shrinking_factor: float,
    max_iterations: int,
    precondition: bool = True,
    damped_beta: bool = False,
    statistics: StatisticsStep | None = None,
) -> TrustRegionStats:
    """
    Solve (H + λI)s = g, step βs with β = √(2δ / sᵀHs), and backtrack until surrogate and KL agree (TRPO, appendix C).

    H in β is undamped, unless asked for, so that the quadratic model of the KL is exactly δ at the full step. On rejection,
    error or interruption the actor's parameters are restored bit for bit.

    :param problem: surrogate and constraint
    :param operator: H, over the parameters to move
    :param target_kl: δ, nats
    :param damping: λ
    :param cg_max_steps: most products to spend on the direction
    :param cg_residual_tol: relative residual at which the direction is good enough
    :param shrinking_factor: by which a refused step is shortened
    :param max_iterations: most steps to try
    :param precondition: whether to use the operator's preconditioner, if it has one
    :param damped_beta: whether β holds sᵀ(H + λI)s against δ instead of sᵀHs: a shorter step, sb3-contrib's
    :param statistics: the actor's running statistics, to be moved with its parameters, or left if no such step is accepted
    :return: what happened
    """
    g = problem.gradient()
    curvature = DampedCurvature(operator, scale=problem.kl_scale, damping=damping, comm=problem.comm)
    direction = natural_gradient(
        g,
        curvature,
        max_steps=cg_max_steps,
        rtol=cg_residual_tol,
        precondition=precondition,
        damped_curvature=damped_beta,
    )
    trouble = _trouble(problem, direction)
    stats = TrustRegionStats(
        status=trouble or StepStatus.LINE_SEARCH_FAILED,
        cg_status=direction.solution.status,
        cg_steps=direction.solution.num_steps,
        cg_residual=direction.relative_residual,
        gradient_cosine=direction.gradient_cosine,
        fvp_count=curvature.num_products,
        objective=problem.old_objective,
        entropy=problem.old_entropy,
    )
    if trouble is not None:
        return stats

    s = direction.value
    beta = math.sqrt(2.0 * target_kl / direction.curvature)
    search = partial(
        line_search,
        problem,
        operator.parameters,
        (beta * s.double()).to(s.dtype),
        bound=target_kl,
        shrinking_factor=shrinking_factor,
        max_iterations=max_iterations,
    )
    found = search(statistics=statistics)
    if found.accepted is None and statistics is not None:
        found = search()
    slope = beta * direction.slope
    stats = replace(stats, beta=beta, backtracks=found.backtracks, predicted_improvement=slope)
    if found.accepted is None:
        return stats
    return replace(
        stats,
        status=StepStatus.ACCEPTED,
        step_fraction=found.fraction,
        kl=found.accepted.kl,
        kl_monte_carlo=found.accepted.kl_monte_carlo,
        constraint=found.accepted.constraint,
        predicted_improvement=found.fraction * slope,
        actual_improvement=found.accepted.improvement,
        objective=problem.old_objective + found.accepted.improvement,
        entropy=found.accepted.entropy,
    )


def _trouble(problem: SurrogateProblem, direction: Direction) -> StepStatus | None:
    """Name what keeps a direction from being tried."""
    if not all_finite(direction.gradient):
        if not problem.comm.all(all_finite(problem.actor.observations)):
            return StepStatus.NONFINITE_OBSERVATIONS
        finite = problem.comm.all(all_finite(problem.advantages))
        return StepStatus.NONFINITE_GRADIENT if finite else StepStatus.NONFINITE_ADVANTAGES
    solution = direction.solution
    if solution.status is CGStatus.ZERO_RHS:
        return StepStatus.ZERO_GRADIENT
    if not math.isfinite(direction.curvature) or (solution.num_steps == 0 and solution.status is CGStatus.NONFINITE):
        return StepStatus.NONFINITE_CURVATURE
    return None if direction.curvature > 0.0 else StepStatus.NONPOSITIVE_CURVATURE
