"""What the linearised actor keeps, and who shares it."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_fvp import fisher_operator
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.linearization.stack import StackLinearization
from sb3_trpo_fvp.trust_region import SurrogateProblem
from tests.helpers.environments import ACTION_SPACES
from tests.helpers.models import make_batch, make_policy


def test_too_many_activations_are_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ActorCriticPolicy(spaces.Box(-9, 9, (4,)), ACTION_SPACES["box"], lambda _: 1e-3)
    observations, actions = make_batch(policy, 40)
    kept = fisher_operator(policy, observations, actions, chunk_size=7)
    assert kept.actor.is_small
    monkeypatch.setattr("sb3_trpo_fvp.linearization.actor._MOST_ACTIVATIONS", 40)
    anew = fisher_operator(policy, observations, actions, chunk_size=7)
    assert not anew.actor.is_small
    v = th.randn(kept.shape[0])
    assert th.equal(kept @ v, anew @ v)
    first = slice(0, 7)
    assert kept.actor.linearize(first) is kept.actor.linearize(first)
    assert anew.actor.linearize(first) is not anew.actor.linearize(first)


def test_gradient_products_and_preconditioner_share_what_the_operator_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, 20)
    operator = fisher_operator(policy, observations, actions)
    forwards: list[int] = []
    relinearize = StackLinearization.relinearize
    monkeypatch.setattr(StackLinearization, "relinearize", lambda self, x: forwards.append(len(x)) or relinearize(self, x))  # type: ignore[func-returns-value]
    problem = SurrogateProblem(operator.actor, actions, th.linspace(-1, 1, 20, dtype=th.float64))
    problem.gradient()
    operator.preconditioner(0.1)
    assert forwards == []


def test_a_surrogate_of_its_own_has_the_gradient_of_one_that_shares() -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, 20)
    actor = LinearizedActor(policy, observations, fisher_operator(policy, observations).parameters)
    problem = SurrogateProblem(actor, actions, th.linspace(-1, 1, 20, dtype=th.float64))
    assert problem.evaluate().kl == 0.0
    operator = fisher_operator(policy, observations, actions)
    shared = SurrogateProblem(operator.actor, actions, th.linspace(-1, 1, 20, dtype=th.float64))
    assert th.equal(shared.gradient(), problem.gradient())
