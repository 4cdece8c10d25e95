"""Several rollouts in one update: what they weigh, what bounds the step, and what is left out."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.distributed import ALONE
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.policies import split_parameters
from sb3_trpo_fvp.rollouts.advantages import normalize
from sb3_trpo_fvp.rollouts.buffer import whole_rollout
from sb3_trpo_fvp.rollouts.history import Rollout
from sb3_trpo_fvp.trust_region import SurrogateProblem
from tests.helpers.environments import ACTION_SPACES, DICT, IMAGE
from tests.helpers.models import DISTRIBUTIONS, make_model, make_policy, model_of, with_extractor
from tests.helpers.oracles import distributions, joint_kl
from tests.helpers.ranks import PER_RANK, run_ranks, small_model, unharmed
from tests.helpers.training import all_finite, collect, logged, snapshot, train

BOX = spaces.Box(-1.0, 1.0, (3,))
DELTA = 0.02


def after_updates(model: Any, updates: int) -> Any:
    """The model with so many rollouts behind it, and a new one in its buffer."""
    for _ in range(updates):
        collect(model).train()
    return collect(model)


def pooled(model: Any) -> tuple[Any, Any]:
    return model._pool(whole_rollout(model.rollout_buffer), ALONE)


def train_measuring_pooled_kl(model: Any) -> tuple[dict[str, Any], float]:
    """Train, and measure the joint KL over the states of all rollouts that the update was made from."""
    observations = pooled(model)[0].observations
    old = distributions(model.policy, observations)
    log = train(model)
    return log, joint_kl(old, distributions(model.policy, observations))


KINDS: dict[str, dict[str, Any]] = {
    **{name: {"distribution": name} for name in DISTRIBUTIONS},
    "kl_hessian": {"fisher": "kl_hessian"},
    "empirical": {"fisher": "empirical"},
    "thinned": {"sub_sampling_factor": 3, "fisher_sub_sampling_factor": 2},
    "gauss_newton_critic": {"critic": "gauss_newton"},
    "own_extractor": {"architecture": "learned_extractor"},
    "monte_carlo": {"kl_estimator": "monte_carlo"},
    "not_normalized": {"normalize_advantage": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_joint_kl_to_the_present_policy_over_all_states_keeps_the_bound(kind: str) -> None:
    model = after_updates(model_of(**{"target_kl": DELTA, "sample_reuse": 3} | KINDS[kind]), 3)
    log, kl = train_measuring_pooled_kl(model)
    assert log["trust_region/status"] == "accepted"
    assert log["sample_reuse/rollouts"] == 3
    if kind != "thinned":  # every third state is looked at
        assert log["trust_region/kl"] == pytest.approx(kl, rel=1e-3)
    if kind not in ("thinned", "monte_carlo"):
        assert 0.0 < kl <= DELTA * (1 + 1e-3)
    assert log["trust_region/actual_improvement"] > 0.0
    assert all_finite(model.policy)


@pytest.mark.parametrize(
    ("observation_space", "kwargs"),
    [(DICT, {}), (IMAGE, {"policy": "CnnPolicy", "policy_kwargs": {}, "n_steps": 16}), (DICT, {"critic": "gauss_newton"})],
)
def test_dict_and_image_observations(observation_space: spaces.Space, kwargs: dict[str, Any]) -> None:
    model = after_updates(make_model(ACTION_SPACES["discrete"], observation_space, sample_reuse=2, **kwargs), 2)
    kept = model.rollout_history.rollouts[0].observations
    image = kept["image"] if isinstance(kept, dict) else kept
    assert image.dtype == np.uint8
    log, kl = train_measuring_pooled_kl(model)
    assert log["sample_reuse/rollouts"] == 2
    assert 0.0 < kl <= 0.01 * (1 + 1e-3)


def test_an_extractor_of_ones_own_and_normalised_observations() -> None:
    model = make_model(BOX, sample_reuse=3, policy_kwargs=with_extractor())
    model.set_env(VecNormalize(model.get_env()))
    log, kl = train_measuring_pooled_kl(after_updates(model, 3))
    assert 0.0 < kl <= 0.01 * (1 + 1e-3)
    assert log["sample_reuse/ratio_mean"] == pytest.approx(1.0, abs=0.1)


# --- what an update is made from ---


def test_alone_the_newest_rollout_is_the_buffer_itself() -> None:
    model = after_updates(model_of(), 2)
    newest = whole_rollout(model.rollout_buffer)
    batch, stats = model._pool(newest, ALONE)
    assert batch.weights is None
    for name in ("observations", "actions", "advantages", "returns"):
        assert getattr(batch, name) is getattr(newest, name)
    assert (stats.rollouts, stats.effective_sample_size) == (1, 1.0)
    assert len(model.rollout_history) == 0
    assert not any(key.startswith("sample_reuse/") for key in logged(model))


@pytest.mark.parametrize("distribution", ["gaussian", "categorical", "multi_categorical", "bernoulli", "gsde"])
def test_the_gradient_is_that_of_the_weighted_surrogate(distribution: str) -> None:
    """L(θ) = mean(min(ρ, c) Â π_θ/π_k), differentiated by autograd from probabilities that the policy itself computes."""
    model = after_updates(model_of(distribution, dtype=th.float64, sample_reuse=3, target_kl=0.1), 2)
    policy, clip = model.policy, 1.05
    older = model.rollout_history.rollouts
    model.sample_reuse_kwargs = {"max_ratio": clip}
    batch, stats = pooled(model)
    assert stats.clipped_fraction > 0.0

    actions = batch.actions
    if distribution == "categorical":
        actions = actions.long().flatten()
    log_prob = policy.evaluate_actions(batch.observations, actions.double() if distribution == "bernoulli" else actions)[1]
    n = len(model.rollout_buffer.rewards.flatten())
    behaviour = th.as_tensor(np.concatenate([np.zeros(n), *(rollout.log_probs for rollout in reversed(older))]))
    ratio = th.exp(log_prob.detach() - behaviour).clamp(max=clip)
    ratio[:n] = 1.0
    assert th.allclose(batch.weights.double(), ratio, rtol=1e-5)
    advantages = normalize(batch.advantages, ALONE, batch.weights)
    weighted_mean = (batch.weights * advantages).sum() / batch.weights.sum()
    assert float(weighted_mean) == pytest.approx(0.0, abs=1e-5)
    assert float((batch.weights * advantages.square()).sum() / batch.weights.sum()) == pytest.approx(1.0, abs=1e-2)

    parameters = split_parameters(policy, batch.observations).actor
    surrogate = (ratio * advantages * th.exp(log_prob - log_prob.detach())).mean()
    expected = th.cat([g.flatten() for g in th.autograd.grad(surrogate, parameters)])
    actor = LinearizedActor(policy, batch.observations, parameters)
    problem = SurrogateProblem(actor, batch.actions, batch.weights * advantages)
    assert th.allclose(problem.gradient(), expected, rtol=1e-5, atol=1e-8)


def test_the_newest_comes_first_and_older_ones_as_they_were() -> None:
    model = after_updates(model_of(n_steps=8, batch_size=16, sample_reuse=3), 4)
    batch, _ = pooled(model)
    newest = whole_rollout(model.rollout_buffer)
    assert len(model.rollout_history) == 2
    parts = batch.observations.split(16)
    assert th.equal(parts[0], newest.observations)
    for part, rollout in zip(parts[1:], reversed(model.rollout_history.rollouts), strict=True):
        np.testing.assert_array_equal(part.numpy(), rollout.observations)
    # Of the newest, advantages and returns are the buffer's own.
    assert th.equal(batch.advantages[:16], newest.advantages)
    assert th.equal(batch.returns[:16], newest.returns)
    assert th.equal(batch.weights[:16], th.ones(16))


def test_effective_sample_size_and_clipping_are_what_they_say() -> None:
    model = after_updates(model_of(sample_reuse=2), 1)
    (rollout,) = model.rollout_history.rollouts
    ratios = np.exp(np.random.default_rng(0).normal(scale=0.5, size=len(rollout)))
    present = model.policy.get_distribution(th.as_tensor(rollout.observations)).log_prob(th.as_tensor(rollout.actions))
    moved = replace(rollout, log_probs=present.detach().numpy() - np.log(ratios))
    model.rollout_history.clear()
    model.rollout_history.add(moved)
    batch, stats = pooled(model)
    everything = np.concatenate([np.ones(len(ratios)), ratios])
    assert stats.effective_sample_size == pytest.approx(
        everything.sum() ** 2 / len(everything) / np.square(everything).sum(), rel=1e-5
    )
    assert stats.ratio_mean == pytest.approx(ratios.mean(), rel=1e-5)
    assert stats.ratio_max == pytest.approx(ratios.max(), rel=1e-5)
    assert stats.clipped_fraction == pytest.approx((ratios > 2.0).mean())
    np.testing.assert_allclose(batch.weights[len(ratios) :], np.minimum(ratios, 2.0), rtol=1e-5)


# --- what is left out ---


def spoiled(rollout: Rollout, how: str) -> Rollout:
    rollout = copy.deepcopy(rollout)
    if how == "stale":
        return replace(rollout, log_probs=rollout.log_probs - np.linspace(0, 40, len(rollout), dtype=np.float32))
    if how == "overflow":
        return replace(rollout, log_probs=rollout.log_probs - 1e4)
    if how == "nan_log_prob":
        return replace(rollout, log_probs=np.full_like(rollout.log_probs, np.nan))
    if how == "nan_reward":
        rollout.rewards[3] = np.nan
    if how == "infinite_reward":
        rollout.rewards[3] = np.inf
    if how == "nan_observation":
        rollout.observations[5] = np.nan
    if how == "infinite_last_observation":
        rollout.last_observations[:] = np.inf
    return rollout


SPOILS = ("stale", "overflow", "nan_log_prob", "nan_reward", "infinite_reward", "nan_observation", "infinite_last_observation")


@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("critic", ["adam", "gauss_newton"])
def test_a_spoiled_rollout_is_left_out_as_if_it_had_never_been(how: str, critic: str) -> None:
    models = [after_updates(model_of(sample_reuse=2, critic=critic), 1) for _ in range(2)]
    with_spoiled, without = models
    without.rollout_history.clear()
    (rollout,) = with_spoiled.rollout_history.rollouts
    with_spoiled.rollout_history.clear()
    with_spoiled.rollout_history.add(spoiled(rollout, how))
    for model in models:
        np.random.seed(0)
        log = train(model)
        assert log["trust_region/status"] == "accepted"
        assert log["sample_reuse/rollouts"] == 1
    assert logged(with_spoiled)["sample_reuse/left_out"] == 1
    for name, tensor in snapshot(without.policy).items():
        assert th.equal(with_spoiled.policy.state_dict()[name], tensor), name


@pytest.mark.filterwarnings("ignore:TRPO update")
def test_a_rollout_with_a_reward_that_is_not_finite_is_not_kept() -> None:
    model = collect(model_of(sample_reuse=3))
    model.rollout_buffer.rewards[2] = math.nan
    model.rollout_buffer.advantages[2] = math.nan
    model.train()
    assert len(model.rollout_history) == 0
    collect(model).train()
    assert len(model.rollout_history) == 1


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_smallest_effective_sample_size_is_the_users(threshold: float) -> None:
    model = after_updates(model_of(sample_reuse=2, sample_reuse_kwargs={"min_effective_sample_size": threshold}), 2)
    log = train(model)
    assert log["sample_reuse/left_out"] == threshold


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sample_reuse": 0}, r"`sample_reuse` must be in \[1, ∞\), got 0"),
        ({"sample_reuse": 1.5}, r"`sample_reuse` must be a whole number in \[1, ∞\), got 1.5"),
        ({"sample_reuse_kwargs": {"max_ratio": 0.5}}, r"`max_ratio` must be in \[1, ∞\), got 0.5"),
        (
            {"sample_reuse_kwargs": {"min_effective_sample_size": 2}},
            r"`min_effective_sample_size` must be in \[0, 1\], got 2",
        ),
    ],
)
def test_arguments_outside_their_intervals(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(**kwargs)


def test_what_is_estimated_from_actions_weighs_those_of_older_policies() -> None:
    """Actions that another policy took count by ρ: then, and only then, they estimate the KL of the present one."""
    policy, other = make_policy("gaussian"), make_policy("gaussian")
    with th.no_grad():
        other.log_std += 0.3
    th.manual_seed(0)
    observations = th.randn(1, 4).repeat(200_000, 1)
    with th.no_grad():
        actions = other.get_distribution(observations).get_actions()
        old = policy.get_distribution(observations).log_prob(actions)
        rho = th.exp(old - other.get_distribution(observations).log_prob(actions))
    problems = [
        SurrogateProblem(
            LinearizedActor(policy, observations, list(policy.parameters())), actions, th.ones(200_000), weights=weights
        )
        for weights in (rho, None)
    ]
    with th.no_grad():
        policy.action_net.bias += 0.1
        policy.log_std += 0.1
    weighted, plain = (problem.evaluate() for problem in problems)
    assert weighted.kl == plain.kl > 0.01
    assert weighted.kl_monte_carlo == pytest.approx(weighted.kl, rel=0.1)
    assert abs(plain.kl_monte_carlo - plain.kl) > 0.5 * plain.kl


# --- memory, saving, environments, ranks ---


def test_the_number_of_rollouts_may_be_set_while_training() -> None:
    model = after_updates(model_of(sample_reuse=4), 4)
    model.sample_reuse = 2
    assert train(model)["sample_reuse/rollouts"] == 2
    model.sample_reuse = 1
    collect(model).train()
    assert len(model.rollout_history) == 0
    model.sample_reuse = 3
    after_updates(model, 2)
    assert train(model)["sample_reuse/rollouts"] == 3


@pytest.mark.parametrize("name", ["rollouts", "rollouts.pkl", "run_0.5"])
def test_rollouts_are_saved_under_any_name(name: str, tmp_path: Path) -> None:
    model = after_updates(model_of(sample_reuse=2), 1)
    model.save_rollouts(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 1
    model.rollout_history.clear()
    model.load_rollouts(tmp_path / name)
    assert len(model.rollout_history) == 1


def test_rollouts_of_other_spaces_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    after_updates(make_model(BOX, sample_reuse=2), 1).save_rollouts(tmp_path / "rollouts")
    other = make_model(ACTION_SPACES["discrete"], sample_reuse=2)
    with pytest.raises(ValueError, match=r"`path` must hold rollouts of observations and actions of shapes .*, 1\), got"):
        other.load_rollouts(tmp_path / "rollouts")


def test_no_more_rollouts_are_kept_than_an_update_can_use() -> None:
    model = after_updates(model_of(sample_reuse=3), 6)
    assert len(model.rollout_history) == 2
    # Copies: the buffer may be written over.
    buffer = model.rollout_buffer
    assert not any(np.shares_memory(rollout.observations, buffer.observations) for rollout in model.rollout_history.rollouts)


@pytest.mark.parametrize("observation_space", [None, DICT])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(observation_space: Any, tmp_path: Path) -> None:
    def make() -> Any:
        return make_model(BOX, sample_reuse=3, **({} if observation_space is None else {"observation_space": DICT}))

    model = make()
    model.learn(2 * 128)
    model.save(tmp_path / "model")
    model.save_rollouts(tmp_path / "rollouts")
    state = th.get_rng_state(), np.random.get_state(), copy.deepcopy(model.env)
    model.learn(2 * 128, reset_num_timesteps=False)

    resumed = TRPO.load(tmp_path / "model", env=state[2], device="cpu", force_reset=False)
    resumed.load_rollouts(tmp_path / "rollouts")
    th.set_rng_state(state[0])
    np.random.set_state(state[1])
    resumed.learn(2 * 128, reset_num_timesteps=False)
    assert len(resumed.rollout_history) == 2
    for name, tensor in snapshot(model.policy).items():
        assert th.equal(resumed.policy.state_dict()[name], tensor), name


def test_without_the_file_a_resumed_run_says_so_and_starts_with_none(tmp_path: Path) -> None:
    model = make_model(BOX, sample_reuse=2)
    model.learn(2 * 128)
    model.learn(128, reset_num_timesteps=False)  # its rollouts are there: nothing to say
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.env, device="cpu")
    assert len(loaded.rollout_history) == 0
    with pytest.warns(UserWarning, match="load_rollouts"):
        loaded.learn(128, reset_num_timesteps=False)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="save_rollouts"):
        make_model(BOX, sample_reuse=2).load_rollouts(tmp_path / "other.npz")


def test_other_environments_begin_without_the_rollouts_of_the_old_ones() -> None:
    model = make_model(BOX, sample_reuse=2)
    model.learn(2 * 128)
    assert len(model.rollout_history) == 1
    model.set_env(make_model(BOX, n_envs=2).env)
    assert len(model.rollout_history) == 0
    model.learn(2 * 128, reset_num_timesteps=False)  # they were dropped on purpose: nothing to say
    assert all_finite(model.policy)


def _reusing_rank(rank: int) -> dict[str, Any]:
    model = small_model(sample_reuse=3)
    model.learn(4 * model.n_steps * PER_RANK * 2)
    own = model.rollout_history.rollouts[0].rewards.sum()
    return {"log": dict(model.logger.name_to_value), "rollouts": len(model.rollout_history), "own": float(own)}


def test_ranks_keep_rollouts_of_their_own_and_take_one_step(tmp_path: Path) -> None:
    one, other = unharmed(
        run_ranks(_reusing_rank, 2, tmp_path)
    )  # learn() itself compares the ranks' parameters after every update
    assert (one["rollouts"], other["rollouts"]) == (2, 2)
    assert one["own"] != other["own"]
    for key, value in one["log"].items():
        if key.startswith("sample_reuse/"):
            assert value == pytest.approx(other["log"][key], rel=1e-12)
