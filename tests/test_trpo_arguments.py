"""Arguments outside their intervals are named, with the interval and the value, before anything is run."""

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_trpo_fvp import TRPO
from tests.helpers.environments import Memoryless, unbounded
from tests.helpers.models import model_of

FACTOR = "`line_search_shrinking_factor` must be in (0, 1), got "
NAMES = '`fisher` must be one of "kl_hessian", "gauss_newton", "empirical" or a subclass of FisherOperator, got '
CASES: list[tuple[dict[str, Any], str]] = [
    ({"target_kl": 0.0}, "`target_kl` must be in (0, ∞), got 0.0"),
    ({"target_kl": -0.01}, "`target_kl` must be in (0, ∞), got -0.01"),
    ({"target_kl": math.nan}, "`target_kl` must be in (0, ∞), got nan"),
    ({"target_kl": math.inf}, "`target_kl` must be in (0, ∞), got inf"),
    ({"cg_max_steps": 0}, "`cg_max_steps` must be in [1, ∞), got 0"),
    ({"cg_max_steps": -5}, "`cg_max_steps` must be in [1, ∞), got -5"),
    ({"cg_damping": -1e-3}, "`cg_damping` must be in [0, ∞), got -0.001"),
    ({"cg_damping": math.nan}, "`cg_damping` must be in [0, ∞), got nan"),
    ({"cg_damping": math.inf}, "`cg_damping` must be in [0, ∞), got inf"),
    ({"cg_residual_tol": -0.1}, "`cg_residual_tol` must be in [0, 1), got -0.1"),
    ({"cg_residual_tol": 1.0}, "`cg_residual_tol` must be in [0, 1), got 1.0"),
    ({"line_search_shrinking_factor": 0.0}, FACTOR + "0.0"),
    ({"line_search_shrinking_factor": 1.0}, FACTOR + "1.0"),
    ({"line_search_shrinking_factor": -0.5}, FACTOR + "-0.5"),
    ({"line_search_shrinking_factor": 1.5}, FACTOR + "1.5"),
    ({"line_search_shrinking_factor": math.nan}, FACTOR + "nan"),
    ({"line_search_max_iter": 0}, "`line_search_max_iter` must be in [1, ∞), got 0"),
    ({"n_critic_updates": -1}, "`n_critic_updates` must be in [0, ∞), got -1"),
    ({"batch_size": 0}, "`batch_size` must be in [1, ∞), got 0"),
    ({"sub_sampling_factor": 0}, "`sub_sampling_factor` must be in [1, ∞), got 0"),
    ({"fisher_sub_sampling_factor": 0}, "`fisher_sub_sampling_factor` must be in [1, ∞), got 0"),
    ({"fisher_sub_sampling_factor": -2}, "`fisher_sub_sampling_factor` must be in [1, ∞), got -2"),
    ({"kl_reduction": "max"}, '`kl_reduction` must be in {"sum", "mean"}, got \'max\''),
    ({"kl_estimator": "exact"}, '`kl_estimator` must be in {"analytic", "monte_carlo"}, got \'exact\''),
    ({"fisher": "fisher"}, NAMES + "'fisher'"),
    ({"fisher": ""}, NAMES + "''"),
    ({"fisher": None}, NAMES + "None"),
    ({"fisher": dict}, NAMES + "<class 'dict'>"),
    ({"fisher": len}, NAMES + "<built-in function len>"),
    # 2 environments of 64 steps:
    (
        {"fisher_sub_sampling_factor": 128},
        "`fisher_sub_sampling_factor` must be in [1, 127], to leave at least 2 of 128 states, got 128",
    ),
    (
        {"sub_sampling_factor": 16, "fisher_sub_sampling_factor": 8},
        "`fisher_sub_sampling_factor` must be in [1, 7], to leave at least 2 of 8 states, got 8",
    ),
    ({"sub_sampling_factor": 128}, "with normalize_advantage` must be in [2, ∞), got 1"),
    ({"n_steps": 1, "n_envs": 1, "batch_size": 1}, "with normalize_advantage` must be in [2, ∞), got 1"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=lambda value: str(value)[:60])
def test_argument_is_named_with_its_interval_and_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        model_of(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"target_kl": 1e-8},
        {"cg_max_steps": 1},
        {"cg_damping": 0.0},
        {"cg_residual_tol": 0.0},
        {"line_search_max_iter": 1},
        {"line_search_shrinking_factor": 0.999},
        {"n_critic_updates": 0},
        {"fisher_sub_sampling_factor": 127},
        {"sub_sampling_factor": 64},
        {"n_steps": 1, "n_envs": 1, "batch_size": 1, "normalize_advantage": False},
    ],
    ids=str,
)
def test_the_ends_of_the_intervals_train(arguments: dict[str, Any]) -> None:
    model = model_of(**arguments)
    model.learn(model.n_steps * model.n_envs)
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


def test_minibatches_that_do_not_divide_the_rollout_are_pointed_out() -> None:
    with pytest.warns(UserWarning, match=r"`batch_size`=48 does not divide .* 128 states.* has 32"):
        model_of(batch_size=48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model_of(batch_size=64)


def test_an_unsupported_action_space_is_refused() -> None:
    space = spaces.Dict({"a": spaces.Discrete(2)})
    with pytest.raises(AssertionError, match="only supports"):
        TRPO("MlpPolicy", Memoryless(unbounded(), space), device="cpu")


def test_an_unknown_policy_name_is_refused() -> None:
    with pytest.raises(ValueError, match="NoPolicy"):
        TRPO("NoPolicy", Memoryless(unbounded(), spaces.Discrete(2)), device="cpu")


def test_nothing_is_trained_by_a_refused_constructor() -> None:
    state = np.random.get_state()[1].tolist()
    with pytest.raises(ValueError, match="target_kl"):
        TRPO("MlpPolicy", Memoryless(unbounded(), spaces.Discrete(2)), target_kl=-1.0, device="cpu")
    assert np.random.get_state()[1].tolist() == state
