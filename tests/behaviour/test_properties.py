"""What holds after any ``train()``, whatever the network, the spaces, the seed and the scale of every number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.policies import split_parameters
from tests.helpers.environments import Memoryless
from tests.helpers.oracles import distributions, joint_kl
from tests.helpers.training import all_finite, rollout, train


# The same examples every time: a suite that fails by chance is not looked at.
def bounded(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


# Numbers may overflow here, which is logged, and which the user is warned of; numpy does so where SB3 measures the critic.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:TRPO update", "ignore:`batch_size`")
ACTION_SPACES = st.one_of(
    st.integers(1, 5).map(lambda n: spaces.Box(-1.0, 1.0, (n,))),
    st.integers(2, 6).map(spaces.Discrete),
    st.lists(st.integers(2, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.integers(1, 5).map(spaces.MultiBinary),
)


def powers(low: int, high: int) -> Any:
    return st.integers(low, high).map(lambda exponent: 10.0**exponent)


@dataclass(frozen=True)
class Case:
    """A model and what is in its rollout buffer."""

    action_space: spaces.Space
    observation_dim: int
    n_steps: int
    n_envs: int
    kwargs: dict[str, Any]
    policy_kwargs: dict[str, Any]
    seed: int
    weight_scale: float
    observation_scale: float
    advantage_scale: float
    return_scale: float


CASES = st.builds(
    Case,
    action_space=ACTION_SPACES,
    observation_dim=st.integers(1, 5),
    n_steps=st.integers(8, 40),
    n_envs=st.integers(1, 3),
    kwargs=st.fixed_dictionaries(
        {
            "fisher": st.sampled_from(["gauss_newton", "kl_hessian", "empirical"]),
            "kl_reduction": st.sampled_from(["sum", "mean"]),
            "use_sde": st.booleans(),
            "target_kl": powers(-8, 1),
            "cg_damping": st.one_of(st.just(0.0), powers(-8, 2)),
            "cg_max_steps": st.integers(1, 30),
            "cg_residual_tol": st.sampled_from([0.0, 0.05, 0.5]),
            "normalize_advantage": st.booleans(),
            "sub_sampling_factor": st.integers(1, 2),
            "fisher_sub_sampling_factor": st.integers(1, 2),
            "line_search_max_iter": st.integers(1, 12),
            "learning_rate": powers(-5, 2),
        }
    ),
    policy_kwargs=st.fixed_dictionaries(
        {
            "net_arch": st.lists(st.integers(1, 9), max_size=2),
            "activation_fn": st.sampled_from([nn.Tanh, nn.ReLU, nn.SiLU]),
            "log_std_init": st.sampled_from([-12.0, -3.0, 0.0, 3.0, 12.0]),
            "share_features_extractor": st.booleans(),
        }
    ),
    seed=st.integers(0, 2**16),
    weight_scale=powers(-3, 3),
    observation_scale=powers(-6, 6),
    advantage_scale=powers(-36, 36),
    return_scale=powers(-10, 36),
)


def build(case: Case, **kwargs: Any) -> Any:
    """The model of a case, with random weights and a buffer full of what its policy does in random states."""
    observation_space = spaces.Box(-np.inf, np.inf, (case.observation_dim,))
    env = DummyVecEnv([lambda: Memoryless(observation_space, case.action_space) for _ in range(case.n_envs)])
    options = {**case.kwargs, **kwargs}
    options["use_sde"] &= isinstance(case.action_space, spaces.Box)
    model: Any = TRPO(
        "MlpPolicy",
        env,
        n_steps=case.n_steps,
        batch_size=16,
        n_critic_updates=1,
        seed=case.seed,
        policy_kwargs=case.policy_kwargs,
        device="cpu",
        **options,
    )
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(case.seed)
    buffer = model.rollout_buffer
    with th.no_grad():
        for name, parameter in model.policy.named_parameters():
            if name != "log_std":
                parameter.mul_(case.weight_scale)
        observations = case.observation_scale * rng.standard_normal((case.n_steps * case.n_envs, case.observation_dim))
        buffer.observations[:] = observations.reshape(buffer.observations.shape)
        tensor = th.as_tensor(buffer.observations.reshape(-1, case.observation_dim))
        if options["use_sde"]:
            model.policy.reset_noise(len(tensor))
        actions = model.policy.get_distribution(tensor).get_actions()
    buffer.actions[:] = actions.numpy().reshape(buffer.actions.shape)
    buffer.advantages[:] = case.advantage_scale * rng.standard_normal(buffer.advantages.shape)
    buffer.returns[:] = case.return_scale * rng.standard_normal(buffer.returns.shape)
    buffer.pos, buffer.full = case.n_steps, True
    return model


def constrained_states(model: Any) -> th.Tensor:
    observations: th.Tensor = rollout(model).observations
    return observations[:: model.sub_sampling_factor]


@bounded(150)
@given(CASES)
def test_after_any_update_the_policy_is_finite_and_within_its_bound(case: Case) -> None:
    model = build(case)
    observations = constrained_states(model)
    actor = split_parameters(model.policy, observations).actor
    weights = [parameter.detach().clone() for parameter in actor]
    old = distributions(model.policy, observations)

    log = train(model)

    assert all_finite(model.policy)
    accepted = log["trust_region/status"] == "accepted"
    moved = not all(map(th.equal, weights, actor))
    assert accepted or not moved
    bound = case.kwargs["target_kl"]
    if case.kwargs["kl_reduction"] == "mean" and not isinstance(case.action_space, (spaces.Discrete, spaces.MultiDiscrete)):
        bound *= int(np.prod(case.action_space.shape))
    measured = joint_kl(old, distributions(model.policy, observations))
    assert -1e-12 <= measured <= bound * (1 + 1e-6)
    assert log["trust_region/kl"] == pytest.approx(measured if accepted else 0.0, rel=1e-6, abs=1e-12)
    if accepted:
        assert log["trust_region/actual_improvement"] > 0.0


@bounded(50)
@given(CASES)
def test_the_sampled_kl_bounds_what_it_says_it_bounds(case: Case) -> None:
    model = build(case, kl_estimator="monte_carlo", kl_reduction="sum")
    data = rollout(model)
    states = slice(None, None, model.sub_sampling_factor)
    actions = data.actions[states]
    if isinstance(case.action_space, spaces.Discrete):
        actions = actions.long().flatten()

    def log_prob() -> th.Tensor:
        with th.no_grad():
            model.policy.set_training_mode(False)
            return model.policy.get_distribution(data.observations[states]).log_prob(actions).double()

    old = log_prob()
    assume(bool(th.isfinite(old).all()))
    log = train(model)
    assert all_finite(model.policy)
    rounding = 1e-6 * float(old.abs().max() + 1.0)
    assert float((old - log_prob()).mean()) <= case.kwargs["target_kl"] + rounding
    assert log["train/kl_divergence_loss"] <= case.kwargs["target_kl"]


@bounded(50)
@given(
    CASES, st.sampled_from(["observations", "advantages", "returns"]), st.sampled_from([np.nan, np.inf, -np.inf]), st.data()
)
def test_one_bad_number_anywhere_is_named(case: Case, array: str, bad: float, data: Any) -> None:
    model = build(case)
    target = getattr(model.rollout_buffer, array)
    index = tuple(data.draw(st.integers(0, size - 1)) for size in target.shape)
    # Rows between those that sub-sampling keeps are not looked at by the actor.
    row = index[1] * case.n_steps + index[0]
    assume(row % model.sub_sampling_factor == 0)
    states = th.zeros(1, case.observation_dim)
    split = split_parameters(model.policy, states)
    watched = {"observations": split.actor + split.critic, "advantages": split.actor, "returns": split.critic}[array]
    weights = [parameter.detach().clone() for parameter in watched]
    target[index] = bad
    log = train(model)
    assert all(map(th.equal, weights, watched))
    assert all_finite(model.policy)
    if array != "returns":
        assert log["trust_region/status"] == f"nonfinite_{array}"
    if array != "advantages":
        assert log["trust_region/critic_status"] == f"nonfinite_{array}"
