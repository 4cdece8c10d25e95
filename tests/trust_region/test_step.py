"""The step: its direction, its β, the KL that it costs, and the old parameters back when it is refused."""

import math
import random

import numpy as np
import pytest
import torch as th

from sb3_trpo_fvp import TRPO, FisherOperator, StepStatus
from tests.helpers import oracles
from tests.helpers.models import DISTRIBUTIONS, model_of, scatter
from tests.helpers.training import collect, logged, parameters_of, states_actions_advantages

distributions = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
architectures = pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])


class Tiny(FisherOperator):
    """A curvature so small that no step in its metric respects the KL."""

    def matvec(self, v: th.Tensor) -> th.Tensor:
        return 1e-12 * v


def step_of(model: TRPO, before: dict[str, th.Tensor], names: list[str]) -> np.ndarray:
    after = parameters_of(model)
    return th.cat([(after[name] - before[name]).flatten() for name in names]).double().numpy()


def exact_model(distribution: str, architecture: str = "mlp", **kwargs: object) -> TRPO:
    """Double precision, a scattered policy, conjugate gradients to the end, no critic."""
    arguments = {"n_critic_updates": 0, "cg_max_steps": 300, "cg_residual_tol": 1e-10, "normalize_advantage": False}
    model = model_of(distribution, architecture, dtype=th.float64, n_steps=8, batch_size=16, **(arguments | kwargs))
    th.manual_seed(5)
    scatter(model.policy)
    return model


@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
@architectures
@distributions
def test_step_is_the_textbook_formula(distribution: str, architecture: str, fisher: str) -> None:
    """θ − θ_k = fraction · √(2δ / sᵀHs) · s with (H + λI) s = g, by dense solves of explicit sums."""
    damping, delta = 0.05, 0.003
    model = exact_model(distribution, architecture, fisher=fisher, cg_damping=damping, target_kl=delta)
    collect(model)
    observations, actions, advantages = states_actions_advantages(model)
    named = oracles.actor_parameters(model.policy)
    names, parameters = list(named), list(named.values())
    scores = oracles.scores(model.policy, observations, actions, parameters)
    h = scores.T @ scores / len(scores) if fisher == "empirical" else oracles.fisher(model.policy, observations, parameters)
    s = np.linalg.solve(h + damping * np.eye(len(h)), advantages.double().numpy() @ scores / len(scores))

    before = parameters_of(model)
    model.train()
    log = logged(model)
    assert log["trust_region/status"] == "accepted"
    step = step_of(model, before, names)
    expected = log["trust_region/step_fraction"] * np.sqrt(2 * delta / (s @ h @ s)) * s
    # The buffer's actions are in single precision, and a squashed one near ±1 loses digits in tanh⁻¹.
    tolerance = 1e-4 if distribution == "squashed_gsde" else 1e-6
    np.testing.assert_allclose(step, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@distributions
def test_quadratic_kl_of_the_full_step_is_delta(distribution: str) -> None:
    delta = 0.01
    model = exact_model(distribution, target_kl=delta, cg_residual_tol=0.05, cg_max_steps=10)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    named = oracles.actor_parameters(model.policy)
    h = oracles.fisher(model.policy, observations, list(named.values()))
    before = parameters_of(model)
    model.train()
    full_step = step_of(model, before, list(named)) / logged(model)["trust_region/step_fraction"]
    assert 0.5 * full_step @ h @ full_step == pytest.approx(delta, rel=1e-5)


@pytest.mark.parametrize("damped_beta", [False, True])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.1, 10.0])
def test_quadratic_kl_is_delta_for_any_damping(damping: float, damped_beta: bool) -> None:
    """H in β is undamped: the damping turns the step but does not shorten it, unless asked for."""
    delta = 0.01
    kwargs = {"target_kl": delta, "cg_damping": damping, "cg_residual_tol": 0.05, "cg_max_steps": 10}
    model = exact_model("gaussian", damped_beta=damped_beta, **kwargs)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    named = oracles.actor_parameters(model.policy)
    h = oracles.fisher(model.policy, observations, list(named.values()))
    before = parameters_of(model)
    model.train()
    full_step = step_of(model, before, list(named)) / logged(model)["trust_region/step_fraction"]
    held = h + damping * np.eye(len(h)) if damped_beta else h
    assert 0.5 * full_step @ held @ full_step == pytest.approx(delta, rel=1e-5)


@pytest.mark.parametrize("delta", [0.001, 0.1])
@architectures
@distributions
def test_true_joint_kl_of_the_accepted_step_is_within_delta(distribution: str, architecture: str, delta: float) -> None:
    model = model_of(distribution, architecture, target_kl=delta, n_critic_updates=0)
    for _ in range(2):
        collect(model)
        observations, _, _ = states_actions_advantages(model)
        old = oracles.distributions(model.policy, observations)
        model.train()
        log = logged(model)
        kl = oracles.joint_kl(old, oracles.distributions(model.policy, observations))
        assert log["trust_region/status"] == "accepted"
        assert 0.3 * delta < kl <= delta * (1 + 1e-4)
        assert log["trust_region/kl"] == pytest.approx(kl, rel=1e-3)
        assert log["train/kl_divergence_loss"] == log["trust_region/kl"]


@pytest.mark.parametrize(("distribution", "factors"), [("gaussian", 3), ("gsde", 3), ("bernoulli", 3), ("categorical", 1)])
def test_mean_reduction_bounds_the_average_over_action_dimensions(distribution: str, factors: int) -> None:
    delta = 0.01
    model = model_of(distribution, target_kl=delta, kl_reduction="mean", n_critic_updates=0)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    old = oracles.distributions(model.policy, observations)
    model.train()
    kl = oracles.joint_kl(old, oracles.distributions(model.policy, observations))
    assert 0.5 * factors * delta < kl <= factors * delta * (1 + 1e-4)
    assert logged(model)["train/kl_divergence_loss"] == pytest.approx(kl / factors, rel=1e-3)
    assert logged(model)["trust_region/kl"] == pytest.approx(kl, rel=1e-3)


@architectures
@distributions
def test_logged_numbers_are_those_of_the_step(distribution: str, architecture: str) -> None:
    model = exact_model(distribution, architecture, target_kl=0.01)
    collect(model)
    observations, actions, advantages = states_actions_advantages(model)
    old_log_prob = log_prob_of(model, observations, actions)
    named = oracles.actor_parameters(model.policy)
    g = advantages.double().numpy() @ oracles.scores(model.policy, observations, actions, list(named.values()))
    before = parameters_of(model)
    model.train()
    log = logged(model)
    new_log_prob = log_prob_of(model, observations, actions)
    a = advantages.double().numpy()
    surrogate = float(np.mean(a * np.exp(new_log_prob - old_log_prob)))
    tolerance = {"rel": 1e-4, "abs": 1e-8}
    assert log["trust_region/actual_improvement"] == pytest.approx(surrogate - a.mean(), **tolerance)
    assert log["train/policy_objective"] == pytest.approx(surrogate, **tolerance)
    assert log["trust_region/kl_monte_carlo"] == pytest.approx(np.mean(old_log_prob - new_log_prob), **tolerance)
    slope = step_of(model, before, list(named)) @ g / len(a)
    assert log["trust_region/predicted_improvement"] == pytest.approx(slope, **tolerance)
    assert log["trust_region/step_fraction"] == pytest.approx(0.8 ** log["trust_region/backtracks"])
    assert log["trust_region/cg_residual"] <= 1e-10
    assert log["trust_region/fvp_count"] >= log["trust_region/cg_steps"] >= 1


def log_prob_of(model: TRPO, observations: th.Tensor, actions: th.Tensor) -> np.ndarray:
    with th.no_grad():
        actions = actions.flatten() if model.action_space.__class__.__name__ == "Discrete" else actions
        return model.policy.get_distribution(observations).log_prob(actions).numpy()


def test_entropy_is_that_of_the_new_policy() -> None:
    model = model_of("gaussian", n_critic_updates=0)
    collect(model)
    model.train()
    log_std = model.policy.log_std.detach().double()
    expected = float((0.5 * math.log(2 * math.pi * math.e) + log_std).sum())
    assert logged(model)["trust_region/entropy"] == pytest.approx(expected, rel=1e-5)
    assert logged(model)["train/std"] == pytest.approx(float(log_std.exp().mean()), rel=1e-5)


@architectures
@distributions
def test_refused_step_restores_the_actor_bit_for_bit(distribution: str, architecture: str) -> None:
    model = model_of(distribution, architecture, fisher=Tiny, cg_damping=0.0, line_search_max_iter=3, n_critic_updates=0)
    scatter(model.policy)
    collect(model)
    before = parameters_of(model)
    identities = [id(parameter) for parameter in model.policy.parameters()]
    model.train()
    log = logged(model)
    assert log["trust_region/status"] == "line_search_failed"
    assert log["trust_region/status"] == StepStatus.LINE_SEARCH_FAILED.label
    assert log["train/is_line_search_success"] == 0.0
    assert log["trust_region/step_fraction"] == log["trust_region/kl"] == log["trust_region/actual_improvement"] == 0.0
    assert log["trust_region/backtracks"] == 2
    assert [id(parameter) for parameter in model.policy.parameters()] == identities
    assert all(th.equal(tensor, before[name]) for name, tensor in parameters_of(model).items())


@architectures
def test_backtracking_shortens_the_step_until_the_kl_holds(architecture: str) -> None:
    class TooSmall(FisherOperator):
        """Far below the true curvature: full steps are too long, and a few halvings make them short enough."""

        def matvec(self, v: th.Tensor) -> th.Tensor:
            return 1e-2 * v

    model = model_of(
        "gaussian",
        architecture,
        fisher=TooSmall,
        target_kl=0.01,
        line_search_shrinking_factor=0.5,
        line_search_max_iter=20,
        n_critic_updates=0,
    )
    scatter(model.policy)
    collect(model)
    observations, actions, advantages = states_actions_advantages(model)
    named = oracles.actor_parameters(model.policy)
    before, old = parameters_of(model), oracles.distributions(model.policy, observations)
    old_log_prob = log_prob_of(model, observations, actions)
    model.train()
    log = logged(model)
    backtracks = int(log["trust_region/backtracks"])
    assert backtracks >= 1
    assert log["trust_region/step_fraction"] == 0.5**backtracks
    assert oracles.joint_kl(old, oracles.distributions(model.policy, observations)) <= 0.01
    # The step tried before, twice as long, was refused for a reason.
    with th.no_grad():
        for name, parameter in named.items():
            parameter.copy_(before[name] + 2.0 * (parameter - before[name]))
    too_far = oracles.joint_kl(old, oracles.distributions(model.policy, observations)) > 0.01
    a = advantages.double().numpy()
    a = (a - a.mean()) / a.std(ddof=1)
    no_better = np.mean(a * np.expm1(log_prob_of(model, observations, actions) - old_log_prob)) <= 0
    assert too_far or no_better


@architectures
@distributions
def test_equal_advantages_move_nothing(distribution: str, architecture: str) -> None:
    model = model_of(distribution, architecture, n_critic_updates=0)
    collect(model)
    model.rollout_buffer.advantages[:] = 3.7
    before = parameters_of(model)
    model.train()
    assert logged(model)["trust_region/status"] == "zero_gradient"
    assert all(th.equal(tensor, before[name]) for name, tensor in parameters_of(model).items())


def test_normalised_advantages_do_not_depend_on_scale_and_shift() -> None:
    steps = []
    for scale, shift in ((1.0, 0.0), (250.0, -40.0)):
        model = exact_model("gaussian", normalize_advantage=True)
        collect(model)
        model.rollout_buffer.advantages[:] = scale * model.rollout_buffer.advantages + shift
        before = parameters_of(model)
        model.train()
        steps.append(step_of(model, before, list(before)))
    np.testing.assert_allclose(steps[1], steps[0], atol=1e-4 * np.abs(steps[0]).max())


@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
@architectures
@distributions
def test_actor_step_consumes_no_random_number(distribution: str, architecture: str, fisher: str) -> None:
    model = model_of(distribution, architecture, fisher=fisher, n_critic_updates=0)
    collect(model)
    states = th.get_rng_state(), np.random.get_state(), random.getstate()
    model.train()
    assert logged(model)["trust_region/status"] == "accepted"
    assert th.equal(th.get_rng_state(), states[0])
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), states[1], strict=True))
    assert random.getstate() == states[2]


def test_actor_step_never_touches_the_critic() -> None:
    model = model_of("gaussian", n_critic_updates=0)
    collect(model)
    actor = oracles.actor_parameters(model.policy)
    before = parameters_of(model)
    model.train()
    after = parameters_of(model)
    assert {name for name in after if not th.equal(after[name], before[name])} == set(actor)


def test_statuses_have_distinct_codes() -> None:
    assert len({status.value for status in StepStatus}) == len(StepStatus)
