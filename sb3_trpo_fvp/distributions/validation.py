"""Torch's check of what distributions are built from."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th


class _Validation:
    """torch's default, which all threads share: the first that is in need of none switches it off, the last one on again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.default = True


_validation = _Validation()


@contextmanager
def without_validation() -> Iterator[None]:
    """
    Let torch build distributions of NaN and infinity, so that a step that overflows is refused and not raised.

    Distributions made inside stay unvalidated; the default is put back at the end, by the last thread that is inside.
    """
    distribution: Any = th.distributions.Distribution
    with _validation.lock:
        if _validation.users == 0:
            _validation.default = distribution._validate_args
            distribution.set_default_validate_args(False)
        _validation.users += 1
    try:
        yield
    finally:
        with _validation.lock:
            _validation.users -= 1
            if _validation.users == 0:
                distribution.set_default_validate_args(_validation.default)
