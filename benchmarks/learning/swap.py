"""
The import swap, the sweep ``defaults``: who learns sooner with its constructor's defaults?

The measure is the area under the training curve: the mean over the budget's time steps of the return of the training episode
that covers each step, averaged over the copies of the environment. The episode that the budget cuts off counts with the return
of the last one that ended.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import benchmarks
from benchmarks.common.pages import markdown_table
from benchmarks.common.statistics import write
from benchmarks.learning.compare import ahead, cpu_ratio
from sb3_trpo_fvp.zoo.compare.summary import bootstrap
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE
from sb3_trpo_fvp.zoo.results import Result, load_results
from sb3_trpo_fvp.zoo.sweeps.sweep import SweepRun

RESULTS = benchmarks.RESULTS / "defaults"
POINTS = 50
"""Equal parts of the budget, each with the mean of the training curve over it."""
FINAL = 0.1
"""Part of the budget that the final return is the mean of."""


@dataclass(frozen=True)
class SwapRun:
    """
    A finished run of the sweep ``defaults``.

    :param variant: the algorithm
    :param env: the environment
    :param seed: of the run
    :param steps: where each of the :data:`POINTS` parts of the budget ends, time steps
    :param returns: mean of the training curve over each part
    :param area: under the training curve, over the budget: a mean return
    :param final: mean return of the budget's last tenth
    :param cpu_seconds: of learning, NaN where it was not written down
    :param machine: the processor that it ran on
    """

    variant: str
    env: str
    seed: int
    steps: np.ndarray
    returns: np.ndarray
    area: float
    final: float
    cpu_seconds: float
    machine: str


def curve(copies: Sequence[tuple[np.ndarray, np.ndarray]], n_timesteps: int, points: int = POINTS) -> np.ndarray:
    """
    Average the training curve over equal parts of the budget, and over the copies of the environment.

    :param copies: of each copy of the environment the time steps, of all copies together, at which its episodes ended (n,),
        and their returns (n,); copies without any are left out
    :param n_timesteps: the budget
    :param points: parts
    :return: mean return of each part (points,); the mean of all is the area over the budget
    :raises ValueError: if no copy has finished an episode
    """
    edges = np.linspace(0.0, n_timesteps, points + 1)
    means = []
    for ends, returns in copies:
        if not len(ends):
            continue
        # The integral of a step function is linear in between, and after the last end as before it.
        integral = np.concatenate([[0.0], np.cumsum(returns * np.diff(ends, prepend=0))])
        at = np.interp(edges, np.concatenate([[0.0], ends]), integral) + returns[-1] * np.maximum(edges - ends[-1], 0.0)
        means.append(np.diff(at) / np.diff(edges))
    if not means:
        msg = "no copy of the environment has finished an episode"
        raise ValueError(msg)
    return np.mean(means, axis=0)


def collect(sweep: Path, results: Path = RESULTS) -> int:
    """
    Take the finished runs out of a sweep's folder.

    :param sweep: the folder
    :param results: where to put them, one file a run
    :return: how many there are
    """
    results.mkdir(parents=True, exist_ok=True)
    found = load_results(sweep)
    for result in found:
        (results / f"{result.folder.name}.json").write_text(json.dumps(_content(result)) + "\n", encoding="utf-8")
    return len(found)


def _content(result: Result) -> dict[str, Any]:
    options = SweepRun.from_parameters(result.parameters).options
    n_timesteps = int(options["n_timesteps"])
    returns = curve(result.training_episodes(), n_timesteps)
    clock = result.logged("time/learn_cpu_seconds")[1]
    return {
        "variant": result.variant,
        "parameters": dict(result.parameters),
        "env": options["env"],
        "seed": options["seed"],
        "steps": [round(n_timesteps * (index + 1) / POINTS) for index in range(POINTS)],
        "returns": [float(f"{value:.6g}") for value in returns],
        "area": float(f"{returns.mean():.6g}"),
        "final": float(f"{returns[-round(FINAL * POINTS) :].mean():.6g}"),
        "learn_cpu_seconds": round(float(clock[-1]), 2) if len(clock) else None,
        "versions": dict(result.versions),
    }


def read(results: Path = RESULTS) -> list[SwapRun]:
    """
    Read what was collected.

    :param results: the folder
    :return: runs, by file name
    """
    return [_run(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(results.glob("*.json"))]


def _run(content: dict[str, Any]) -> SwapRun:
    seconds = content["learn_cpu_seconds"]
    return SwapRun(
        variant=content["variant"],
        env=content["env"],
        seed=content["seed"],
        steps=np.asarray(content["steps"]),
        returns=np.asarray(content["returns"]),
        area=content["area"],
        final=content["final"],
        cpu_seconds=math.nan if seconds is None else seconds,
        machine=content["versions"]["cpu"],
    )


def table(runs: Sequence[SwapRun]) -> str:
    """
    Tabulate areas, and how likely a run of this project's has the larger one.

    :param runs: any
    :return: markdown
    """
    if not runs:
        return "No run yet."
    sides = {
        variant: {
            env: sorted((run for run in runs if (run.env, run.variant) == (env, variant)), key=lambda run: run.seed)
            for env in sorted({run.env for run in runs if run.variant == variant})
        }
        for variant in (BASELINE, ALGORITHM)
    }
    theirs, ours = sides.values()
    areas = [{env: [run.area for run in of] for env, of in side.items()} for side in (theirs, ours)]
    body = []
    for env in sorted({*theirs, *ours}):
        pair = [side.get(env, []) for side in (theirs, ours)]
        counts = " / ".join(str(len(of)) for of in pair)
        steps = f"{next(of[0].steps[-1] for of in pair if of):,}"
        means = [write(bootstrap(np.array([run.area for run in of])), _digits(of), len(of)) if of else "–" for of in pair]
        chance = ahead(*({env: side[env]} if env in side else {} for side in reversed(areas)))
        body.append((env, steps, counts, *means, chance, cpu_ratio(*pair)))
    both = set(theirs) & set(ours)
    if both:
        times = [float(row[-1]) for row in body if row[0] in both and row[-1] != "–"]
        median = f"{statistics.median(times):.2f} (median)" if times else "–"
        body.append((f"all {len(both)} that both have", "", "", "", "", ahead(*reversed(areas)), median))
    header = (
        "environment",
        "steps",
        "seeds, sb3-contrib / this",
        "area, sb3-contrib",
        "area, this",
        "P(a run of this has the larger area)",
        "CPU time, sb3-contrib / this",
    )
    return markdown_table(header, body)


def _digits(runs: Sequence[SwapRun]) -> int:
    return 0 if max(abs(run.area) for run in runs) >= 100.0 else 1
