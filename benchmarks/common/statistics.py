"""Estimates with their intervals; statistics over environments by rliable (Agarwal et al., 2021)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

REPETITIONS = 2000
"""Of the bootstrap."""

Interval: TypeAlias = tuple[float, float, float]
"""Estimate, lower and upper end of its 95 % interval."""


@contextmanager
def reproducible() -> Iterator[None]:
    """Let rliable draw the same every time: it draws from NumPy's global generator, whatever it is given."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def interval(metric: Callable[..., float], *matrices: np.ndarray) -> Interval:
    """
    Estimate an aggregate with its stratified bootstrap interval.

    :param metric: of as many matrices as are given
    :param matrices: scores, (seeds, environments)
    :return: the estimate and its 95 % interval
    """
    from rliable import library

    data = matrices[0] if len(matrices) == 1 else matrices
    with reproducible():
        points, spread = library.get_interval_estimates(
            {"x": data}, lambda *drawn: np.array([metric(*drawn)]), reps=REPETITIONS
        )
    return float(points["x"][0]), float(spread["x"][0, 0]), float(spread["x"][1, 0])


def iqm(matrix: np.ndarray) -> Interval:
    """
    Interquartile mean.

    :param matrix: scores, (seeds, environments)
    :return: the estimate and its interval
    """
    from rliable import metrics

    return interval(metrics.aggregate_iqm, matrix)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """
    Count how often a run of ours is above one of theirs, a tie counting half, and average over environments.

    This is rliable's metric of the same name. Its own goes through a test of significance, and takes most of a bootstrap.

    :param ours: scores, (seeds, environments)
    :param theirs: likewise, of as many seeds as it has
    :return: the part of all pairs of runs of one environment
    """
    above = ours[:, None] > theirs[None]
    equal = ours[:, None] == theirs[None]
    return float((above + 0.5 * equal).mean())


def improvement(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """
    Probability that a run of ours ends above one of theirs.

    :param ours: scores, (seeds, environments)
    :param theirs: likewise
    :return: the estimate and its interval
    """
    return interval(probability_of_improvement, ours, theirs)


def difference(theirs: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Estimate by how much returns differ; the seeds of both are drawn independently, as they share nothing.

    :param theirs: returns, (seeds, ...)
    :param ours: likewise
    :return: ours less theirs, with the ends of its 95 % percentile-bootstrap interval, each of shape (...)
    """
    generator = np.random.default_rng(0)
    drawn = [of[generator.integers(len(of), size=(REPETITIONS, len(of)))].mean(axis=1) for of in (theirs, ours)]
    low, high = np.percentile(drawn[1] - drawn[0], [2.5, 97.5], axis=0)
    return ours.mean(axis=0) - theirs.mean(axis=0), low, high


def write(value: Sequence[Any], digits: int, count: int = 2) -> str:
    """
    Write an estimate, with its interval if it has one.

    :param value: estimate, lower and upper end
    :param digits: after the point
    :param count: of what it is the mean of; one has no interval
    :return: such as ``0.52 [0.41, 0.60]``
    """
    middle, low, high = value
    return f"{middle:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if count > 1 else "")
