"""Fixtures of every test; what tests build and measure with is in :mod:`tests.helpers`."""

from importlib.util import find_spec

import pytest
import torch as th

# In an environment of its own: `make test-imitation`.
collect_ignore = [] if find_spec("imitation") else ["imitation"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Several test workers share the cores."""
    th.set_num_threads(1)
