"""Finished runs that RL-Zoo evaluated: those of the sweeps ``benchmark`` and ``reference``."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import benchmarks
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE
from sb3_trpo_fvp.zoo.results import Result, load_results

RESULTS = benchmarks.RESULTS / "learning"
REFERENCE = benchmarks.RESULTS / "reference"
OWN = ALGORITHM
LIKE_FOR_LIKE = "kl_reduction=mean damped_beta=True conf_file=trpo.yml"
NAMES = {
    BASELINE: "sb3-contrib",
    f"trpo_fvp fisher=gauss_newton {LIKE_FOR_LIKE}": "Gauss-Newton, like for like",
    f"trpo_fvp fisher=kl_hessian {LIKE_FOR_LIKE}": "KL Hessian, like for like",
    f"trpo_fvp fisher=empirical {LIKE_FOR_LIKE}": "empirical Fisher, like for like",
    OWN: "this project's own",
}
"""What the pages call the algorithms of the sweep file."""
ALIKE = tuple(name for name in NAMES if LIKE_FOR_LIKE in name)
"""Those that do what sb3-contrib's does."""
LAST = 3
"""Evaluations that the final return is the mean of."""
MEANS = ("trust_region/cg_steps", "train/is_line_search_success", "train/explained_variance")
"""Logged values of which the mean over the updates is kept."""


@dataclass(frozen=True)
class LearningRun:
    """
    A finished run.

    :param variant: the algorithm with the settings written beside its name
    :param env: the environment
    :param seed: of the run
    :param steps: time steps of the evaluations, (n,)
    :param returns: of their episodes, (n, n_episodes)
    :param seconds: CPU time of learning up to each evaluation, (n,); NaN where it was not written down
    :param kl: joint KL(old ‖ new) of each update, nats; empty for algorithms without a trust region
    :param target_kl: what the algorithm was given, NaN without a trust region
    :param means: of :data:`MEANS`
    :param machine: the processor that it ran on
    """

    variant: str
    env: str
    seed: int
    steps: np.ndarray
    returns: np.ndarray
    seconds: np.ndarray
    kl: np.ndarray
    target_kl: float
    means: dict[str, float]
    machine: str

    @property
    def smoothed(self) -> np.ndarray:
        """Mean return over each evaluation and those right before it, as many as count for the final one, (n,)."""
        means = self.returns.mean(axis=1)
        return np.array([means[max(0, i + 1 - LAST) : i + 1].mean() for i in range(len(means))])

    @property
    def final(self) -> float:
        """Mean return of the last evaluations."""
        return float(self.returns[-LAST:].mean())

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all of the learning, NaN where it was not written down."""
        return float(self.seconds[-1])


def collect(sweep: Path, results: Path = RESULTS) -> int:
    """
    Take the finished runs out of a sweep's folder.

    :param sweep: the folder
    :param results: where to put them
    :return: how many there are
    """
    results.mkdir(parents=True, exist_ok=True)
    found = load_results(sweep)
    for result in found:
        content = json.dumps(_content(result)) + "\n"
        (results / f"{result.folder.name}.json").write_text(content, encoding="utf-8")
    return len(found)


def _content(result: Result) -> dict[str, Any]:
    steps, returns = result.evaluations()
    clock = result.logged("time/learn_cpu_seconds")
    kl, target = result.logged("trust_region/kl")[1], result.logged("trust_region/target_kl")[1]
    means = {key: result.logged(key)[1] for key in MEANS}
    return {
        "variant": result.variant,
        "parameters": dict(result.parameters),
        "steps": steps.tolist(),
        "returns": [[round(float(value), 2) for value in row] for row in returns],
        "learn_cpu_seconds": np.interp(steps, *clock).round(2).tolist() if len(clock[0]) else None,
        "kl": [float(f"{value:.4g}") for value in kl],
        "target_kl": float(target[0]) if len(target) else None,
        "means": {key: float(f"{values.mean():.6g}") for key, values in means.items() if len(values)},
        "versions": dict(result.versions),
    }


def read(results: Path = RESULTS) -> list[LearningRun]:
    """
    Read what was collected.

    :param results: the folder
    :return: runs, by file name
    """
    return [_run(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(results.glob("*.json"))]


def _run(content: dict[str, Any]) -> LearningRun:
    steps = np.asarray(content["steps"])
    seconds = content["learn_cpu_seconds"]
    return LearningRun(
        variant=content["variant"],
        env=content["parameters"]["env"].split()[0],  # settings may be written beside it
        seed=content["parameters"]["seed"],
        steps=steps,
        returns=np.asarray(content["returns"]),
        seconds=np.full(len(steps), math.nan) if seconds is None else np.asarray(seconds),
        kl=np.asarray(content["kl"]),
        target_kl=math.nan if content["target_kl"] is None else content["target_kl"],
        means=content["means"],
        machine=content["versions"]["cpu"],
    )
