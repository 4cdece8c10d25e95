"""Conjugate gradients on matrices of known spectrum, and every way a solve can end."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch as th

from sb3_trpo_fvp import CGStatus, conjugate_gradient


def matrix_with(spectrum: Sequence[float], *, dtype: th.dtype = th.float64, seed: int = 0) -> th.Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    generator = th.Generator().manual_seed(seed)
    q, _ = th.linalg.qr(th.randn(len(spectrum), len(spectrum), dtype=th.float64, generator=generator))
    return ((q * th.tensor(spectrum, dtype=th.float64)) @ q.T).to(dtype)


def vector(size: int, *, dtype: th.dtype = th.float64, seed: int = 1) -> th.Tensor:
    return th.randn(size, dtype=th.float64, generator=th.Generator().manual_seed(seed)).to(dtype)


class Counted:
    """A product that counts how often it is asked for."""

    def __init__(self, a: th.Tensor):
        self.a, self.count = a, 0

    def __call__(self, v: th.Tensor) -> th.Tensor:
        self.count += 1
        return self.a @ v


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_solution_is_that_of_a_direct_solver(dtype: th.dtype) -> None:
    a, b = matrix_with(np.linspace(1.0, 5.0, 20), dtype=dtype), vector(20, dtype=dtype)
    tolerance = 1e2 * th.finfo(dtype).eps
    solution = conjugate_gradient(lambda v: a @ v, b, max_steps=100, rtol=tolerance)
    assert solution.status is CGStatus.CONVERGED
    assert solution.value.dtype is dtype
    th.testing.assert_close(solution.value, th.linalg.solve(a, b), rtol=5 * tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("distinct", [1, 2, 3, 7])
def test_exact_after_as_many_steps_as_there_are_eigenvalues(distinct: int) -> None:
    a, b = matrix_with([1.0 + i % distinct for i in range(21)]), vector(21)
    solution = conjugate_gradient(lambda v: a @ v, b, max_steps=100, rtol=1e-12)
    assert solution.status is CGStatus.CONVERGED
    assert solution.num_steps == distinct
    th.testing.assert_close(a @ solution.value, b, rtol=1e-10, atol=1e-10)
    if distinct > 1:
        short = conjugate_gradient(lambda v: a @ v, b, max_steps=distinct - 1, rtol=1e-12)
        assert short.status is CGStatus.MAX_STEPS
        assert short.num_steps == distinct - 1
        assert short.residual_norm > 1e-3


def test_singular_but_consistent_system_is_solved_in_rank_steps() -> None:
    a = matrix_with([0.0] * 6 + [2.0, 3.0, 5.0])
    b = a @ vector(9)
    solution = conjugate_gradient(lambda v: a @ v, b, max_steps=50, rtol=1e-12)
    assert (solution.status, solution.num_steps) == (CGStatus.CONVERGED, 3)
    th.testing.assert_close(solution.value, th.linalg.pinv(a, hermitian=True) @ b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("max_steps", [1, 2, 3, 5, 8])
def test_every_iterate_is_the_best_of_its_krylov_space(max_steps: int) -> None:
    a, b = matrix_with(np.geomspace(0.1, 10.0, 12)), vector(12)
    basis = [b]
    for _ in range(max_steps - 1):
        basis.append(a @ basis[-1] / th.linalg.vector_norm(a @ basis[-1]))
    q, _ = th.linalg.qr(th.stack(basis, dim=1))
    best = q @ th.linalg.solve(q.T @ a @ q, q.T @ b)
    solution = conjugate_gradient(lambda v: a @ v, b, max_steps=max_steps, rtol=0.0)
    assert solution.status is CGStatus.MAX_STEPS
    th.testing.assert_close(solution.value, best, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("max_steps", [1, 3, 40])
def test_reported_numbers_are_those_of_the_solution(max_steps: int) -> None:
    a, b = matrix_with(np.geomspace(0.5, 20.0, 15)), vector(15)
    product = Counted(a)
    solution = conjugate_gradient(product, b, max_steps=max_steps, rtol=1e-8)
    x = solution.value
    assert product.count == solution.num_steps
    assert solution.residual_norm == pytest.approx(float(th.linalg.vector_norm(b - a @ x)), rel=1e-5, abs=1e-12)
    assert solution.quadratic_form == pytest.approx(float(x @ a @ x), rel=1e-10)


@pytest.mark.parametrize("rtol", [0.5, 0.05, 1e-3])
def test_tolerance_is_relative(rtol: float) -> None:
    a, b = matrix_with(np.geomspace(0.1, 10.0, 30)), vector(30)
    solution = conjugate_gradient(lambda v: a @ v, b, max_steps=100, rtol=rtol)
    norm = float(th.linalg.vector_norm(b))
    assert solution.status is CGStatus.CONVERGED
    assert solution.residual_norm <= rtol * norm
    one_less = conjugate_gradient(lambda v: a @ v, b, max_steps=solution.num_steps - 1, rtol=0.0)
    assert one_less.residual_norm > rtol * norm


@pytest.mark.parametrize("exponent", [-100, -60, 60, 100])
def test_scale_of_the_right_hand_side_does_not_matter(exponent: int) -> None:
    """Squares of these numbers underflow or overflow in single precision."""
    a, b = matrix_with(np.geomspace(0.1, 10.0, 30), dtype=th.float32), vector(30, dtype=th.float32)
    factor = 2.0**exponent
    plain = conjugate_gradient(lambda v: a @ v, b, max_steps=100, rtol=1e-4)
    scaled = conjugate_gradient(lambda v: a @ v, b * factor, max_steps=100, rtol=1e-4)
    assert (scaled.status, scaled.num_steps) == (plain.status, plain.num_steps)
    assert th.equal(scaled.value, plain.value * factor)


def test_absolute_tolerance_ends_the_solve() -> None:
    a, b = matrix_with(np.geomspace(0.1, 10.0, 30)), vector(30)
    solution = conjugate_gradient(lambda v: a @ v, b, max_steps=100, rtol=0.0, atol=0.3)
    assert solution.status is CGStatus.CONVERGED
    assert solution.residual_norm <= 0.3
    assert conjugate_gradient(lambda v: a @ v, b, max_steps=solution.num_steps - 1, rtol=0.0).residual_norm > 0.3


def test_zero_right_hand_side_is_not_multiplied() -> None:
    product = Counted(matrix_with([1.0, 2.0, 3.0]))
    solution = conjugate_gradient(product, th.zeros(3, dtype=th.float64), max_steps=5)
    assert solution.status is CGStatus.ZERO_RHS
    assert product.count == solution.num_steps == 0
    assert solution.value.tolist() == [0.0, 0.0, 0.0]
    assert solution.residual_norm == solution.quadratic_form == 0.0


def test_empty_system_has_the_empty_solution() -> None:
    solution = conjugate_gradient(lambda v: v, th.zeros(0), max_steps=5)
    assert solution.status is CGStatus.ZERO_RHS
    assert solution.value.shape == (0,)


@pytest.mark.parametrize("spectrum", [[-1.0, -2.0, -3.0], [0.0, 0.0, 0.0]])
def test_no_curvature_at_all_leaves_zero(spectrum: list[float]) -> None:
    a = th.diag(th.tensor(spectrum, dtype=th.float64))
    solution = conjugate_gradient(lambda v: a @ v, vector(3), max_steps=5)
    assert (solution.status, solution.num_steps) == (CGStatus.NONPOSITIVE_CURVATURE, 0)
    assert not solution.value.any()


def test_indefinite_matrix_returns_the_iterate_before() -> None:
    a = th.diag(th.tensor([5.0, 4.0, 3.0, -0.1], dtype=th.float64))
    b = th.ones(4, dtype=th.float64)
    product = Counted(a)
    solution = conjugate_gradient(product, b, max_steps=50, rtol=1e-12)
    assert solution.status is CGStatus.NONPOSITIVE_CURVATURE
    assert solution.num_steps >= 1
    before = conjugate_gradient(lambda v: a @ v, b, max_steps=solution.num_steps, rtol=0.0)
    assert before.status is CGStatus.MAX_STEPS
    assert th.equal(solution.value, before.value)
    assert solution.quadratic_form == pytest.approx(float(solution.value @ a @ solution.value), rel=1e-10)
    assert solution.quadratic_form > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_nonfinite_product_returns_the_last_finite_iterate(bad: float, at: int) -> None:
    a, b = matrix_with(np.geomspace(0.1, 10.0, 12)), vector(12)
    calls = 0

    def product(v: th.Tensor) -> th.Tensor:
        nonlocal calls
        calls += 1
        av = a @ v
        if calls > at:
            av[3] = bad
        return av

    solution = conjugate_gradient(product, b, max_steps=50, rtol=1e-10)
    assert (solution.status, solution.num_steps) == (CGStatus.NONFINITE, at)
    if at:
        assert th.equal(solution.value, conjugate_gradient(lambda v: a @ v, b, max_steps=at, rtol=0.0).value)
    else:
        assert not solution.value.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_right_hand_side_is_named_and_leaves_zero(bad: float) -> None:
    b = vector(5)
    b[2] = bad
    solution = conjugate_gradient(lambda v: v, b, max_steps=5)
    assert (solution.status, solution.num_steps) == (CGStatus.NONFINITE, 0)
    assert solution.value.tolist() == [0.0] * 5


def test_start_elsewhere_reaches_the_same_solution() -> None:
    a, b = matrix_with(np.linspace(1.0, 5.0, 20)), vector(20)
    x0 = vector(20, seed=7)
    kept = x0.clone()
    solution = conjugate_gradient(lambda v: a @ v, b, x0=x0, max_steps=100, rtol=1e-12)
    assert th.equal(x0, kept)
    th.testing.assert_close(solution.value, th.linalg.solve(a, b), rtol=1e-9, atol=1e-9)
    product = Counted(a)
    at_solution = conjugate_gradient(product, b, x0=solution.value, max_steps=100, rtol=1e-8)
    assert (at_solution.status, at_solution.num_steps, product.count) == (CGStatus.CONVERGED, 0, 1)


def test_solver_changes_neither_its_arguments_nor_the_random_state() -> None:
    a, b = matrix_with(np.linspace(1.0, 5.0, 20)), vector(20)
    kept, torch_state, numpy_state = b.clone(), th.get_rng_state(), np.random.get_state()[1].tolist()
    first = conjugate_gradient(lambda v: a @ v, b, max_steps=5)
    assert th.equal(b, kept)
    assert th.equal(th.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state
    assert th.equal(conjugate_gradient(lambda v: a @ v, b, max_steps=5).value, first.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 0}, r"`max_steps` must be in \[1, ∞\), got 0"),
        ({"max_steps": -3}, r"`max_steps` must be in \[1, ∞\), got -3"),
        ({"max_steps": 5, "rtol": -1e-3}, r"`rtol`.*\[0, ∞\).*-0\.001"),
        ({"max_steps": 5, "rtol": math.nan}, r"`rtol`.*\[0, ∞\).*nan"),
        ({"max_steps": 5, "atol": -1.0}, r"`atol`.*\[0, ∞\).*-1\.0"),
    ],
)
def test_arguments_outside_their_intervals_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conjugate_gradient(lambda v: v, th.ones(3), **arguments)  # type: ignore[arg-type]
