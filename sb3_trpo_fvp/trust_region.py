"""One trust-region step: direction, β, backtracking line search, and the old parameters back if it fails."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch as th
from stable_baselines3.common.distributions import Distribution

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.distributions import Phi, family_of, joint_kl, monte_carlo_kl, require_family
from sb3_trpo_fvp.fisher import FisherOperator
from sb3_trpo_fvp.linalg.conjugate_gradient import CGSolution, CGStatus, conjugate_gradient
from sb3_trpo_fvp.linalg.vectors import all_finite, assign, flatten
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.policies import num_observations, prepare_actions


class StepStatus(Enum):
    """How an actor step ended; all but ACCEPTED leave the actor bit for bit as it was."""

    ACCEPTED = 0
    """A step was taken: the surrogate rose and the KL is within its bound."""
    LINE_SEARCH_FAILED = 1
    """No tried fraction of the step kept the KL and raised the surrogate: lower target_kl, or allow more backtracks."""
    ZERO_GRADIENT = 2
    """The surrogate has no slope: all advantages are equal, or no parameter is trainable."""
    NONFINITE_GRADIENT = 3
    """Finite data, but NaN or infinity in the gradient: the policy is close to deterministic or its weights are huge."""
    NONFINITE_CURVATURE = 4
    """NaN or infinity in the first Fisher-vector product: the policy is close to deterministic or its weights are huge."""
    NONPOSITIVE_CURVATURE = 5
    """The first direction has no curvature: raise cg_damping."""
    NONFINITE_ADVANTAGES = 6
    """NaN or infinity in the advantages: look at the environment's rewards, or at a critic that has diverged."""
    NONFINITE_OBSERVATIONS = 7
    """NaN or infinity in the observations: look at the environment."""


@dataclass(frozen=True)
class TrustRegionStats:
    """
    What happened in an actor step.

    :param status: how it ended
    :param cg_status: how the linear solve ended
    :param cg_steps: conjugate-gradient steps
    :param cg_residual: ‖g − (H + λI)s‖ / ‖g‖
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


@dataclass(frozen=True)
class Evaluation:
    """
    Surrogate and KL of the policy as it is now, against the policy as it was.

    :param improvement: mean(Â (π/π_k − 1))
    :param kl: mean joint KL(π_k ‖ π), nats, NaN where not known
    :param kl_monte_carlo: its estimate from the actions taken
    :param constraint: what is held against the bound
    :param entropy: mean entropy of π, nats
    """

    improvement: float
    kl: float
    kl_monte_carlo: float
    constraint: float
    entropy: float

    @property
    def is_finite(self) -> bool:
        """Whether the numbers that decide acceptance are finite."""
        return math.isfinite(self.improvement) and math.isfinite(self.constraint)


class SurrogateProblem:
    """
    Maximise mean(Â · π_θ(a|s)/π_k(a|s)) subject to mean_s KL(π_k(·|s) ‖ π_θ(·|s)) ≤ δ (TRPO, equation 14).

    π_k is the policy at construction. Probabilities of the old policy are computed here and not taken from the rollout,
    so that ratio and KL of a zero step are exactly 1 and 0.

    :param actor: the policy at N states
    :param actions: taken there, (N, A) as rollout buffers hold them
    :param advantages: Â, shape (N,)
    :param kl_reduction: ``"sum"`` over action dimensions, the joint KL, or their ``"mean"``
    :param kl_estimator: ``"analytic"`` or ``"monte_carlo"``: which KL is held against the bound
    :param comm: who else has states of this rollout: every mean here is over the states of all
    """

    def __init__(
        self,
        actor: LinearizedActor,
        actions: th.Tensor,
        advantages: th.Tensor,
        *,
        kl_reduction: str = "sum",
        kl_estimator: str = "analytic",
        comm: Communicator = ALONE,
    ):
        self.actor = actor
        self.comm = comm
        self._raw_actions = actions
        self.actions = prepare_actions(actor.policy, actions)
        with th.no_grad():
            distribution = actor.distribution(moved=False)
            self._old_log_prob = distribution.log_prob(self.actions)
            old_entropy = mean_entropy(distribution, self._old_log_prob)
            self.advantages = advantages.to(self._old_log_prob.dtype)
            self._family = family_of(distribution)
            if kl_estimator == "analytic" or kl_reduction == "mean":
                require_family(distribution, kl_estimator if kl_reduction == "sum" else 'kl_reduction="mean"')
            self._old_phi = () if self._family is None else _double(self._family.parameters(distribution))
            self.kl_scale = 1.0
            if kl_reduction == "mean" and self._family is not None:
                self.kl_scale = 1.0 / self._family.kl(self._old_phi, self._old_phi).shape[1]
        self._analytic = kl_estimator == "analytic"
        old = comm.mean([th.stack([self.advantages.double().mean(), old_entropy.double()])], len(advantages))
        self.old_objective, self.old_entropy = old[0].tolist()

    def gradient(self) -> th.Tensor:
        """
        Differentiate the surrogate at π_k: g = mean(Â ∇log π(a|s)).

        :return: g, shape (P,)
        """
        actor = self.actor
        # At π = π_k the ratio is 1, and the gradient is that of log π, weighted.
        g = flatten([th.zeros_like(parameter) for parameter in actor.parameters], [self.advantages])
        for chunk in actor.chunks:
            actor.log_prob(chunk, self._raw_actions).vjp([self.advantages[chunk] / actor.size], out=g)
        return self.comm.mean([g], actor.size)[0]

    @th.no_grad()
    def evaluate(self) -> Evaluation:
        """
        Measure the policy as it is now.

        :return: surrogate and KL against the old policy
        """
        distribution = self.actor.distribution()
        log_prob = distribution.log_prob(self.actions)
        # expm1 keeps the digits of a small improvement that a difference of two surrogates would lose.
        improvement = (self.advantages.double() * th.expm1(log_prob - self._old_log_prob)).mean()
        sampled = monte_carlo_kl(self._old_log_prob, log_prob)
        kl = sampled.new_tensor(math.nan)
        if self._family is not None:
            kl = joint_kl(self._family, self._old_phi, _double(self._family.parameters(distribution)))
        entropy = mean_entropy(distribution, log_prob)
        means = th.stack([number.double() for number in (improvement, kl, sampled, entropy)])
        numbers = self.comm.mean([means], len(self.advantages))[0].tolist()
        constraint = self.kl_scale * (numbers[1] if self._analytic else numbers[2])
        return Evaluation(numbers[0], numbers[1], numbers[2], constraint, numbers[3])


def _double(phi: Phi) -> Phi:
    """Close distributions differ in their last digits: in single precision a small KL would be mostly rounding."""
    return tuple(tensor.detach().double() for tensor in phi)


def mean_entropy(distribution: Distribution, log_prob: th.Tensor) -> th.Tensor:
    """
    Average the entropy over states; where it has no closed form (squashed policies), the actions taken estimate it.

    :param distribution: the policy's
    :param log_prob: log-probabilities of the actions taken, shape (N,)
    :return: nats, scalar
    """
    entropy = distribution.entropy()
    return (-log_prob if entropy is None else entropy).mean()


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
) -> TrustRegionStats:
    """
    Solve (H + λI)s = g, step βs with β = √(2δ / sᵀHs), and backtrack until surrogate and KL agree (TRPO, appendix C).

    1. H in β is undamped, unless asked for, so that the quadratic model of the KL is exactly δ at the full step.
    2. sᵀHs comes from the solver's own state and costs no product.
    3. On rejection, error or interruption the actor's parameters are restored bit for bit.

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
    :return: what happened
    """
    parameters = operator.parameters
    g = problem.gradient()
    products = 0

    def average(tensors: Sequence[th.Tensor]) -> list[th.Tensor]:
        return problem.comm.mean(tensors, num_observations(operator.observations))

    def curvature(v: th.Tensor) -> th.Tensor:
        nonlocal products
        products += 1
        return problem.kl_scale * average([operator.matvec(v)])[0]

    solution = conjugate_gradient(
        lambda v: curvature(v) + damping * v,
        g,
        max_steps=cg_max_steps,
        rtol=cg_residual_tol,
        # Up to a constant, which does not matter, that of κ(F + λ/κ I).
        preconditioner=operator.preconditioner(damping / problem.kl_scale, average) if precondition else None,
    )
    s = solution.value
    shs = solution.quadratic_form if damped_beta else _undamped_quadratic_form(solution, damping)
    if shs is None:
        shs = float(th.dot(s.double(), curvature(s).double()))
    # In double precision: squares of a finite gradient may overflow.
    g_norm = float(th.linalg.vector_norm(g.double()))
    stats = TrustRegionStats(
        status=_status_without_step(problem, g, solution, shs),
        cg_status=solution.status,
        cg_steps=solution.num_steps,
        cg_residual=solution.residual_norm / g_norm if 0.0 < g_norm < math.inf else 0.0,
        fvp_count=products,
        objective=problem.old_objective,
        entropy=problem.old_entropy,
    )
    if stats.status is not StepStatus.LINE_SEARCH_FAILED:
        return stats

    beta = math.sqrt(2.0 * target_kl / shs)
    slope = beta * float(th.dot(g.double(), s.double()))
    stats = replace(stats, beta=beta, predicted_improvement=slope)
    old = [parameter.detach().clone() for parameter in parameters]
    theta, step = flatten(old), (beta * s.double()).to(s.dtype)
    accepted = False
    try:
        for backtracks in range(max_iterations):
            fraction = shrinking_factor**backtracks
            candidate = theta + fraction * step
            assign(parameters, candidate)
            trial = problem.evaluate()
            # A saturated unit hides an infinite weight from surrogate and KL.
            finite = trial.is_finite and all_finite(candidate)
            accepted = finite and trial.constraint <= target_kl and trial.improvement > 0.0
            if accepted:
                break
    finally:
        if not accepted:
            for parameter, tensor in zip(parameters, old, strict=True):
                parameter.data.copy_(tensor)
    stats = replace(stats, backtracks=backtracks)
    if not accepted:
        return stats
    return replace(
        stats,
        status=StepStatus.ACCEPTED,
        step_fraction=fraction,
        kl=trial.kl,
        kl_monte_carlo=trial.kl_monte_carlo,
        constraint=trial.constraint,
        predicted_improvement=fraction * slope,
        actual_improvement=trial.improvement,
        objective=problem.old_objective + trial.improvement,
        entropy=trial.entropy,
    )


def _undamped_quadratic_form(solution: CGSolution, damping: float) -> float | None:
    """Return sᵀHs = sᵀ(H + λI)s − λsᵀs, or None where the difference would lose half of the digits."""
    s = solution.value.double()
    shs = solution.quadratic_form - damping * float(th.dot(s, s))
    digits_lost = shs < 1e-3 * solution.quadratic_form
    return None if solution.num_steps > 0 and digits_lost else shs


def _status_without_step(problem: SurrogateProblem, g: th.Tensor, solution: CGSolution, shs: float) -> StepStatus:
    """Name what keeps the direction from being tried; LINE_SEARCH_FAILED if nothing does, until a step is accepted."""
    if not all_finite(g):
        if not problem.comm.all(all_finite(problem.actor.observations)):
            return StepStatus.NONFINITE_OBSERVATIONS
        finite = problem.comm.all(all_finite(problem.advantages))
        return StepStatus.NONFINITE_GRADIENT if finite else StepStatus.NONFINITE_ADVANTAGES
    if solution.status is CGStatus.ZERO_RHS:
        return StepStatus.ZERO_GRADIENT
    if not math.isfinite(shs) or (solution.num_steps == 0 and solution.status is CGStatus.NONFINITE):
        return StepStatus.NONFINITE_CURVATURE
    return StepStatus.LINE_SEARCH_FAILED if shs > 0.0 else StepStatus.NONPOSITIVE_CURVATURE
