"""Backtracking along a step until surrogate and KL agree, or everything is as it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_trpo_fvp.linalg.vectors import all_finite, assign, flatten
from sb3_trpo_fvp.policies.batch_normalization import StatisticsStep
from sb3_trpo_fvp.trust_region.surrogate import Evaluation, SurrogateProblem


@dataclass(frozen=True)
class LineSearch:
    """
    How a line search ended.

    :param accepted: surrogate and KL at the step taken, None if none was
    :param fraction: the part of the step that was tried last
    :param backtracks: times that the step was shortened
    """

    accepted: Evaluation | None
    fraction: float
    backtracks: int


def line_search(
    problem: SurrogateProblem,
    parameters: Sequence[nn.Parameter],
    step: th.Tensor,
    *,
    bound: float,
    shrinking_factor: float,
    max_iterations: int,
    statistics: StatisticsStep | None = None,
) -> LineSearch:
    """
    Take the longest of ``step``, α ``step``, α² ``step`` … that raises the surrogate and keeps the bound (TRPO, appendix C).

    If none does, or anything raises meanwhile, the parameters are put back bit for bit.

    :param problem: surrogate and constraint
    :param parameters: to move, P elements
    :param step: the full step, shape (P,)
    :param bound: on the constraint, nats
    :param shrinking_factor: α, in (0, 1)
    :param max_iterations: most steps to try, at least 1
    :param statistics: running statistics to move with the parameters, by the same fraction
    :return: how it ended
    """
    old = [parameter.detach().clone() for parameter in parameters]
    theta = flatten(old)
    accepted = None
    try:
        for backtracks in range(max_iterations):
            fraction = shrinking_factor**backtracks
            candidate = theta + fraction * step
            assign(parameters, candidate)
            if statistics is not None:
                statistics.take(fraction)
            trial = problem.evaluate()
            # A saturated unit hides an infinite weight from surrogate and KL.
            finite = trial.is_finite and all_finite(candidate)
            if finite and trial.constraint <= bound and trial.improvement > 0.0:
                accepted = trial
                break
    finally:
        if accepted is None:
            for parameter, tensor in zip(parameters, old, strict=True):
                parameter.data.copy_(tensor)
            if statistics is not None:
                statistics.undo()
    if accepted is not None and statistics is not None:
        statistics.keep()
    return LineSearch(accepted, fraction, backtracks)
