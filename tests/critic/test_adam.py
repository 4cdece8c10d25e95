"""The critic's minibatch fit: the optimizer's epochs, what it may move, and the way back when it diverges."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_fvp.policies import split_parameters
from tests.helpers import oracles
from tests.helpers.models import DISTRIBUTIONS, SMALL, model_of, with_extractor
from tests.helpers.training import (
    all_finite,
    changed,
    collect,
    collected,
    logged,
    names_of,
    parameters_of,
    rollout,
    snapshot,
    states_actions_advantages,
    train,
)

BOX = spaces.Box(-1.0, 1.0, (2,))

distributions = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
architectures = pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "fused"),
    [(th.optim.Adam, {}, None), (th.optim.AdamW, {"foreach": True}, None), (th.optim.Adam, {"fused": False}, False)],
)
def test_the_optimizer_keeps_what_it_was_given(optimizer: Any, kwargs: dict[str, Any], fused: bool | None) -> None:
    model = model_of("gaussian", policy_kwargs={"optimizer_class": optimizer, "optimizer_kwargs": kwargs})
    before = [{key: value for key, value in group.items() if key != "params"} for group in model.policy.optimizer.param_groups]
    collect(model)
    model.train()
    after = [{key: value for key, value in group.items() if key != "params"} for group in model.policy.optimizer.param_groups]
    assert before == after
    assert after[0]["fused"] is fused


@pytest.mark.parametrize(
    ("optimizer", "kwargs"),
    [
        (th.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (th.optim.AdamW, {"weight_decay": 0.5}),
        (th.optim.Adam, {"weight_decay": 0.5, "amsgrad": True}),
        (th.optim.RMSprop, {"weight_decay": 0.1}),
    ],
)
def test_any_optimizer_moves_the_critic_and_nothing_else(optimizer: Any, kwargs: dict[str, Any]) -> None:
    """Weight decay too would move the actor outside of the KL constraint."""
    policy_kwargs = with_extractor(optimizer_class=optimizer, optimizer_kwargs=kwargs)
    model = collected(BOX, policy_kwargs=policy_kwargs, n_critic_updates=3)
    model.rollout_buffer.advantages[:] = 0.0
    critic = names_of(model.policy, split_parameters(model.policy, rollout(model).observations).critic)
    before = snapshot(model.policy)
    assert train(model)["trust_region/critic_status"] == "fitted"
    assert changed(before, model.policy) == critic


def test_the_critic_approaches_the_returns_whatever_the_shape_of_its_values() -> None:
    class FlatValues(ActorCriticPolicy):
        def predict_values(self, obs: Any) -> th.Tensor:
            return super().predict_values(obs).flatten()

    weights = []
    for policy in (ActorCriticPolicy, FlatValues):
        model = collected(BOX, policy=policy, n_critic_updates=10, learning_rate=3e-3)
        data = rollout(model)

        def error(model: Any = model, data: Any = data) -> float:
            with th.no_grad():
                return float((model.policy.predict_values(data.observations).flatten() - data.returns).square().mean())

        before = error()
        train(model)
        assert error() < 0.95 * before
        weights.append(model.policy.value_net.weight.detach().clone())
    assert th.allclose(*weights, rtol=1e-3, atol=1e-5)


@architectures
@distributions
def test_critic_fit_never_touches_what_the_actor_uses(distribution: str, architecture: str) -> None:
    """With equal advantages the actor stands still, so that whatever moves was moved by the critic."""
    model = model_of(distribution, architecture, n_critic_updates=3)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    model.rollout_buffer.advantages[:] = 1.0
    actor = oracles.actor_parameters(model.policy)
    before, old = parameters_of(model), oracles.distributions(model.policy, observations)
    model.train()
    after = parameters_of(model)
    moved = {name for name in after if not th.equal(after[name], before[name])}
    assert moved == set(after) - set(actor)
    assert oracles.joint_kl(old, oracles.distributions(model.policy, observations)) == 0.0


def test_critic_fit_is_epochs_of_adam_on_the_squared_error() -> None:
    """A minibatch of the whole rollout makes the order of its states irrelevant."""
    model = model_of("gaussian", dtype=th.float64, n_steps=32, batch_size=64, n_critic_updates=7, learning_rate=3e-3)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    returns = th.as_tensor(model.rollout_buffer.swap_and_flatten(model.rollout_buffer.returns)).flatten().double()
    net = [model.policy.mlp_extractor.value_net, model.policy.value_net]
    copies = [[parameter.detach().clone().requires_grad_() for parameter in part.parameters()] for part in net]
    w1, b1, w2, b2 = (parameter for part in copies for parameter in part)
    adam = th.optim.Adam([w1, b1, w2, b2], lr=3e-3, eps=1e-5)
    losses = []
    for _ in range(7):
        values = th.tanh(observations.double() @ w1.T + b1) @ w2.T + b2
        loss = (returns - values.flatten()).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    model.train()
    for parameter, expected in zip((p for part in net for p in part.parameters()), (w1, b1, w2, b2), strict=True):
        th.testing.assert_close(parameter.detach(), expected.detach(), rtol=1e-9, atol=1e-12)
    assert logged(model)["train/value_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("target", [1e25, 1e38])
@pytest.mark.filterwarnings(
    "ignore:overflow encountered", "ignore:invalid value encountered"
)  # numpy, in SB3's explained variance
def test_an_exploding_critic_is_restored_with_its_optimizer(target: float) -> None:
    model = collected(BOX, n_critic_updates=3)
    train(model)
    collect(model)
    model.rollout_buffer.returns[:] = target
    critic = split_parameters(model.policy, rollout(model).observations).critic
    state = {p: {k: th.as_tensor(v).clone() for k, v in model.policy.optimizer.state[p].items()} for p in critic}
    weights = [parameter.detach().clone() for parameter in critic]
    with pytest.warns(UserWarning, match="normalise the rewards"):
        log = train(model)
    assert log["trust_region/critic_status"] == "diverged"
    assert log["trust_region/status"] == "accepted", "the actor is not the critic's hostage"
    assert all(map(th.equal, weights, critic))
    for parameter in critic:
        for key, value in model.policy.optimizer.state[parameter].items():
            assert th.equal(th.as_tensor(value), state[parameter][key])
    assert all_finite(model.policy)


def test_a_learning_rate_that_blows_the_critic_up_is_undone() -> None:
    kwargs = {**SMALL, "optimizer_class": th.optim.SGD}
    model = collected(BOX, policy_kwargs=kwargs, learning_rate=1e20, n_critic_updates=20)
    critic = split_parameters(model.policy, rollout(model).observations).critic
    weights = [parameter.detach().clone() for parameter in critic]
    with pytest.warns(UserWarning, match="learning_rate"):
        assert train(model)["trust_region/critic_status"] == "diverged"
    assert all(map(th.equal, weights, critic))
