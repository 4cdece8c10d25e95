"""Fixtures of every test; what tests build and measure with is in :mod:`tests.helpers`."""

import pytest
import torch as th


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Several test workers share the cores."""
    th.set_num_threads(1)
