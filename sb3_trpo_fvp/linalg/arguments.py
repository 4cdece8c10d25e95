"""Checks of numbers that users give."""

import math
from numbers import Integral, Real
from typing import Any


def require_number(name: str, value: Any, interval: str, *, whole: bool = False) -> None:
    """
    Raise unless an argument is a number of an interval.

    :param name: of the argument, for the message
    :param value: what was given
    :param interval: such as ``"[1, ∞)"`` or ``"(0, 1]"``; an end with a round bracket does not belong to it
    :param whole: whether it must be an integer
    :raises ValueError: naming the argument, its interval and the value
    """
    low, high = (math.inf if end == "∞" else float(end) for end in interval[1:-1].split(", "))
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    is_whole = isinstance(value, Integral)
    if not (above and below) or (whole and not is_whole):
        msg = f"`{name}` must be {'' if is_whole or not whole else 'a whole number '}in {interval}, got {value!r}"
        raise ValueError(msg)


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """
    Raise unless an argument is one of a few words.

    :param name: of the argument, for the message
    :param value: what was given
    :param choices: the words
    :raises ValueError: naming the argument, its choices and the value
    """
    if value not in choices:
        quoted = ", ".join(f'"{choice}"' for choice in choices)
        msg = f"`{name}` must be in {{{quoted}}}, got {value!r}"
        raise ValueError(msg)
