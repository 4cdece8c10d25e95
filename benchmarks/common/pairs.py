"""Time alternatives against each other, in turns, so that whatever slows the machine down slows all of them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Side:
    """
    One of the alternatives.

    :param run: what is timed
    :param reset: done before each time it runs, outside of the clock, so that every repetition does the same work
    """

    run: Callable[[], object]
    reset: Callable[[], object] = _nothing


@dataclass(frozen=True)
class Summary:
    """
    The middle half of the ratios of pairs.

    :param median: of the ratios, one for each pair
    :param lower: their first quartile
    :param upper: their third quartile
    :param pairs: how many there are
    """

    median: float
    lower: float
    upper: float
    pairs: int


def measure_in_turns(
    sides: Mapping[str, Side],
    rounds: int,
    *,
    warm_up: int = 2,
    shortest: float = 0.0,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """
    Run every side once a round; every other round goes through them backwards, so that none always follows the same one.

    :param sides: the alternatives by name
    :param rounds: how many times
    :param warm_up: untimed rounds before
    :param shortest: seconds; a side that is done sooner is repeated within a round, and the mean taken (no reset between)
    :param clock: seconds
    :return: seconds of each side in each round
    """
    names = list(sides)
    repeats = dict.fromkeys(names, 1)
    for _ in range(warm_up):
        for name in names:
            seconds = _time(sides[name], 1, clock)
            repeats[name] = max(1, math.ceil(shortest / seconds)) if seconds > 0 else 1
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            times[name].append(_time(sides[name], repeats[name], clock))
    return times


def _time(side: Side, repeats: int, clock: Callable[[], float]) -> float:
    side.reset()
    started = clock()
    for _ in range(repeats):
        side.run()
    return (clock() - started) / repeats


def summarize(numerator: Sequence[float], denominator: Sequence[float]) -> Summary:
    """
    Divide pair by pair.

    :param numerator: one measurement of each pair
    :param denominator: the other
    :return: median and quartiles of the ratios
    """
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    if len(ratios) == 1:
        return Summary(ratios[0], ratios[0], ratios[0], 1)
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return Summary(median, lower, upper, len(ratios))
