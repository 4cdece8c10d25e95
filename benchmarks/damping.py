"""
Which damping predicts best on states that it has not seen?

The natural gradient is a ridge regression of advantages on scores, with λ as the ridge (Kakade, 2001), so λ can be chosen like
any ridge: by cross-validation. At every fifth update of a run with the constructor's defaults the states of the update are cut
into two halves, of blocks of 64 consecutive states. For each λ the direction s comes from one half, and is judged on the other
by the improvement that it predicts there for the root of the KL that it costs there,

    e(λ) = g'ᵀs / √(sᵀF's),

averaged over both ways round and over four cuts. Reported are e(λ), as a part of the environment's largest, mean over updates,
and the largest λ within one standard error of the best. The cuts of an update share their states, so nothing is said of a λ
chosen for each update alone.

``python -m benchmarks.damping run`` trains and measures, minutes; ``report`` writes the table into the page on sample reuse.
"""

import argparse
import json
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env

import benchmarks
from benchmarks import ROOT
from benchmarks.common.pages import markdown_table, update_page
from benchmarks.common.provenance import provenance
from benchmarks.common.study import Study, Verb
from sb3_trpo_fvp import TRPO, conjugate_gradient, fisher_operator
from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.policies import ParameterSplit
from sb3_trpo_fvp.rollouts.advantages import normalize
from sb3_trpo_fvp.rollouts.reuse import Batch
from sb3_trpo_fvp.trust_region import SurrogateProblem, TrustRegionStats

RESULTS = benchmarks.RESULTS / "damping.json"
PAGE = ROOT / "docs" / "sample-reuse.md"
ENVS = {
    "CartPole-v1": 30_000,
    "Acrobot-v1": 30_000,
    "Pendulum-v1": 50_000,
    "LunarLanderContinuous-v3": 50_000,
    "HalfCheetah-v5": 50_000,
    "Hopper-v5": 50_000,
    "Walker2d-v5": 50_000,
}
"""Environments, and steps of each run."""
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SEED, EVERY, CUTS, BLOCK = 100, 5, 4, 64


class Recording(TRPO):
    """TRPO that measures e(λ) before every fifth of its steps, and then takes the step as ever."""

    measured: list[list[list[float]]]

    def _actor_step(self, batch: Batch, split: ParameterSplit, comm: Communicator) -> TrustRegionStats:
        if self._n_updates % EVERY == 0:
            self.measured.append(self._efficiencies(batch, split))
        return super()._actor_step(batch, split, comm)

    def _efficiencies(self, batch: Batch, split: ParameterSplit) -> list[list[float]]:
        """Return e(λ) for each of several cuts, (CUTS, len(LAMBDAS))."""
        advantages = normalize(batch.advantages, comm=ALONE, weights=batch.weights)
        advantages = advantages if batch.weights is None else batch.weights * advantages
        blocks = np.arange(len(advantages)) // BLOCK
        found = []
        for cut in range(CUTS):
            draw = np.random.default_rng(cut).permutation(blocks[-1] + 1)
            first = np.isin(blocks, draw[: len(draw) // 2])
            halves = [self._half(batch, advantages, split, th.as_tensor(np.flatnonzero(rows))) for rows in (first, ~first)]
            found.append([np.mean([_judge(a, b, damping) for a, b in (halves, halves[::-1])]) for damping in LAMBDAS])
        return [[float(value) for value in row] for row in found]

    def _half(self, batch: Batch, advantages: th.Tensor, split: ParameterSplit, rows: th.Tensor) -> Any:
        observations, actions = batch.observations[rows], batch.actions[rows]  # type: ignore[index]
        operator = fisher_operator(self.policy, observations, actions, parameters=split.actor)
        return SurrogateProblem(operator.actor, actions, advantages[rows]).gradient(), operator


def _judge(fit: Any, judge: Any, damping: float) -> float:
    """Solve on one half, and judge on the other."""
    (g, operator), (other_g, other) = fit, judge
    preconditioner = operator.preconditioner(damping)
    s = conjugate_gradient(
        lambda v: operator.matvec(v) + damping * v, g, max_steps=60, rtol=1e-2, preconditioner=preconditioner
    ).value.double()
    return float(other_g.double() @ s / (s @ other.matvec(s.to(g.dtype)).double()).clamp(min=1e-30).sqrt())


def run() -> dict[str, Any]:
    """
    Train in every environment, and measure on the way.

    :return: e(λ) by environment, (updates, cuts, λ), and what it was measured with
    """
    th.set_num_threads(1)
    measured = {}
    for env, steps in ENVS.items():
        model = Recording("MlpPolicy", make_vec_env(env, seed=SEED), seed=SEED, device="cpu")
        model.measured = []
        model.learn(steps)
        measured[env] = [np.round(update, 6).tolist() for update in model.measured]
        print(env, table({"efficiency": {env: measured[env]}}).splitlines()[-1], flush=True)
    return {"lambdas": LAMBDAS, "efficiency": measured, "environment": provenance()}


def table(results: dict[str, Any]) -> str:
    """
    Tabulate what each λ is worth out of sample.

    :param results: what :func:`run` returned
    :return: markdown
    """
    body = []
    for env, updates in results["efficiency"].items():
        values = np.asarray(updates)  # (updates, cuts, λ)
        means = values.mean(axis=(0, 1))
        best = means.max()
        if best <= 0.0:  # what is left of the advantages is noise: nothing is predicted at all
            body.append((env, *["–"] * (len(LAMBDAS) + 1)))
            continue
        per_update = values.mean(axis=1)
        loss = per_update[:, [means.argmax()]] - per_update
        within = loss.mean(axis=0) <= loss.std(axis=0, ddof=1) / np.sqrt(len(loss))
        largest = max(value for value, good in zip(LAMBDAS, within, strict=True) if good)
        body.append((env, *(f"{mean / best:.2f}" for mean in means), f"{largest:g}"))
    header = ("environment", *(f"λ = {value:g}" for value in LAMBDAS), "one standard error")
    return markdown_table(header, body)


def _run(options: argparse.Namespace) -> None:
    RESULTS.write_text(json.dumps(run()) + "\n", encoding="utf-8")
    _report(options)


def _report(options: argparse.Namespace) -> None:
    text = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    update_page(PAGE, {"damping": text})
    print(text)


STUDY = Study(
    "damping",
    run=Verb("train in every environment, and measure on the way", _run),
    report=Verb("write the table from the committed results", _report),
)

if __name__ == "__main__":
    STUDY.main()
