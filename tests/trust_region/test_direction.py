"""The direction of a step, against dense linear algebra in double precision."""

import math

import numpy as np
import pytest
import torch as th

from sb3_trpo_fvp import FisherOperator, fisher_operator
from sb3_trpo_fvp.linalg.conjugate_gradient import CGStatus
from sb3_trpo_fvp.trust_region.direction import DampedCurvature, natural_gradient
from tests.helpers.models import make_batch, make_policy

LAMBDA = 0.3


@pytest.fixture
def problem() -> tuple[FisherOperator, th.Tensor, np.ndarray]:
    """An operator, a right-hand side, and the matrix."""
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, 30)
    operator = fisher_operator(policy, observations, actions)
    g = th.randn(operator.shape[0], dtype=th.float64, generator=th.Generator().manual_seed(0))
    return operator, g, operator.to_dense().numpy()


@pytest.mark.parametrize("precondition", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_it_solves_the_damped_system_and_knows_its_undamped_curvature(
    problem: tuple[FisherOperator, th.Tensor, np.ndarray], precondition: bool, scale: float
) -> None:
    operator, g, dense = problem
    curvature = DampedCurvature(operator, scale=scale, damping=LAMBDA)
    direction = natural_gradient(g, curvature, max_steps=200, rtol=1e-12, precondition=precondition)
    s = np.linalg.solve(scale * dense + LAMBDA * np.eye(len(dense)), g.numpy())
    np.testing.assert_allclose(direction.value.numpy(), s, rtol=1e-8, atol=1e-10)
    assert direction.curvature == pytest.approx(scale * s @ dense @ s, rel=1e-8)
    assert direction.slope == pytest.approx(g.numpy() @ s, rel=1e-10)
    cosine = g.numpy() @ s / np.linalg.norm(g.numpy()) / np.linalg.norm(s)
    assert direction.gradient_cosine == pytest.approx(cosine, rel=1e-10)
    # The curvature along s is the solver's own: no product is spent on it.
    assert curvature.num_products == direction.solution.num_steps


def test_the_damped_curvature_is_given_where_it_is_asked_for(
    problem: tuple[FisherOperator, th.Tensor, np.ndarray],
) -> None:
    operator, g, dense = problem
    curvature = DampedCurvature(operator, damping=LAMBDA)
    s = natural_gradient(g, curvature, max_steps=200, rtol=1e-12, damped_curvature=True)
    expected = s.value.numpy() @ (dense + LAMBDA * np.eye(len(dense))) @ s.value.numpy()
    assert s.curvature == pytest.approx(expected, rel=1e-10)


def test_of_a_huge_damping_the_direction_is_the_gradients_and_its_curvature_is_computed_directly(
    problem: tuple[FisherOperator, th.Tensor, np.ndarray],
) -> None:
    operator, g, dense = problem
    curvature = DampedCurvature(operator, damping=1e9)
    direction = natural_gradient(g, curvature, max_steps=10, rtol=1e-3)
    assert direction.gradient_cosine == pytest.approx(1.0, abs=1e-12)
    s = direction.value.numpy()
    assert direction.curvature == pytest.approx(s @ dense @ s, rel=1e-10)
    assert curvature.num_products == direction.solution.num_steps + 1


def test_without_a_gradient_there_is_no_direction_and_nothing_is_multiplied(
    problem: tuple[FisherOperator, th.Tensor, np.ndarray],
) -> None:
    operator, g, _ = problem
    curvature = DampedCurvature(operator, damping=LAMBDA)
    direction = natural_gradient(th.zeros_like(g), curvature, max_steps=10, rtol=0.1, precondition=False)
    assert direction.solution.status is CGStatus.ZERO_RHS
    assert not direction.value.any()
    assert (direction.relative_residual, direction.curvature, curvature.num_products) == (0.0, 0.0, 0)
    assert math.isnan(direction.gradient_cosine)
