"""The preconditioner: symmetric, positive definite, close enough to save most products, and never in the way."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy

from sb3_trpo_fvp import FisherOperator, fisher_operator
from sb3_trpo_fvp.linalg.conjugate_gradient import CGStatus, conjugate_gradient
from tests.helpers.environments import ACTION_SPACES
from tests.helpers.models import make_batch, make_policy, model_of, sample_actions
from tests.helpers.training import all_finite, collect, collected, logged, train

BOX = spaces.Box(-1.0, 1.0, (2,))
PLAIN = ["gaussian", "categorical", "multi_categorical", "bernoulli"]
KINDS = ["kl_hessian", "gauss_newton", "empirical"]


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("distribution", PLAIN)
def test_it_is_symmetric_and_positive_definite(distribution: str, damping: float) -> None:
    policy = make_policy(distribution)
    observations, actions = make_batch(policy, 50)
    precondition = fisher_operator(policy, observations, actions).preconditioner(damping)
    assert precondition is not None
    size = fisher_operator(policy, observations).shape[0]
    matrix = th.stack([precondition(column) for column in th.eye(size, dtype=th.float64)], dim=1)
    assert th.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-10 * float(matrix.abs().max()))
    assert float(th.linalg.eigvalsh(matrix)[0]) > 0.0


def test_it_is_the_inverse_where_the_fisher_matrix_is_a_kronecker_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear Gaussian policy: scores do not depend on states. Many actions in each state stand for their expectation."""
    monkeypatch.setattr("sb3_trpo_fvp.fisher.kronecker._STATES", 10**9)
    policy = make_policy("gaussian", "linear")
    states = th.randn(20, 4)
    observations = states.repeat(2000, 1)
    actions = sample_actions(policy, observations)
    damping = 0.05
    op = fisher_operator(policy, observations, actions)
    precondition = op.preconditioner(damping)
    assert precondition is not None
    dense = fisher_operator(policy, states, kind="kl_hessian").to_dense()
    product = th.stack([precondition(column) for column in (dense + damping * th.eye(len(dense))).T], dim=1)
    # 40,000 samples: the covariance of the scores is known to about 1 %.
    assert float((product - th.eye(len(dense))).abs().max()) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_few_steps_predict_more_improvement(kind: str) -> None:
    """On a policy gradient; a vector outside of the scores' span is as hard with it as without."""
    th.manual_seed(0)
    policy = ActorCriticPolicy(spaces.Box(-9, 9, (10,)), spaces.Box(-1, 1, (4,)), lambda _: 1e-3)
    with th.no_grad():
        policy.action_net.weight.mul_(30.0)
    observations = th.randn(600, 10) * th.logspace(-1, 1, 10)
    actions = sample_actions(policy, observations)
    op = fisher_operator(policy, observations, actions, kind=kind)
    advantages = th.sin(3.0 * observations[:, 0]) * actions[:, 0] + th.randn(600)
    surrogate = (advantages * policy.get_distribution(observations).log_prob(actions)).mean()
    g = th.cat([part.flatten() for part in th.autograd.grad(surrogate, op.parameters)])
    damping = 0.01

    def damped(v: th.Tensor) -> th.Tensor:
        return op @ v + damping * v

    def predicted_improvement(steps: int, preconditioned: bool) -> float:
        preconditioner = op.preconditioner(damping) if preconditioned else None
        s = conjugate_gradient(damped, g, max_steps=steps, rtol=0.0, preconditioner=preconditioner).value
        return float(g @ s) / float(s @ (op @ s)) ** 0.5

    exact = predicted_improvement(300, preconditioned=False)
    assert predicted_improvement(5, preconditioned=True) > 0.97 * exact
    assert predicted_improvement(5, preconditioned=True) > predicted_improvement(15, preconditioned=False)

    plain = conjugate_gradient(damped, g, max_steps=400, rtol=1e-2)
    short = conjugate_gradient(damped, g, max_steps=400, rtol=1e-2, preconditioner=op.preconditioner(damping))
    assert plain.status is short.status is CGStatus.CONVERGED
    assert short.num_steps < plain.num_steps
    # The residual that the solver reports is the one there is.
    residual = float(th.linalg.vector_norm(g - damped(short.value)))
    assert residual == pytest.approx(short.residual_norm, rel=0.05)


@pytest.mark.parametrize("kind", ["gaussian", "multi_categorical"])
def test_of_many_states_some_are_looked_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(kind)
    observations, actions = make_batch(policy, 43)
    some = fisher_operator(policy, observations[::4], actions[::4]).preconditioner(0.1)
    op = fisher_operator(policy, observations, actions, kind="gauss_newton", chunk_size=20)
    monkeypatch.setattr("sb3_trpo_fvp.fisher.kronecker._STATES", 10)
    monkeypatch.setattr("sb3_trpo_fvp.fisher.kronecker._STATES_PER_ROW", 0)
    thinned = op.preconditioner(0.1)
    assert some is not None
    assert thinned is not None
    v = th.randn(op.shape[0], dtype=th.float64)
    # The second chunk of 20 begins at a multiple of 4, so that both look at the same states.
    assert th.allclose(thinned(v), some(v), rtol=1e-8)
    before = op @ v
    assert th.equal(before, op @ v), "products are of all states, still"
    assert not th.allclose(before, fisher_operator(policy, observations[::4], actions[::4]) @ v)


def test_averaged_halves_are_the_whole() -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, 40)
    op = fisher_operator(policy, observations, actions)
    halves: list[list[th.Tensor]] = []
    first, second = (fisher_operator(policy, observations[half], actions[half]) for half in (slice(0, 20), slice(20, 40)))
    for operator in (first, second):
        operator.preconditioner(0.1, lambda t: halves.append(list(t)) or list(t))
    pooled = first.preconditioner(0.1, lambda _: [(one + other) / 2 for one, other in zip(*halves, strict=True)])
    whole = op.preconditioner(0.1)
    assert pooled is not None
    assert whole is not None
    v = th.randn(op.shape[0], dtype=th.float64)
    assert th.allclose(pooled(v), whole(v), rtol=1e-8)


def test_networks_and_operators_that_it_cannot_serve_have_none() -> None:
    observations, actions = make_batch(make_policy("gaussian"))
    general = make_policy("gaussian", "learned_extractor")
    assert fisher_operator(general, observations, actions).preconditioner(0.1) is None
    assert fisher_operator(make_policy("gsde"), observations, actions).preconditioner(0.1) is None
    assert fisher_operator(make_policy("gaussian"), observations).preconditioner(0.1) is None
    frozen = make_policy("gaussian")
    frozen.action_net.bias.requires_grad_(False)
    assert fisher_operator(frozen, observations, actions).preconditioner(0.1) is None
    cnn = ActorCriticCnnPolicy(spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(2), lambda _: 1e-3)
    pixels = th.zeros(3, 1, 36, 36, dtype=th.uint8)
    assert fisher_operator(cnn, pixels, th.zeros(3, 1)).preconditioner(0.1) is None

    class Own(FisherOperator):
        def matvec(self, v: th.Tensor) -> th.Tensor:
            return v

    assert fisher_operator(make_policy("gaussian"), observations, actions, kind=Own).preconditioner(0.1) is None


def test_a_frozen_layer_is_left_out() -> None:
    policy = make_policy("gaussian")
    for parameter in policy.mlp_extractor.policy_net[0].parameters():
        parameter.requires_grad_(False)
    observations, actions = make_batch(policy, 50)
    op = fisher_operator(policy, observations, actions)
    precondition = op.preconditioner(0.1)
    assert precondition is not None
    assert bool(th.isfinite(precondition(th.ones(op.shape[0], dtype=th.float64))).all())


@pytest.mark.parametrize("space", [name for name in ACTION_SPACES if name != "box"])
def test_updates_without_and_with_it_are_both_accepted(space: str) -> None:
    distribution = {"discrete": "categorical", "multi_discrete": "multi_categorical", "multi_binary": "bernoulli"}[space]
    steps = {}
    for preconditioner in ("kronecker", "none"):
        model = model_of(distribution, cg_preconditioner=preconditioner, cg_residual_tol=0.01, cg_damping=0.01)
        collect(model)
        model.train()
        assert logged(model)["trust_region/status"] == "accepted"
        steps[preconditioner] = logged(model)["trust_region/cg_steps"]
    assert steps["kronecker"] < steps["none"]


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`cg_preconditioner` must be in \{\"kronecker\", \"none\"\}, got 'jacobi'"):
        model_of("gaussian", cg_preconditioner="jacobi")


@pytest.mark.parametrize("failure", ["overflow", "no_convergence"])
def test_a_preconditioner_that_cannot_be_made_is_done_without(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if failure == "no_convergence":

        def eigh(matrix: th.Tensor) -> Any:
            msg = "the algorithm failed to converge"
            raise th.linalg.LinAlgError(msg)

        monkeypatch.setattr(th.linalg, "eigh", eigh)
    logs = []
    for preconditioner in ("kronecker", "none"):
        linear = {"net_arch": {"pi": [], "vf": []}}
        model = collected(BOX, cg_preconditioner=preconditioner, n_critic_updates=0, policy_kwargs=linear)
        if failure == "overflow":
            model.rollout_buffer.observations *= 1e12
            with th.no_grad():
                model.policy.log_std.fill_(-18.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            logs.append({key: value for key, value in train(model).items() if "seconds" not in key})
        assert all_finite(model.policy)
    assert str(logs[0]) == str(logs[1])  # as text: NaN is not equal to itself
