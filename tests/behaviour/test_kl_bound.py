"""The constraint means what it says: the joint KL of an update is within its bound, whichever way it is asked for."""

import math

import numpy as np
import pytest
from gymnasium import spaces

from tests.helpers.models import make_model
from tests.helpers.training import all_finite, collect, collected, train_measuring_kl

BOX = spaces.Box(-1.0, 1.0, (3,))


@pytest.mark.parametrize("estimator", ["analytic", "monte_carlo"])
def test_both_estimates_are_logged_and_one_decides(estimator: str) -> None:
    log, measured = train_measuring_kl(collected(BOX, kl_estimator=estimator, n_steps=512, target_kl=0.02))
    decides = "kl" if estimator == "analytic" else "kl_monte_carlo"
    assert log["train/kl_divergence_loss"] == log[f"trust_region/{decides}"] <= 0.02
    assert log["trust_region/kl"] == pytest.approx(measured, rel=1e-3)
    # √(2 KL / M) is the standard error of the estimate.
    assert abs(log["trust_region/kl_monte_carlo"] - measured) < 4 * math.sqrt(2 * measured / 1024)


@pytest.mark.parametrize("squash", [False, True])
def test_gsde_is_bounded_whether_squashed_or_not(squash: bool) -> None:
    kwargs = {"net_arch": {"pi": [8], "vf": [8]}, "squash_output": squash}
    log, measured = train_measuring_kl(collected(BOX, use_sde=True, policy_kwargs=kwargs))
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(4), spaces.MultiDiscrete([3, 2, 4]), spaces.MultiBinary(5)], ids=str)
@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
def test_joint_kl_is_within_its_bound_in_every_space(space: spaces.Space, fisher: str) -> None:
    log, measured = train_measuring_kl(collected(space, fisher=fisher, cg_damping=0.01))
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)
    assert log["trust_region/kl"] == pytest.approx(measured, rel=1e-3, abs=1e-7)


def test_mean_reduction_bounds_the_average_over_dimensions() -> None:
    log, measured = train_measuring_kl(collected(BOX, kl_reduction="mean", cg_damping=1e-3))
    assert 0.01 < measured <= 3 * 0.01 * (1 + 1e-3)
    assert log["train/kl_divergence_loss"] == pytest.approx(measured / 3, rel=1e-3)
    assert log["trust_region/kl"] == pytest.approx(measured, rel=1e-3)


def test_several_updates_stay_within_the_bound() -> None:
    model = make_model(BOX)
    for _ in range(3):
        _, measured = train_measuring_kl(collect(model))
        assert measured <= 0.01 * (1 + 1e-3)
        assert all_finite(model.policy)
    assert np.isfinite(model.rollout_buffer.values).all()
