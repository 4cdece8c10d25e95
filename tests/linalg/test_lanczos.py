"""Ritz values of matrices with known spectra."""

from itertools import pairwise

import numpy as np
import pytest
import torch as th

from sb3_trpo_fvp.linalg.lanczos import ritz_values


def matrix(eigenvalues: list[float]) -> th.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((len(eigenvalues), len(eigenvalues))))
    return th.as_tensor(q @ np.diag(eigenvalues) @ q.T)


@pytest.mark.parametrize("eigenvalues", [[-1.0, 0.0, 2.0, 5.0], [1e-6, 1e-3, 1.0, 1e3], [3.0, 3.0, 3.0], [0.0, 0.0, 4.0]])
def test_a_whole_krylov_space_has_the_extreme_eigenvalues(eigenvalues: list[float]) -> None:
    a = matrix(eigenvalues)
    start = th.randn(len(a), dtype=th.float64, generator=th.Generator().manual_seed(1))
    smallest, largest = ritz_values(lambda v: a @ v, start, 10)
    assert smallest == pytest.approx(min(eigenvalues), abs=1e-6 * max(eigenvalues))  # where it stops
    assert largest == pytest.approx(max(eigenvalues), rel=1e-8)


def test_fewer_steps_bound_them_from_within() -> None:
    a = matrix(list(np.linspace(-1.0, 1.0, 50)))
    start = th.ones(50, dtype=th.float64)
    bounds = [ritz_values(lambda v: a @ v, start, steps) for steps in (1, 5, 10)]
    assert all(-1.0 <= low <= high <= 1.0 for low, high in bounds)
    assert all(later[1] >= earlier[1] and later[0] <= earlier[0] for earlier, later in pairwise(bounds))


def test_a_product_that_is_not_finite_makes_them_unknown() -> None:
    assert np.isnan(ritz_values(lambda v: v * np.nan, th.ones(3, dtype=th.float64), 3)).all()
