"""
What the second figure shows: how much of the predicted improvement each Fisher-vector product buys.

A direction s predicts the improvement β gᵀs = √(2δ) · gᵀs / √(sᵀHs). It is given here as a fraction of what the solution
of (H + λI) s = g predicts, so that neither δ nor the scale of the advantages matters. sb3-contrib's own solver runs on its
own products at damping λ / A, which makes its system a multiple of ours (its KL is averaged over A action dimensions). Its
β = √(2δ / sᵀ(H + λI)s) holds the damped curvature against δ, and so its steps predict less than their direction could.
"""

import math
import statistics
from typing import Any

import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from benchmarks.common.pairs import Side, summarize
from benchmarks.common.workloads import Workload
from benchmarks.speed.measurements import Context
from benchmarks.speed.products import Product, contrib_product
from sb3_trpo_fvp import CGSolution, conjugate_gradient, fisher_operator
from sb3_trpo_fvp.policies import prepare_actions

WORKLOADS = tuple(
    Workload(env_id, updates_before=updates)
    for env_id in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
    for updates in (1, 5, 15)
)
DAMPINGS = (0.1, 0.01)
TOLERANCES = (0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01)
MAX_PRODUCTS = 20
CONVERGED = 50
"""Preconditioned steps after which a direction counts as the solution."""
ENOUGH = 0.99
"""Of the predicted improvement, to compare solvers by the products that they need."""


def improvement(context: Context) -> dict[str, Any]:
    """
    Count products and what they buy, on rollouts of policies at several stages of learning.

    :param context: where rollouts are, and how often to time the preconditioner
    :return: one record for each rollout and damping, and what setting the preconditioner up costs, in products
    """
    workloads = WORKLOADS[:1] if context.tiny else WORKLOADS
    records = [_study(context, workload, damping) for workload in workloads for damping in DAMPINGS]
    return {"records": records, "enough": ENOUGH, "setup": _setup(context, workloads[0])}


def _study(context: Context, workload: Workload, damping: float) -> dict[str, Any]:
    """Follow every solver on one rollout and one damping."""
    models = context.contestants(workload)
    models.theirs.cg_damping = damping / models.theirs.action_space.shape[0]
    samples = models.states()
    theirs, g = contrib_product(models.theirs, samples)
    ours = fisher_operator(models.ours.policy, samples.observations, samples.actions)
    diagonal = score_diagonal(models.ours.policy, samples) + damping
    preconditioners = {"kronecker": ours.preconditioner(damping), "none": None, "diagonal": lambda r: r / diagonal}

    def damped(v: th.Tensor) -> th.Tensor:
        return ours @ v + damping * v

    def predicted(s: th.Tensor, curvature: Product = ours.matvec) -> float:
        return float(th.dot(g, s)) / math.sqrt(float(th.dot(s, curvature(s))))

    def solve(solver: str, max_steps: int, rtol: float = 0.0) -> CGSolution:
        return conjugate_gradient(damped, g, max_steps=max_steps, rtol=rtol, preconditioner=preconditioners[solver])

    best = predicted(solve("kronecker", CONVERGED, rtol=1e-5).value)

    def fraction(s: th.Tensor, curvature: Product = ours.matvec) -> float:
        return round(predicted(s, curvature) / best, 5)

    def stop(solver: str, rtol: float) -> dict[str, float]:
        solution = solve(solver, models.ours.cg_max_steps, rtol)
        return {"tolerance": rtol, "products": solution.num_steps, "fraction": fraction(solution.value)}

    # sb3-contrib spends one product on its random start and one on sᵀHs besides its steps.
    directions = {k + 2: conjugate_gradient_solver(theirs, g, max_iter=k) for k in range(1, MAX_PRODUCTS - 1)}
    steps = range(1, MAX_PRODUCTS + 1)
    return {
        "env": workload.env_id,
        "updates_before": workload.updates_before,
        "damping": damping,
        "ours": {solver: [fraction(solve(solver, k).value) for k in steps] for solver in preconditioners},
        "theirs": {str(k): fraction(s) for k, s in directions.items()},
        "theirs_own_beta": {str(k): fraction(s, damped) for k, s in directions.items()},
        "stops": {solver: [stop(solver, rtol) for rtol in TOLERANCES] for solver in ("kronecker", "none")},
    }


def _setup(context: Context, workload: Workload) -> float:
    """Time the setting up of the Kronecker-factored preconditioner, in products on the same states."""
    models = context.contestants(workload)
    samples = models.states()
    operator = fisher_operator(models.ours.policy, samples.observations, samples.actions)
    v = th.ones(operator.shape[0])
    sides = {"setup": Side(lambda: operator.preconditioner(DAMPINGS[0])), "product": Side(lambda: operator @ v)}
    times = context.times(sides, shortest=0.05)
    return round(summarize(times["setup"], times["product"]).median, 2)


def score_diagonal(policy: ActorCriticPolicy, samples: RolloutBufferSamples, num_states: int = 256) -> th.Tensor:
    """
    Estimate the Fisher matrix's diagonal by the squared scores of some of the actions taken.

    :param policy: the policy
    :param samples: states and actions
    :param num_states: how many to use
    :return: shape (P,)
    """
    parameters = fisher_operator(policy, samples.observations).parameters
    distribution = policy.get_distribution(samples.observations[:num_states])
    log_prob = distribution.log_prob(prepare_actions(policy, samples.actions[:num_states]))
    total = 0.0
    for one in log_prob:
        score = th.autograd.grad(one, parameters, retain_graph=True)
        total = total + th.cat([piece.reshape(-1) for piece in score]) ** 2
    return total / len(log_prob)


def products_needed(fractions: list[float], enough: float) -> int:
    """
    Count the products after which a solver stays above a fraction.

    :param fractions: after one product, two, …
    :param enough: the fraction
    :return: products, one more than were tried if it is not reached
    """
    below = [index for index, fraction in enumerate(fractions) if fraction < enough]
    return below[-1] + 2 if below else 1


def improvement_summary(curve: dict[str, Any], damping: float) -> dict[str, Any]:
    """
    Reduce the records of one damping to medians over rollouts.

    :param curve: of :func:`improvement`
    :param damping: which
    :return: by solver and tolerance: products and fractions (median and worst); by solver: products needed for
        :data:`ENOUGH`; the number of rollouts
    """
    chosen = [record for record in curve["records"] if record["damping"] == damping]
    stops: dict[str, list[dict[str, float]]] = {}
    for solver in ("kronecker", "none"):
        stops[solver] = []
        for index, tolerance in enumerate(TOLERANCES):
            of = [record["stops"][solver][index] for record in chosen]
            fractions = [stop["fraction"] for stop in of]
            products = statistics.median(stop["products"] for stop in of)
            median, worst = statistics.median(fractions), min(fractions)
            stops[solver].append({"tolerance": tolerance, "products": products, "median": median, "worst": worst})
    needed = {
        solver: statistics.median(products_needed(record["ours"][solver], curve["enough"]) for record in chosen)
        for solver in chosen[0]["ours"]
    }
    return {"stops": stops, "needed": needed, "rollouts": len(chosen)}
