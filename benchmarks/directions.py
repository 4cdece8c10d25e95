"""
What the operators make of the same rollout: ``python -m benchmarks.directions``.

Runs are those of the benchmark's sweep with Gauss-Newton at this project's own hyperparameters and one callback more, which
RL-Zoo starts as it starts any: :class:`DirectionRecorder` solves (H + λI)s = g with every operator on every tenth rollout,
before the update, takes the step, measures it and puts the parameters back. ``run FOLDER`` does the runs, ``collect FOLDER``
takes what they logged into ``benchmarks/results/directions``, and ``report``, the default, draws the table and the figure from
there. No clock is read.

The reference is Gauss-Newton on all states. With s of any operator on every n-th state, and F the reference:

    cosine       sᵀs* / ‖s‖‖s*‖, with s* the reference's direction
    efficiency   (gᵀs / √(sᵀFs)) / (gᵀs* / √(s*ᵀFs*)): the improvement that the direction predicts per unit of true KL, as a
                 part of what the reference's predicts
    kl           joint KL of the full step βs on all states, over δ, with β = √(2δ / sᵀHs) by the operator's own H
    steps        of conjugate gradients, without preconditioner, to a relative residual of 0.1 and of 0.01
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy

import benchmarks
from benchmarks import FIGURES, ROOT
from benchmarks.common.figures import LIGHT, OURS, PINK, finish, panels, steps_axis
from benchmarks.common.pages import markdown_table, update_page
from benchmarks.common.study import Study, Verb
from sb3_trpo_fvp import TRPO, FisherOperator, conjugate_gradient, fisher_operator
from sb3_trpo_fvp.cli import main as command
from sb3_trpo_fvp.linalg.vectors import assign, flatten
from sb3_trpo_fvp.policies import evaluation_mode
from sb3_trpo_fvp.rollouts.advantages import normalize
from sb3_trpo_fvp.trust_region import SurrogateProblem
from sb3_trpo_fvp.zoo.configs import ALGORITHM
from sb3_trpo_fvp.zoo.results import load_results

RESULTS = benchmarks.RESULTS / "directions"
PAGE = ROOT / "docs" / "benchmarks.md"
FIGURE = FIGURES / "directions.png"
EVERY = 10
CANDIDATES = (("gauss_newton", 1), ("kl_hessian", 1), ("empirical", 1), ("gauss_newton", 8), ("empirical", 8))
"""Operators, and every how many states they see."""
NAMES = {"gauss_newton": "Gauss-Newton", "kl_hessian": "KL Hessian", "empirical": "empirical"}
COLORS = {"gauss_newton": OURS, "kl_hessian": LIGHT, "empirical": PINK}
TOLERANCES = (0.1, 0.01)
EXACT = 1e-4
MAX_STEPS = 300


@dataclass(frozen=True)
class Direction:
    """
    What an operator makes of a rollout.

    :param s: the solution, (P,)
    :param steps: conjugate-gradient steps to each of :data:`TOLERANCES`
    :param beta: √(2δ / sᵀHs)
    """

    s: th.Tensor
    steps: tuple[int, ...]
    beta: float


def solve(operator: FisherOperator, g: th.Tensor, damping: float, target_kl: float) -> Direction:
    """
    Solve (H + λI)s = g well beyond what training asks for.

    :param operator: H
    :param g: the gradient, (P,)
    :param damping: λ
    :param target_kl: δ
    :return: the direction
    """

    def damped(v: th.Tensor) -> th.Tensor:
        return operator @ v + damping * v

    steps = [conjugate_gradient(damped, g, max_steps=MAX_STEPS, rtol=rtol).num_steps for rtol in TOLERANCES]
    s = conjugate_gradient(damped, g, max_steps=MAX_STEPS, rtol=EXACT).value
    shs = float(th.dot(s.double(), (operator @ s).double()))
    return Direction(s, tuple(steps), math.sqrt(2.0 * target_kl / shs) if shs > 0.0 else math.nan)


def compare(
    policy: ActorCriticPolicy,
    observations: th.Tensor,
    actions: th.Tensor,
    advantages: th.Tensor,
    damping: float,
    target_kl: float,
) -> Iterator[tuple[str, float]]:
    """
    Measure every candidate on one rollout; the policy is left as it was.

    :param policy: at θ_k
    :param observations: N states
    :param actions: taken there
    :param advantages: shape (N,)
    :param damping: λ
    :param target_kl: δ
    :return: names and values, as logged
    """
    reference = fisher_operator(policy, observations, actions)
    problem = SurrogateProblem(reference.actor, actions, advantages)
    g = problem.gradient()
    best = solve(reference, g, damping, target_kl).s

    def promise(s: th.Tensor) -> float:
        return float(th.dot(g, s)) / math.sqrt(float(th.dot(s, reference @ s)))

    old = [parameter.detach().clone() for parameter in reference.parameters]
    for kind, thinning in CANDIDATES:
        operator = fisher_operator(policy, observations[::thinning], actions[::thinning], kind=kind)
        direction = solve(operator, g, damping, target_kl)
        s = direction.s
        assign(reference.parameters, flatten(old) + direction.beta * s)
        kl = problem.evaluate().kl
        assign(reference.parameters, flatten(old))
        name = f"directions/{kind}_{thinning}"
        yield f"{name}_cosine", float(th.nn.functional.cosine_similarity(s, best, dim=0))
        yield f"{name}_efficiency", promise(s) / promise(best)
        yield f"{name}_kl", kl / target_kl
        for tolerance, steps in zip(TOLERANCES, direction.steps, strict=True):
            yield f"{name}_steps_{tolerance:g}", float(steps)


class DirectionRecorder(BaseCallback):
    """Logs :func:`compare` on every :data:`EVERY`-th rollout."""

    model: TRPO

    def __init__(self) -> None:
        super().__init__()
        self._rollouts = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self._rollouts % EVERY:
            return
        model, buffer = self.model, self.model.rollout_buffer
        # Copies: flattened in place, the buffer would not be what the callbacks after this one expect.
        observations, actions, advantages = (
            th.as_tensor(buffer.swap_and_flatten(array.copy()), device=model.device)
            for array in (buffer.observations, buffer.actions, buffer.advantages)
        )
        with evaluation_mode(model.policy):
            for key, value in compare(
                model.policy, observations, actions, normalize(advantages.flatten()), model.cg_damping, model.target_kl
            ):
                self.logger.record(key, value)


def collect(sweep: Path, results: Path = RESULTS) -> int:
    """
    Take what the finished runs of a sweep logged.

    :param sweep: its folder
    :param results: where to put it, one file a run
    :return: how many there are
    """
    results.mkdir(parents=True, exist_ok=True)
    found = load_results(sweep)
    for result in found:
        header = (result.zoo_folder / "progress.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
        keys = sorted(key for key in header if key.startswith("directions/"))
        content: dict[str, Any] = {"parameters": dict(result.parameters), "versions": dict(result.versions)}
        content["steps"] = result.logged(keys[0])[0].tolist()
        for key in keys:
            content[key.removeprefix("directions/")] = [float(f"{value:.4g}") for value in result.logged(key)[1]]
        name = f"{result.parameters['env']}-{result.parameters['seed']}.json"
        (results / name).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return len(found)


def read(results: Path = RESULTS) -> list[dict[str, Any]]:
    """
    Read what was collected.

    :param results: the folder
    :return: the runs
    """
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]


def table(runs: Sequence[dict[str, Any]]) -> str:
    """
    Tabulate medians over the rollouts of an environment's runs.

    :param runs: as collected
    :return: markdown
    """
    header = (
        "environment",
        "operator",
        "states",
        "cosine",
        "efficiency (worst)",
        "KL of the full step / δ (largest)",
        "CG steps to 0.1",
        "to 0.01",
    )
    body = []
    for env in sorted({run["parameters"]["env"] for run in runs}):
        of = [run for run in runs if run["parameters"]["env"] == env]
        for kind, thinning in CANDIDATES:
            name = f"{kind}_{thinning}"

            def values(what: str, name: str = name, of: list[dict[str, Any]] = of) -> np.ndarray:
                return np.concatenate([run[f"{name}_{what}"] for run in of])

            efficiency, kl = values("efficiency"), values("kl")
            cells = (
                f"{np.median(values('cosine')):.2f}",
                f"{np.median(efficiency):.0%} ({efficiency.min():.0%})",
                f"{np.median(kl):.2f} ({kl.max():.2f})",
                *(f"{np.median(values(f'steps_{tolerance:g}')):g}" for tolerance in TOLERANCES),
            )
            share = "all" if thinning == 1 else f"every {thinning}th"
            body.append((env, NAMES[kind], share, *cells))
    return markdown_table(header, body)


def draw(runs: Sequence[dict[str, Any]], path: Path = FIGURE) -> None:
    """
    Draw efficiency and KL along training.

    :param runs: as collected
    :param path: the file to write
    """
    envs = sorted({run["parameters"]["env"] for run in runs})
    figure, grid = panels(2, len(envs), (3.3 * len(envs), 6.0), sharex="col", sharey="row")
    for column, env in zip(grid.T, envs, strict=True):
        for axes, what in zip(column, ("efficiency", "kl"), strict=True):
            for kind, thinning in CANDIDATES:
                if kind == "kl_hessian":  # it would lie on Gauss-Newton's
                    continue
                of = [run for run in runs if run["parameters"]["env"] == env]
                length = min(len(run["steps"]) for run in of)
                curve = np.median([run[f"{kind}_{thinning}_{what}"][:length] for run in of], axis=0)
                label = f"{NAMES[kind]}, {'all states' if thinning == 1 else f'every {thinning}th state'}"
                style = "-" if thinning == 1 else ":"
                axes.plot(of[0]["steps"][:length], curve, style, color=COLORS[kind], label=label, lw=1.6)
            axes.axhline(1.0, color="0.5", lw=0.8)
            steps_axis(axes)
        column[0].set_title(env)
        column[1].set_xlabel("steps")
        column[1].set_yscale("log")
    grid[0, 0].set_ylabel("efficiency of the direction")
    grid[1, 0].set_ylabel("KL of the full step / δ")
    finish(figure, path, legend_columns=4)


def _run(options: argparse.Namespace) -> None:
    settings = [f"algo={ALGORITHM} callback=benchmarks.directions.DirectionRecorder", "seed=[100]"]
    command(["sweep", "benchmark", "--no-wandb", "-j", str(options.jobs), "-o", str(options.folder), "--set", *settings])
    _collect(options)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--jobs", type=int, default=2, help="runs at once (default: %(default)s)")
    _collect_arguments(parser)


def _collect(options: argparse.Namespace) -> None:
    print(f"{collect(options.folder)} runs")
    _report(options)


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="of the runs")


def _report(options: argparse.Namespace) -> None:
    runs = read()
    if runs:
        text = table(runs)
        update_page(PAGE, {"directions": text})
        draw(runs)
        print(text)


STUDY = Study(
    "directions",
    run=Verb("do the runs that are missing in a folder, then collect and report", _run, _run_arguments),
    collect=Verb("take what a folder's finished runs logged, then report", _collect, _collect_arguments),
    report=Verb("write the table and the figure from the committed results", _report),
)

if __name__ == "__main__":
    STUDY.main()
