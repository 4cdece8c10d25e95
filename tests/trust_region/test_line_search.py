"""The line search on a problem whose surrogate and KL are known in closed form."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch as th
from torch import nn

from sb3_trpo_fvp.trust_region import Evaluation
from sb3_trpo_fvp.trust_region.line_search import line_search

ALPHA = 0.5


class Parabola:
    """At θ = x the surrogate is ``gain(x)`` and the KL x²: what :func:`line_search` asks of a problem, and no more."""

    def __init__(self, gain: Callable[[float], float]):
        self.x = nn.Parameter(th.zeros(2, dtype=th.float64))
        self.gain = gain
        self.tried: list[float] = []

    def evaluate(self) -> Evaluation:
        x = float(self.x.detach()[0])
        self.tried.append(x)
        return Evaluation(self.gain(x), x * x, x * x, x * x, 0.0)


def search(problem: Any, bound: float, max_iterations: int = 5, step: Sequence[float] = (1.0, 1.0)) -> Any:
    return line_search(
        problem,
        [problem.x],
        th.tensor(step, dtype=th.float64),
        bound=bound,
        shrinking_factor=ALPHA,
        max_iterations=max_iterations,
    )


@pytest.mark.parametrize(("bound", "backtracks"), [(1.0, 0), (0.99, 1), (0.25, 1), (0.24, 2), (1e-2, 4)])
def test_it_takes_the_longest_fraction_within_the_bound(bound: float, backtracks: int) -> None:
    problem = Parabola(gain=lambda x: x)
    found = search(problem, bound)
    assert (found.backtracks, found.fraction) == (backtracks, ALPHA**backtracks)
    assert found.accepted.constraint <= bound
    assert problem.x.tolist() == [ALPHA**backtracks] * 2
    assert problem.tried == [ALPHA**i for i in range(backtracks + 1)]


def test_a_step_that_does_not_raise_the_surrogate_is_shortened() -> None:
    found = search(Parabola(gain=lambda x: x * (0.4 - x)), bound=10.0)
    assert found.backtracks == 2


@pytest.mark.parametrize("gain", [lambda x: -x, lambda x: 0.0, lambda x: math.nan, lambda x: math.inf])
def test_if_nothing_is_good_everything_is_as_it_was(gain: Callable[[float], float]) -> None:
    problem = Parabola(gain)
    problem.x.data.fill_(0.1)
    before = problem.x.detach().clone()
    found = search(problem, bound=10.0, max_iterations=3)
    assert found.accepted is None
    assert found.backtracks == 2
    assert th.equal(problem.x, before)


def test_a_parameter_that_overflows_is_refused_though_surrogate_and_kl_do_not_see_it() -> None:
    problem = Parabola(gain=lambda x: x)
    assert search(problem, bound=10.0, step=(1.0, math.inf)).accepted is None
    assert th.equal(problem.x, th.zeros(2, dtype=th.float64))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_on_the_way_puts_everything_back(error: type[BaseException]) -> None:
    def gain(x: float) -> float:
        raise error

    problem = Parabola(gain)
    with pytest.raises(error):
        search(problem, bound=1.0)
    assert th.equal(problem.x, th.zeros(2, dtype=th.float64))
