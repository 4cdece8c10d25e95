"""Statistics of all ranks, out of each rank's own."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_fvp.distributed.communicator import Communicator

T = TypeVar("T")


@dataclass(frozen=True)
class Moments:
    """
    Count, mean and spread of numbers, which merge without the numbers (Chan, Golub and LeVeque, 1983).

    :param count: n, or the sum of the weights
    :param mean: Σx / n
    :param squares: Σ(x − mean)²
    :param largest: max |x|
    """

    count: float
    mean: float
    squares: float
    largest: float

    @property
    def std(self) -> float:
        """With n − 1 below the sum, as ``torch.std``; NaN for fewer than two numbers."""
        return float(np.sqrt(self.squares / (self.count - 1))) if self.count > 1 else float("nan")


def pooled_moments(x: th.Tensor, comm: Communicator, weights: th.Tensor | None = None) -> Moments:
    """
    Take the moments of the numbers of all ranks.

    :param x: this rank's, shape (n,), n ≥ 1
    :param comm: the ranks
    :param weights: how often each number counts, shape (n,), positive; once each by default
    :return: those of all, in double precision
    """
    x = x.double()
    if weights is None:
        mean, variance, largest = th.stack([x.mean(), x.var(correction=0), x.abs().max()]).tolist()
        own = Moments(x.numel(), mean, variance * x.numel(), largest)
    else:
        weights = weights.double()
        center = (weights * x).sum() / weights.sum()
        numbers = th.stack([weights.sum(), center, (weights * (x - center).square()).sum(), x.abs().max()])
        own = Moments(*numbers.tolist())
    parts = comm.gather(own)
    count = sum(part.count for part in parts)
    mean = sum(part.count * part.mean for part in parts) / count
    squares = sum(part.squares + part.count * (part.mean - mean) ** 2 for part in parts)
    # np.max and not max(): a NaN anywhere is a NaN here.
    return Moments(count, mean, squares, float(np.max([part.largest for part in parts])))


def pooled_explained_variance(values: np.ndarray[Any, Any], returns: np.ndarray[Any, Any], comm: Communicator) -> float:
    """
    Compute 1 − Var(returns − values) / Var(returns) over the states of all ranks.

    :param values: this rank's predictions, shape (N,)
    :param returns: this rank's targets, shape (N,)
    :param comm: the ranks
    :return: at most 1; NaN if the returns do not vary
    """
    if comm.world_size == 1:
        return float(explained_variance(values, returns))
    variance = pooled_moments(th.as_tensor(returns), comm).squares
    rest = pooled_moments(th.as_tensor(returns - values), comm).squares
    return 1.0 - rest / variance if variance > 0.0 else float("nan")


def running_statistics(env: VecNormalize) -> list[RunningMeanStd]:
    """
    List what a ``VecNormalize`` keeps about observations and returns.

    :param env: the wrapper
    :return: its running means and variances, in an order that is the same on every rank
    """
    observations: Any = env.obs_rms if env.norm_obs else []
    if isinstance(observations, RunningMeanStd):
        observations = [observations]
    elif isinstance(observations, dict):
        observations = [observations[key] for key in sorted(observations)]
    return [*observations, env.ret_rms]


class StatisticsGuard:
    """
    Keeps what is not finite out of a ``VecNormalize``: one NaN would stay in its statistics for ever.

    :param env: the wrapper
    :raises ValueError: if its statistics are not finite to begin with
    """

    def __init__(self, env: VecNormalize):
        self.env = env
        if not self._is_finite():
            msg = (
                "`env` must be a VecNormalize with finite statistics, got NaN or infinity: they were saved after a reward or "
                "observation that was not finite; begin with new ones"
            )
            raise ValueError(msg)
        self._keep()

    def check(self, rewards: np.ndarray[Any, Any] | None = None) -> None:
        """
        Look at the statistics after a step, and put those of the step before back if they are not finite.

        :param rewards: what the wrapper made of the step's rewards, (n_envs,); those that were finite are normalised again
        """
        if self._is_finite():
            self._keep()
            return
        env = self.env
        for statistic, (mean, var, count) in zip(running_statistics(env), self._good, strict=True):
            statistic.mean, statistic.var, statistic.count = mean, var, count
        env.returns = np.where(np.isfinite(env.returns), env.returns, self._returns)
        if rewards is not None:
            finite = np.isfinite(env.old_reward)
            rewards[finite] = env.normalize_reward(env.old_reward)[finite]

    def _keep(self) -> None:
        # The wrapper makes new arrays of them at each step: these stay as they are.
        self._good = [(statistic.mean, statistic.var, statistic.count) for statistic in running_statistics(self.env)]
        self._returns = self.env.returns

    def _is_finite(self) -> bool:
        # A mean that is not finite makes a variance that is not. The sum of squares sees all, sooner, and may overflow.
        variances = [statistic.var for statistic in running_statistics(self.env)]
        return all(math.isfinite(np.vdot(var, var)) or bool(np.isfinite(var).all()) for var in variances)


def merge_running_statistics(
    statistics: Sequence[RunningMeanStd], bases: Sequence[RunningMeanStd], comm: Communicator
) -> None:
    """
    Let every rank's running statistics have seen what all ranks saw since they last agreed, each number once.

    :param statistics: this rank's, set in place to those of all
    :param bases: what they were, on every rank, when the ranks last agreed
    :param comm: the ranks
    """
    news = [_news(now, base) for now, base in zip(statistics, bases, strict=True)]
    counts = th.tensor([count for count, _, _ in news], dtype=th.float64)
    sums = [th.as_tensor(count * mean, dtype=th.float64) for count, mean, _ in news]
    # The mean over ranks, times their number, is the sum: every rank counts once.
    totals = [total.numpy() * comm.world_size for total in comm.mean([counts, *sums], 1)]
    counts_of_all, sums_of_all = totals[0], totals[1:]
    means = [total / count if count > 0 else total for total, count in zip(sums_of_all, counts_of_all, strict=True)]
    # Squares about the mean of all, in a second message: Σx² − n·mean² would lose digits.
    squares = [
        th.as_tensor(squares_of_own + count * np.square(mean_of_own - mean), dtype=th.float64)
        for (count, mean_of_own, squares_of_own), mean in zip(news, means, strict=True)
    ]
    squares_of_all = [total.numpy() * comm.world_size for total in comm.mean(squares, 1)]
    for now, base, count, mean, square in zip(statistics, bases, counts_of_all, means, squares_of_all, strict=True):
        merged = base.copy()
        if count > 0:
            merged.update_from_moments(mean, square / count, float(count))
        now.mean, now.var, now.count = merged.mean, merged.var, merged.count


def _news(now: RunningMeanStd, base: RunningMeanStd) -> tuple[float, Any, Any]:
    """Undo ``base.update_from_moments``: count, mean and Σ(x − mean)² of what was seen since."""
    count = now.count - base.count
    if count <= 0:
        return 0.0, np.zeros_like(now.mean), np.zeros_like(now.var)
    mean = (now.mean * now.count - base.mean * base.count) / count
    squares = now.var * now.count - base.var * base.count - np.square(mean - base.mean) * base.count * count / now.count
    return count, mean, np.maximum(squares, 0.0)


def window(old: Iterable[T], news: Sequence[Sequence[T]], size: int | None) -> deque[T]:
    """
    Append what the ranks report to the last few, in turns, so that a full window holds some of every rank.

    :param old: what all ranks know already
    :param news: what is new, by rank
    :param size: how many to keep
    :return: the last ``size``
    """
    absent = object()
    turns: Iterable[Any] = (item for row in zip_longest(*news, fillvalue=absent) for item in row if item is not absent)
    return deque([*old, *turns], maxlen=size)
