"""
What the second figure shows: how much of the predicted improvement each Fisher-vector product buys.

A direction s predicts the improvement β gᵀs = √(2δ) · gᵀs / √(sᵀHs). It is given here as a fraction of what the solution
of (H + λI) s = g predicts, so that neither δ nor the scale of the advantages matters. sb3-contrib's own solver runs on its
own products at damping λ / A, which makes its system a multiple of ours (its KL is averaged over A action dimensions). Its
β = √(2δ / sᵀ(H + λI)s) holds the damped curvature against δ, and so its steps predict less than their direction could.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from benchmarks.measurements import Context
from benchmarks.products import Product, contrib_product, our_product
from benchmarks.workloads import Workload
from sb3_trpo_fvp import conjugate_gradient, fisher_operator
from sb3_trpo_fvp.networks import prepare_actions

WORKLOADS = tuple(
    Workload(env_id, updates_before=updates)
    for env_id in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
    for updates in (2, 10, 25)
)
DAMPINGS = (0.1, 0.01)
TOLERANCES = (0.3, 0.1, 0.05, 0.02, 0.01)
MAX_PRODUCTS = 20
CONVERGED = 50
"""Steps after which a direction counts as the solution."""
ENOUGH = 0.99
"""Of the predicted improvement, to compare solvers by the products that they need."""


def improvement(context: Context) -> dict[str, Any]:
    """
    Count products and what they buy, on rollouts of policies at several stages of learning. No time is measured.

    :param context: where rollouts are
    :return: for each damping, one record for each rollout
    """
    workloads = WORKLOADS[:1] if context.tiny else WORKLOADS
    records = [_study(context, workload, damping) for workload in workloads for damping in DAMPINGS]
    return {"records": records, "enough": ENOUGH}


def _study(context: Context, workload: Workload, damping: float) -> dict[str, Any]:
    """Follow every solver on one rollout and one damping."""
    models = context.contestants(workload)
    models.theirs.cg_damping = damping / models.theirs.action_space.shape[0]
    samples = models.states()
    theirs, g = contrib_product(models.theirs, samples)
    ours = our_product(models.ours.policy, samples, "gauss_newton")

    def damped(v: th.Tensor) -> th.Tensor:
        return ours(v) + damping * v

    def predicted(s: th.Tensor, curvature: Product = ours) -> float:
        return float(th.dot(g, s)) / math.sqrt(float(th.dot(s, curvature(s))))

    def solve(max_steps: int, rtol: float = 0.0) -> tuple[th.Tensor, int]:
        solution = conjugate_gradient(damped, g, max_steps=max_steps, rtol=rtol)
        return solution.value, solution.num_steps

    best = predicted(solve(CONVERGED)[0])
    plain = [predicted(solve(k)[0]) / best for k in range(1, MAX_PRODUCTS + 1)]
    diagonal = score_diagonal(models.ours.policy, samples)
    jacobi = [predicted(s) / best for s, _ in zip(preconditioned(damped, g, diagonal + damping), plain, strict=False)]
    # sb3-contrib spends one product on its random start and one on sᵀHs besides its steps.
    directions = {k + 2: conjugate_gradient_solver(theirs, g, max_iter=k) for k in range(1, MAX_PRODUCTS - 1)}
    stops = []
    for rtol in TOLERANCES:
        s, products = solve(models.ours.cg_max_steps, rtol)
        stops.append({"tolerance": rtol, "products": products, "fraction": _round(predicted(s) / best)})
    return {
        "env": workload.env_id,
        "updates_before": workload.updates_before,
        "damping": damping,
        "ours": [_round(f) for f in plain],
        "jacobi": [_round(f) for f in jacobi],
        "theirs": {str(k): _round(predicted(s) / best) for k, s in directions.items()},
        "theirs_own_beta": {str(k): _round(predicted(s, damped) / best) for k, s in directions.items()},
        "stops": stops,
    }


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


def preconditioned(matvec: Callable[[th.Tensor], th.Tensor], b: th.Tensor, diagonal: th.Tensor) -> Iterator[th.Tensor]:
    """
    Iterate conjugate gradients with a diagonal preconditioner (Saad, Iterative Methods for Sparse Linear Systems, 9.1).

    :param matvec: v → Av
    :param b: right-hand side, shape (P,)
    :param diagonal: of the preconditioner, positive
    :return: the iterates, each after one more product
    """
    x, r = th.zeros_like(b), b.clone()
    z = r / diagonal
    p, rz = z.clone(), th.dot(r, z)
    while True:
        ap = matvec(p)
        alpha = rz / th.dot(p, ap)
        x = x + alpha * p
        yield x
        r = r - alpha * ap
        z = r / diagonal
        rz, before = th.dot(r, z), rz
        p = z + (rz / before) * p


def products_needed(fractions: list[float], enough: float) -> int:
    """
    Count the products after which a solver stays above a fraction.

    :param fractions: after one product, two, …
    :param enough: the fraction
    :return: products, one more than were tried if it is not reached
    """
    below = [index for index, fraction in enumerate(fractions) if fraction < enough]
    return below[-1] + 2 if below else 1


def improvement_summary(records: list[dict[str, Any]], damping: float, enough: float) -> dict[str, Any]:
    """
    Reduce the records of one damping to medians over rollouts.

    :param records: of :func:`improvement`
    :param damping: which
    :param enough: the fraction by which solvers are compared
    :return: by tolerance: products and fractions (median and worst); by solver: products needed
    """
    chosen = [record for record in records if record["damping"] == damping]
    by_tolerance = []
    for index, tolerance in enumerate(TOLERANCES):
        stops = [record["stops"][index] for record in chosen]
        fractions = [stop["fraction"] for stop in stops]
        products = statistics.median(stop["products"] for stop in stops)
        by_tolerance.append(
            {"tolerance": tolerance, "products": products, "median": statistics.median(fractions), "worst": min(fractions)}
        )
    needed = {
        name: statistics.median(products_needed(record[name], enough) for record in chosen) for name in ("ours", "jacobi")
    }
    return {"by_tolerance": by_tolerance, "needed": needed, "rollouts": len(chosen)}


def _round(fraction: float) -> float:
    return round(fraction, 5)
