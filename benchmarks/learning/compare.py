"""Runs matched by environment and seed, and what two sides of such runs amount to."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from benchmarks.common.references import References
from benchmarks.common.statistics import difference, improvement, write
from benchmarks.learning.runs import BASELINE, LearningRun

Pair: TypeAlias = dict[str, dict[tuple[str, int], LearningRun]]
"""Runs by algorithm, then by environment and seed: the same environments and seeds of each."""


class Timed(Protocol):
    """A run whose time can be compared with another's."""

    @property
    def seed(self) -> int:
        """Of the run."""

    @property
    def machine(self) -> str:
        """The processor that it ran on."""

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all of its learning, NaN where it was not written down."""


def matched(runs: Sequence[LearningRun], variants: Sequence[str]) -> Pair:
    """
    Keep the runs whose environment and seed every one of some algorithms has done.

    :param runs: any
    :param variants: the algorithms
    :return: by algorithm, then by environment and seed
    """
    done = {variant: {(run.env, run.seed): run for run in runs if run.variant == variant} for variant in variants}
    common = set.intersection(*(set(of) for of in done.values()))
    return {variant: {key: of[key] for key in sorted(common)} for variant, of in done.items()}


def environments(pair: Pair) -> list[str]:
    """
    List the environments.

    :param pair: runs
    :return: by name
    """
    return sorted({env for of in pair.values() for env, _ in of})


def of_env(of: Mapping[tuple[str, int], LearningRun], env: str) -> list[LearningRun]:
    """
    Pick an environment's runs.

    :param of: one algorithm's
    :param env: the environment
    :return: by seed
    """
    return [run for (which, _), run in sorted(of.items()) if which == env]


def scores(of: Mapping[tuple[str, int], LearningRun], references: References) -> np.ndarray:
    """
    Normalise the returns, smoothed over evaluations as the final one is.

    :param of: one algorithm's runs by environment and seed
    :param references: random and reference return of each environment
    :return: (seeds, environments, evaluations), of as many seeds as every environment has
    """
    columns = []
    for env in sorted({env for env, _ in of}):
        low, high = references[env]["random"], references[env]["reference"]
        columns.append([(run.smoothed - low) / (high - low) for run in of_env(of, env)])
    seeds = min(map(len, columns))
    return np.array([column[:seeds] for column in columns]).swapaxes(0, 1)


def reaching(theirs: Sequence[LearningRun], ours: Sequence[LearningRun]) -> tuple[float, float] | None:
    """
    Compare the CPU time of learning after which the mean over seeds first is at the final return of theirs.

    :param theirs: runs of one environment
    :param ours: likewise
    :return: the part of their time that ours takes, infinite if it never gets there, and the same of the steps; None without
        times, or if they are of several machines
    """
    level = statistics.mean(run.final for run in theirs)
    if len({run.machine for run in (*theirs, *ours)}) > 1:
        return None
    found = []
    for runs in (theirs, ours):
        timed = [run.seconds for run in runs if not np.isnan(run.seconds).any()]
        if not timed:
            return None
        means = np.mean([run.smoothed for run in runs], axis=0)
        above = np.nonzero(means >= level - 1e-9)[0]
        seconds = np.mean(timed, axis=0)
        found.append((seconds[above[0]], runs[0].steps[above[0]]) if len(above) else (math.inf, math.inf))
    return found[1][0] / found[0][0], found[1][1] / found[0][1]


def agreement(pair: Pair, variant: str) -> str:
    """
    Count where along the learning curves, smoothed as the final return is, the difference's interval contains 0.

    :param pair: runs of the baseline and of the algorithm
    :param variant: the algorithm
    :return: a sentence
    """
    agree = points = 0
    for env in environments(pair):
        curves = (np.array([run.smoothed for run in of_env(pair[which], env)]) for which in (BASELINE, variant))
        _, low, high = difference(*curves)
        agree += int(((low <= 0.0) & (high >= 0.0)).sum())
        points += len(low)
    return f"Along the curves, the 95 % interval of the difference contains 0 at {agree} of {points} evaluations."


def cpu_ratio(theirs: Sequence[Timed], ours: Sequence[Timed]) -> str:
    """
    Divide the CPU time of learning, theirs by ours, of equal seeds on equal processors.

    :param theirs: runs of one environment
    :param ours: likewise
    :return: the median over seeds, a dash if there is none
    """
    others = {run.seed: run for run in theirs}
    pairs = [(others[run.seed], run) for run in ours if run.seed in others and others[run.seed].machine == run.machine]
    ratios = [a.cpu_seconds / b.cpu_seconds for a, b in pairs if not math.isnan(a.cpu_seconds / b.cpu_seconds)]
    return f"{statistics.median(ratios):.2f}" if ratios else "–"


def ahead(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> str:
    """
    Estimate the probability that a run of ours has more than one of theirs, over the environments that both have.

    :param ours: one number a seed, by environment
    :param theirs: likewise, on seeds that need not be the same
    :return: with its 95 % stratified bootstrap interval; without if a side has one seed; a dash if no environment has both
    """
    envs = sorted(set(ours) & set(theirs))
    if not envs:
        return "–"
    counts = [min(len(side[env]) for env in envs) for side in (ours, theirs)]
    matrices = [np.array([side[env][:count] for env in envs]).T for side, count in zip((ours, theirs), counts, strict=True)]
    return write(improvement(*matrices), 2, min(counts))
