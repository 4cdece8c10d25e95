"""
The learning benchmark: ``python -m benchmarks.learning``.

Runs are those of the sweep file that users have, done by ``sb3-trpo-fvp sweep benchmark`` through RL-Zoo's own training.
``--collect FOLDER ...`` takes what is finished out of sweeps' folders, the evaluations and what each run cost, into
``benchmarks/results/learning``, one small file a run, so that any machine can go on with the others; ``--collect-defaults``
does so for the sweep ``defaults``, the import swap. Without either, tables and figures are drawn from those files, and the
pages are rewritten.

The final return of a run is the mean over the episodes of its last three evaluations. Normalised returns have 0 at the
return of uniformly random actions and 1 at the reference of ``reference_scores.json``. Times are CPU seconds of the run's one
thread, evaluations left out: what else the machine does is not in them, and ratios are of runs of one machine.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_trpo_fvp.zoo.results import Result, load_results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "learning"
DEFAULTS = ROOT / "benchmarks" / "results" / "defaults"
REFERENCES = ROOT / "benchmarks" / "reference_scores.json"
BASELINE = "trpo"
OWN = "trpo_fvp"
LIKE_FOR_LIKE = "kl_reduction=mean damped_beta=True conf_file=trpo.yml"
NAMES = {
    BASELINE: "sb3-contrib",
    f"trpo_fvp fisher=gauss_newton {LIKE_FOR_LIKE}": "Gauss-Newton, like for like",
    f"trpo_fvp fisher=kl_hessian {LIKE_FOR_LIKE}": "KL Hessian, like for like",
    f"trpo_fvp fisher=empirical {LIKE_FOR_LIKE}": "empirical Fisher, like for like",
    OWN: "this project's own",
}
"""What the pages call the algorithms of the sweep file."""
LAST = 3
"""Evaluations that the final return is the mean of."""
MEANS = ("trust_region/cg_steps", "train/is_line_search_success", "train/explained_variance")
"""Logged values of which the mean over the updates is kept."""


@dataclass(frozen=True)
class Run:
    """
    A finished run.

    :param variant: the algorithm with the settings written beside its name
    :param env: the environment
    :param seed: of the run
    :param steps: time steps of the evaluations, (n,)
    :param returns: of their episodes, (n, n_episodes)
    :param seconds: CPU time of learning up to each evaluation, (n,); NaN where it was not written down
    :param kl: joint KL(old ‖ new) of each update, nats
    :param target_kl: what the algorithm was given
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
        "target_kl": float(target[0]),
        "means": {key: float(f"{values.mean():.6g}") for key, values in means.items() if len(values)},
        "versions": dict(result.versions),
    }


def read(results: Path = RESULTS) -> list[Run]:
    """
    Read what was collected.

    :param results: the folder
    :return: runs, by file name
    """
    return [_run(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(results.glob("*.json"))]


def _run(content: dict[str, Any]) -> Run:
    steps = np.asarray(content["steps"])
    seconds = content["learn_cpu_seconds"]
    return Run(
        variant=content["variant"],
        env=content["parameters"]["env"],
        seed=content["parameters"]["seed"],
        steps=steps,
        returns=np.asarray(content["returns"]),
        seconds=np.full(len(steps), math.nan) if seconds is None else np.asarray(seconds),
        kl=np.asarray(content["kl"]),
        target_kl=content["target_kl"],
        means=content["means"],
        machine=content["versions"]["cpu"],
    )


def read_references() -> dict[str, dict[str, float]]:
    """
    Read the returns that stand for 0 and 1.

    :return: ``"random"`` and ``"reference"`` of each environment
    """
    found: dict[str, dict[str, float]] = json.loads(REFERENCES.read_text(encoding="utf-8"))
    return found


def random_returns(env_id: str, episodes: int) -> float:
    """
    Act at random.

    :param env_id: the environment
    :param episodes: how many
    :return: mean return of uniformly random actions
    """
    import gymnasium

    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    total = 0.0
    for episode in range(episodes):
        env.reset(seed=episode)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            over = terminated or truncated
    return total / episodes


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Collect if asked to, and write the pages.

    :param arguments: the command line
    """
    from benchmarks.learning.figures import draw_all
    from benchmarks.learning.report import publish

    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description="Report the learning benchmark.")
    parser.add_argument(
        "--collect",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="take the finished runs out of sweeps' folders first",
    )
    parser.add_argument(
        "--collect-defaults", type=Path, nargs="+", default=[], metavar="FOLDER", help="likewise, of the sweep `defaults`"
    )
    parser.add_argument("--random", type=int, metavar="N", help="measure the returns of random actions over N episodes first")
    options = parser.parse_args(arguments)
    references = read_references()
    if options.random:
        for env_id, scores in references.items():
            scores["random"] = round(random_returns(env_id, options.random), 1)
        REFERENCES.write_text(json.dumps(references, indent=1) + "\n", encoding="utf-8")
    for folder in options.collect:
        print(f"{collect(folder)} finished runs in {folder}")
    for folder in options.collect_defaults:
        print(f"{collect(folder, DEFAULTS)} finished runs in {folder}")
    runs = read()
    parts = publish(runs, read(DEFAULTS), references)
    draw_all(runs, references)
    print("\n\n".join(parts.values()))


if __name__ == "__main__":
    main()
