"""Checks of numbers: which are of an interval, and what is said of the others."""

import math
from typing import Any

import numpy as np
import pytest

from sb3_trpo_fvp.linalg.arguments import require_choice, require_number


@pytest.mark.parametrize(
    ("value", "interval", "whole"),
    [
        (0, "[0, 1)", False),
        (np.float32(0.5), "(0, 1)", False),
        (1.0, "(0, 1]", False),
        (3, "[1, ∞)", True),
        (np.int64(3), "[1, ∞)", True),
        (-2.5, "[-3, 0)", False),
    ],
)
def test_numbers_of_the_interval_pass(value: Any, interval: str, whole: bool) -> None:
    require_number("x", value, interval, whole=whole)


@pytest.mark.parametrize(
    ("value", "interval", "whole", "message"),
    [
        (1.0, "[0, 1)", False, r"`x` must be in \[0, 1\), got 1.0"),
        (0, "(0, ∞)", False, r"`x` must be in \(0, ∞\), got 0"),
        (math.inf, "(0, ∞)", False, "got inf"),
        (math.nan, "(0, ∞)", False, "got nan"),
        ("0.5", "(0, ∞)", False, "got '0.5'"),
        (None, "(0, ∞)", False, "got None"),
        (True, "[0, ∞)", False, "got True"),
        (1j, "[0, ∞)", False, "got 1j"),
        (0, "[1, ∞)", True, r"`x` must be in \[1, ∞\), got 0"),
        (2.0, "[1, ∞)", True, r"`x` must be a whole number in \[1, ∞\), got 2.0"),
        ("2", "[1, ∞)", True, r"`x` must be a whole number in \[1, ∞\), got '2'"),
    ],
)
def test_others_are_named_with_their_interval(value: Any, interval: str, whole: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_number("x", value, interval, whole=whole)


def test_a_word_that_is_no_choice_is_named_with_the_choices() -> None:
    require_choice("x", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r'`x` must be in \{"a", "b"\}, got \'c\''):
        require_choice("x", "c", ("a", "b"))
