"""The Gauss-Newton critic against dense algebra in double precision, and what it must leave alone."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.critic.fit import CriticStatus, fit_critic
from sb3_trpo_fvp.critic.gauss_newton import GaussNewtonCritic
from sb3_trpo_fvp.policies import split_parameters
from tests.critic.cases import ACTIONS, NETWORKS, Arctangent, Rollout, jacobian, make_policy, mean_squared_error
from tests.helpers.environments import DICT, IMAGE
from tests.helpers.models import SMALL, make_model
from tests.helpers.training import all_finite, changed, collected, rollout, snapshot, train

EXACT = {"n_steps": 1, "cg_max_steps": 200, "cg_residual_tol": 0.0}
"""One step, solved to the last digits."""


class Noisy(BaseFeaturesExtractor):
    """Random in training mode, and with running statistics."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


@pytest.mark.parametrize("network", NETWORKS)
def test_step_is_that_of_dense_algebra(network: str) -> None:
    policy = make_policy(**NETWORKS[network])
    data = Rollout(policy)
    parameters = list(split_parameters(policy, data.observations).critic)
    old = th.cat([parameter.detach().flatten() for parameter in parameters])
    j = jacobian(policy, data.observations, parameters)
    b = j.T @ j / len(j)
    g = j.T @ (data.returns - policy.predict_values(data.observations).detach().flatten()) / len(j)
    damping = 0.5 * (g @ b @ g) / (g @ g)
    expected = th.linalg.solve(b + damping * th.eye(len(g), dtype=g.dtype), g)

    stats = data.fit(policy, damping=0.5, **EXACT)

    assert stats.status is CriticStatus.FITTED
    step = th.cat([parameter.detach().flatten() for parameter in parameters]) - old
    th.testing.assert_close(step, expected, rtol=1e-9, atol=1e-11)
    predicted = float(g @ expected - 0.5 * expected @ b @ expected)
    assert stats.reduction_ratio == pytest.approx(0.5 * (stats.loss_before - stats.loss) / predicted, rel=1e-9)


def test_linear_values_are_fitted_exactly() -> None:
    policy = make_policy(vf=())
    data = Rollout(policy)
    stats = data.fit(policy, damping=1e-14, min_damping=1e-14, **EXACT)
    design = np.hstack([data.observations.numpy(), np.ones((40, 1))]).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design, data.returns.numpy(), rcond=None)
    fitted = np.append(policy.value_net.weight.detach().numpy(), policy.value_net.bias.detach().numpy())
    np.testing.assert_allclose(fitted, solution, rtol=1e-9)
    assert stats.loss == pytest.approx(np.mean((design @ solution - data.returns.numpy()) ** 2), rel=1e-12)
    # A quadratic model of a quadratic function predicts without error.
    assert stats.reduction_ratio == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("exponent", [-60, 10, 90])
def test_scale_of_the_returns_changes_nothing_but_the_scale(exponent: int) -> None:
    data = Rollout(make_policy())
    weights = []
    for scale in (1.0, 2.0**exponent):
        policy = make_policy(vf=())
        policy.value_net.weight.data *= scale
        policy.value_net.bias.data *= scale
        stats = Rollout(policy, data.returns * scale).fit(policy)
        weights.append(policy.value_net.weight.detach() / scale)
        assert stats.accepted_steps == 3
    assert th.equal(*weights)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_loss_falls_or_the_critic_stays(seed: int, scale: float) -> None:
    policy = make_policy(seed=seed)
    data = Rollout(policy, seed=seed)
    data.returns *= scale
    state: dict[str, float] = {}
    for _ in range(12):
        before, parameters = mean_squared_error(policy, data), snapshot(policy)
        stats = data.fit(policy, state=state, damping=1e-2, min_damping=1e-3, max_damping=10.0)
        after = mean_squared_error(policy, data)
        assert stats.loss_before == pytest.approx(before, rel=1e-12)
        assert stats.loss == pytest.approx(after, rel=1e-12)
        assert 1e-3 <= stats.damping <= 10.0
        assert stats.damping == state["damping"]
        if stats.status is CriticStatus.FITTED:
            assert after < before
        else:
            assert stats.status is CriticStatus.NO_DESCENT
            assert not changed(parameters, policy)


def overshooting() -> tuple[ActorCriticPolicy, Rollout]:
    """V = atan(w) at w = 3 with target 0: an undamped step lands at w = −9.5."""
    policy = make_policy(Arctangent, vf=())
    policy.value_net.weight.requires_grad_(False).zero_()
    policy.value_net.bias.data.fill_(3.0)
    return policy, Rollout(policy, th.zeros(5, dtype=th.float64), size=5)


def test_step_that_raises_the_loss_is_undone_bit_for_bit() -> None:
    policy, data = overshooting()
    before = snapshot(policy)
    stats = data.fit(policy, n_steps=1, damping=0.01)
    assert stats.status is CriticStatus.NO_DESCENT
    assert not changed(before, policy)
    assert stats.loss == stats.loss_before == pytest.approx(math.atan(3.0) ** 2)
    assert stats.reduction_ratio < 0
    assert stats.damping == pytest.approx(0.04)
    assert stats.accepted_steps == 0


def test_damping_grows_until_a_step_is_good() -> None:
    policy, data = overshooting()
    stats = data.fit(policy, n_steps=20, damping=0.01)
    assert stats.status is CriticStatus.FITTED
    assert stats.loss < 1e-6
    assert 0 < stats.accepted_steps < 20


def test_damping_stays_within_its_bounds() -> None:
    policy = make_policy(vf=())
    data = Rollout(policy)
    state: dict[str, float] = {}
    dampings = [data.fit(policy, state=state, n_steps=2, min_damping=0.125, cg_max_steps=1).damping for _ in range(6)]
    assert dampings == [0.25, 0.125, 0.125, 0.125, 0.125, 0.125]
    policy, data = overshooting()
    assert data.fit(policy, n_steps=3, damping=0.01, max_damping=0.02).damping == 0.02


def test_bounds_hold_for_a_damping_kept_from_before() -> None:
    policy = make_policy()
    data = Rollout(policy)
    zero_slope = Rollout(policy, targets=policy.predict_values(data.observations).detach().flatten())
    assert zero_slope.fit(policy, {"damping": 1e-9}, min_damping=0.5).damping == 0.5
    assert zero_slope.fit(policy, {"damping": 1e9}, max_damping=2.0).damping == 2.0


def test_targets_met_exactly_leave_the_critic_alone() -> None:
    policy = make_policy()
    data = Rollout(policy)
    data.returns = policy.predict_values(data.observations).detach().flatten()
    before = snapshot(policy)
    stats = data.fit(policy)
    assert stats.status is CriticStatus.ZERO_GRADIENT
    assert stats.loss == 0.0
    assert not changed(before, policy)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_returns_leave_the_critic_alone(bad: float) -> None:
    model = collected(ACTIONS, critic="gauss_newton")
    model.rollout_buffer.returns[3, 1] = bad
    critic = [parameter.clone() for parameter in split_parameters(model.policy, rollout(model).observations).critic]
    with np.errstate(invalid="ignore"), pytest.warns(UserWarning, match="nonfinite_returns"):
        log = train(model)
    assert log["trust_region/critic_status"] == "nonfinite_returns"
    assert log["trust_region/status"] == "accepted"
    assert all(map(th.equal, critic, split_parameters(model.policy, rollout(model).observations).critic))


def test_values_that_overflow_leave_the_critic_alone() -> None:
    policy = make_policy()
    policy.value_net.weight.data.fill_(1e308)
    before = snapshot(policy)
    stats = Rollout(policy).fit(policy)
    assert stats.status is CriticStatus.NONFINITE_VALUES
    assert not changed(before, policy)


@pytest.mark.parametrize("scale", [1e15, 1e30])
def test_exploding_targets_are_fitted_in_single_precision(scale: float) -> None:
    model = collected(ACTIONS, critic="gauss_newton")
    model.rollout_buffer.returns *= scale
    log = train(model)
    assert all_finite(model.policy)
    assert log["train/value_loss"] <= log["critic/loss_before"]
    assert log["trust_region/critic_status"] == "fitted"


POLICIES: dict[str, dict[str, Any]] = {
    "vector": {},
    "dict": {"observation_space": DICT},
    "dict_own_extractor": {"observation_space": DICT, "share_features_extractor": False},
    "image": {"observation_space": IMAGE, "policy": "CnnPolicy"},
    "image_own_extractor": {"observation_space": IMAGE, "policy": "CnnPolicy", "share_features_extractor": False},
    "noisy_own_extractor": {"features_extractor_class": Noisy, "share_features_extractor": False},
    "gsde": {"use_sde": True},
}


def build(critic: str, observation_space: spaces.Space | None = None, **kwargs: Any) -> Any:
    arguments = {name: kwargs.pop(name) for name in ("policy", "use_sde") if name in kwargs}
    if observation_space is not None:
        arguments["observation_space"] = observation_space
        size = "features_dim" if observation_space is IMAGE else "cnn_output_dim"
        kwargs["features_extractor_kwargs"] = {size: 8}
    return collected(ACTIONS, policy_kwargs=SMALL | kwargs, n_steps=32, critic=critic, **arguments)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_fitted_and_its_actor_left_to_the_actor_step(name: str) -> None:
    adam, ours = build("adam", **POLICIES[name]), build("gauss_newton", **POLICIES[name])
    data = rollout(ours)
    before, start = mean_squared_error(ours.policy, data), snapshot(ours.policy)
    buffers = {name: buffer.clone() for name, buffer in ours.policy.named_buffers()}
    train(adam)
    log = train(ours)
    after = mean_squared_error(ours.policy, data)
    assert log["trust_region/critic_status"] == "fitted"
    assert log["critic/loss_before"] >= log["train/value_loss"]
    split = split_parameters(ours.policy, data.observations)
    if POLICIES[name].get("share_features_extractor", True):
        # The actor step moves shared features after the rollout's values were predicted.
        assert log["train/value_loss"] == pytest.approx(after, rel=1e-4)
    else:
        if name != "noisy_own_extractor":  # whose running statistics are refreshed before the first step
            assert log["critic/loss_before"] == pytest.approx(before, rel=1e-4)
        assert after < before
    # Which critic is fitted makes no difference to the actor, and the optimizer is not touched.
    actor = {id(parameter) for parameter in split.actor}
    names = {name for name, parameter in ours.policy.named_parameters() if id(parameter) in actor}
    state = adam.policy.state_dict()
    assert all(th.equal(ours.policy.state_dict()[name], state[name]) for name in names)
    assert not ours.policy.optimizer.state
    moved = changed(start, ours.policy)
    assert {name for name, parameter in ours.policy.named_parameters() if parameter is split.critic[-1]} <= moved
    running = {name for name in buffers if not th.equal(buffers[name], ours.policy.state_dict()[name])}
    assert running == (buffers.keys() if name == "noisy_own_extractor" else set())


def test_shared_image_features_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gauss_newton", **POLICIES["image"])
    data = rollout(model)
    split = split_parameters(model.policy, data.observations)
    calls = []
    forward = NatureCNN.forward
    monkeypatch.setattr(NatureCNN, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    fit_critic(GaussNewtonCritic(n_steps=4), model.policy, split, data, {})
    assert calls == [len(data.returns)]


def test_frozen_parameters_stay_and_the_others_are_fitted() -> None:
    model = collected(ACTIONS, critic="gauss_newton")
    model.policy.value_net.requires_grad_(False)
    frozen = snapshot(model.policy.value_net)
    log = train(model)
    assert log["trust_region/critic_status"] == "fitted"
    assert log["train/value_loss"] < log["critic/loss_before"]
    assert not changed(frozen, model.policy.value_net)
    for parameter in split_parameters(model.policy, rollout(model).observations).critic:
        parameter.requires_grad_(False)
    assert train(model)["trust_region/critic_status"] == "no_parameters"


def test_damping_is_saved_and_training_goes_on_bit_for_bit(tmp_path: Any) -> None:
    model = collected(ACTIONS, critic="gauss_newton", critic_kwargs={"n_steps": 3, "damping": 0.7})
    train(model)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", device="cpu")
    assert loaded.critic_state == model.critic_state != {"damping": 0.7}
    assert loaded.critic_kwargs == {"n_steps": 3, "damping": 0.7}
    loaded.rollout_buffer = copy.deepcopy(model.rollout_buffer)
    loaded.set_logger(Logger(None, []))
    train(model)
    train(loaded)
    assert not changed(snapshot(model.policy), loaded.policy)
    assert loaded.critic_state == model.critic_state


def test_critic_can_be_exchanged_on_load(tmp_path: Any) -> None:
    collected(ACTIONS).save(tmp_path / "adam")
    loaded = TRPO.load(tmp_path / "adam", device="cpu", critic="gauss_newton")
    source = collected(ACTIONS)
    loaded.rollout_buffer = source.rollout_buffer
    loaded.set_logger(Logger(None, []))
    assert train(loaded)["critic/accepted_steps"] == 3


def test_damping_steps_and_reduction_are_logged() -> None:
    model = make_model(ACTIONS, critic="gauss_newton", critic_kwargs={"n_steps": 4})
    model.learn(2 * 64)
    log = train(model)
    assert {name for name in log if name.startswith("critic/")} == {
        f"critic/{name}" for name in ("loss_before", "damping", "cg_steps", "accepted_steps", "reduction_ratio")
    }
    assert 0 < log["critic/cg_steps"] <= 40
    assert 0 < log["critic/accepted_steps"] <= 4
    assert log["critic/damping"] == model.critic_state["damping"]
    assert not any(name.startswith("critic/") for name in train(collected(ACTIONS)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"critic": "sgd"}, r'`critic` must be in \{"adam", "gauss_newton"\}, got \'sgd\''),
        ({"critic_kwargs": {"n_steps": 2}}, "`critic_kwargs` must be"),
        ({"critic": "gauss_newton", "critic_kwargs": {"n_steps": 0}}, r"`n_steps` .* \[1, ∞\), got 0"),
        ({"critic": "gauss_newton", "critic_kwargs": {"cg_max_steps": 0}}, r"`cg_max_steps` .* \[1, ∞\), got 0"),
        ({"critic": "gauss_newton", "critic_kwargs": {"cg_residual_tol": 1.0}}, r"`cg_residual_tol` .* \[0, 1\), got 1.0"),
        ({"critic": "gauss_newton", "critic_kwargs": {"min_damping": 0.0}}, r"`min_damping` .* \(0, ∞\), got 0.0"),
        ({"critic": "gauss_newton", "critic_kwargs": {"max_damping": 1e-4}}, r"`max_damping` .* \[0.001, ∞\), got 0.0001"),
        ({"critic": "gauss_newton", "critic_kwargs": {"damping": math.nan}}, r"`damping` .* \[0.001, 1000.0\], got nan"),
    ],
)
def test_arguments_are_checked_at_construction(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(ACTIONS, **kwargs)


def test_odd_batch_size_is_no_matter_without_minibatches() -> None:
    with pytest.warns(UserWarning, match="batch_size"):
        make_model(ACTIONS, batch_size=33)
    make_model(ACTIONS, batch_size=33, critic="gauss_newton")
