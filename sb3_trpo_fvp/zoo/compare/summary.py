"""What ``compare`` reports of a set of runs, and its uncertainty."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_trpo_fvp.zoo.results import Result

RESAMPLES = 2000
WITHIN = 1.001
"""Of ``target_kl``: a KL that is measured in single precision, from outside, counts as within the bound up to here."""


@dataclass(frozen=True)
class Estimate:
    """
    A mean over seeds.

    :param mean: the mean
    :param low: lower end of its 95 % bootstrap interval
    :param high: upper end
    :param per_seed: what it is the mean of
    """

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    def __str__(self) -> str:
        size = abs(self.mean)
        digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 4
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.mean:.{digits}f}{interval if len(self.per_seed) > 1 else ''}"


def bootstrap(samples: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Mean over seeds with its 95 % percentile-bootstrap interval: whole seeds are drawn, with replacement.

    With one environment this is the stratified bootstrap of Agarwal et al. (2021), https://arxiv.org/abs/2108.13264.

    :param samples: one row a seed, (n_seeds, ...)
    :param seed: of the resampling, so that the same results give the same interval
    :return: mean, low and high, each (...)
    """
    draws = np.random.default_rng(seed).integers(len(samples), size=(RESAMPLES, len(samples)))
    means = samples[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return samples.mean(axis=0), low, high


def estimate(values: Iterable[float]) -> Estimate:
    """
    Estimate a mean over seeds.

    :param values: one value a seed
    :return: the mean with its interval
    """
    samples = np.fromiter(values, dtype=float)
    mean, low, high = bootstrap(samples)
    return Estimate(float(mean), float(low), float(high), tuple(samples.tolist()))


@dataclass(frozen=True)
class Summary:
    """
    What the runs of one algorithm gave.

    :param label: its name, for people
    :param final_return: mean return of the last evaluation
    :param seconds: training time, evaluations left out
    :param steps_per_second: environment steps over that time
    :param target_kl: the bound on the KL that the algorithm was given
    :param joint_kl: KL(old ‖ new) of the whole action, mean over the updates
    :param kl_kept: share of the updates whose joint KL is within ``target_kl`` (and 0.1 % of it, for rounding)
    :param cg_steps: conjugate-gradient steps of an update, mean over the updates
    :param line_search_success: share of the updates whose step was accepted
    :param steps: time steps of the evaluations
    :param returns: mean return at each of them, one list a seed
    :param times: training time at each of them, mean over the seeds
    :param kl_over_bound: per seed, time steps and joint KL divided by ``target_kl``, one value an update
    """

    label: str
    final_return: Estimate
    seconds: Estimate
    steps_per_second: Estimate
    target_kl: float
    joint_kl: Estimate
    kl_kept: Estimate
    cg_steps: Estimate
    line_search_success: Estimate
    steps: list[int]
    returns: list[list[float]]
    times: list[float]
    kl_over_bound: list[tuple[list[int], list[float]]]


def summarize(label: str, results: Sequence[Result]) -> Summary:
    """
    Summarise the runs of one algorithm.

    :param label: its name
    :param results: its finished runs, one a seed
    :return: what they gave
    """
    evaluated = [result.evaluations() for result in results]
    length = min(len(steps) for steps, _ in evaluated)
    returns = np.array([episodes[:length].mean(axis=1) for _, episodes in evaluated])
    steps = evaluated[0][0][:length]
    clocks = [result.logged("time/learn_seconds") for result in results]
    kls = [result.logged("trust_region/kl") for result in results]
    target = float(results[0].logged("trust_region/target_kl")[1][0])
    return Summary(
        label=label,
        final_return=estimate(returns[:, -1]),
        seconds=estimate([seconds[-1] for _, seconds in clocks]),
        steps_per_second=estimate([at[-1] / seconds[-1] for at, seconds in clocks]),
        target_kl=target,
        joint_kl=estimate([kl.mean() for _, kl in kls]),
        kl_kept=estimate([float((kl <= WITHIN * target).mean()) for _, kl in kls]),
        cg_steps=estimate([result.logged("trust_region/cg_steps")[1].mean() for result in results]),
        line_search_success=estimate([result.logged("train/is_line_search_success")[1].mean() for result in results]),
        steps=steps.tolist(),
        returns=returns.tolist(),
        times=np.mean([np.interp(steps, *clock) for clock in clocks], axis=0).tolist(),
        kl_over_bound=[(at.tolist(), (kl / target).tolist()) for at, kl in kls],
    )


def speedup(baseline: Summary, ours: Summary) -> Estimate:
    """
    Compare training times seed by seed: the two runs of a seed shared the machine.

    :param baseline: sb3-contrib's
    :param ours: this project's
    :return: time of the baseline over time of ours
    """
    pairs = zip(baseline.seconds.per_seed, ours.seconds.per_seed, strict=True)
    return estimate([theirs / mine for theirs, mine in pairs])
