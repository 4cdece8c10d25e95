"""Every policy that SB3 can build, and what users build on it: whose parameters are whose, modes, optimizers, saving."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_fvp import TRPO, StepStatus
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.policies import evaluation_mode, split_parameters
from sb3_trpo_fvp.trust_region import SurrogateProblem
from tests.helpers.training import (
    DICT,
    IMAGE,
    SMALL,
    VECTOR,
    all_finite,
    changed,
    collect,
    collected,
    make_model,
    rollout,
    snapshot,
    train,
    train_measuring_kl,
)

BOX = spaces.Box(-1.0, 1.0, (2,))
DISCRETE = spaces.Discrete(3)


class Extractor(BaseFeaturesExtractor):
    """A learned extractor."""

    def __init__(self, observation_space: spaces.Space, middle: type[nn.Module] = nn.Identity, **kwargs: Any):
        super().__init__(observation_space, features_dim=8)
        self.net = nn.Sequential(nn.Linear(4, 8), middle(**kwargs), nn.Tanh())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


def names(policy: nn.Module, parameters: Any) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in policy.named_parameters() if id(parameter) in wanted}


def with_extractor(**kwargs: Any) -> dict[str, Any]:
    return {**SMALL, "features_extractor_class": Extractor, **kwargs}


# ------------------------------------------------------------------------------------------ whose parameters are whose


@pytest.mark.parametrize("shared", [True, False])
def test_extractor_parameters_are_the_actors_unless_the_critic_has_its_own(shared: bool) -> None:
    model = collected(BOX, policy_kwargs=with_extractor(share_features_extractor=shared))
    split = split_parameters(model.policy, rollout(model).observations)
    actor, critic = names(model.policy, split.actor), names(model.policy, split.critic)
    assert actor | critic == {name for name, _ in model.policy.named_parameters()}
    assert not actor & critic
    # named_parameters() names a module that is known by two names by the first of them.
    assert {"log_std", "action_net.weight", "features_extractor.net.0.weight"} <= actor
    assert {"value_net.weight", "mlp_extractor.value_net.0.weight"} <= critic
    assert any(name.startswith("vf_features_extractor") for name in critic) is not shared

    before = snapshot(model.policy)
    log, measured = train_measuring_kl(model)
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)
    assert critic <= changed(before, model.policy)


def test_a_trunk_shared_inside_the_mlp_extractor_is_the_actors() -> None:
    class Trunk(nn.Module):
        latent_dim_pi = latent_dim_vf = 8

        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.value_head = nn.Linear(4, 8), nn.Linear(8, 8)

        def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            return self.forward_actor(features), self.forward_critic(features)

        def forward_actor(self, features: th.Tensor) -> th.Tensor:
            return th.tanh(self.trunk(features))

        def forward_critic(self, features: th.Tensor) -> th.Tensor:
            return th.tanh(self.value_head(self.forward_actor(features)))

    class TrunkPolicy(ActorCriticPolicy):
        def _build_mlp_extractor(self) -> None:
            self.mlp_extractor: Any = Trunk()

    model = collected(BOX, policy=TrunkPolicy, policy_kwargs={}, n_critic_updates=3)
    model.rollout_buffer.advantages[:] = 0.0
    before = snapshot(model.policy)
    assert train(model)["trust_region/status"] == "zero_gradient"
    moved = changed(before, model.policy)
    assert not any("trunk" in name for name in moved)
    assert {"mlp_extractor.value_head.weight", "value_net.weight"} <= moved


class ShiftedDistribution(DiagGaussianDistribution):
    """A shift that is not inside the torch distribution, learned, and added by the distribution itself."""

    shift: th.Tensor

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return super().log_prob(actions - self.shift)


class ShiftedPolicy(ActorCriticPolicy):
    def _build(self, lr_schedule: Any) -> None:
        self.shift = nn.Parameter(th.zeros(2))
        super()._build(lr_schedule)
        self.action_dist = ShiftedDistribution(2)

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        distribution: Any = super()._get_action_dist_from_latent(latent_pi)
        distribution.shift = 1.0 * self.shift
        return distribution


def test_what_an_own_distribution_keeps_to_itself_is_the_actors_too() -> None:
    model = collected(BOX, policy=ShiftedPolicy, fisher="empirical", kl_estimator="monte_carlo")
    assert "shift" in names(model.policy, split_parameters(model.policy, rollout(model).observations).actor)
    before = snapshot(model.policy)
    assert train(model)["trust_region/status"] == "accepted"
    assert "shift" in changed(before, model.policy)


def test_frozen_parameters_stay_and_the_others_move() -> None:
    for frozen in ("features_extractor", "action_net", "mlp_extractor.policy_net"):
        for fisher in ("gauss_newton", "kl_hessian", "empirical"):
            model = collected(BOX, policy_kwargs=with_extractor(), fisher=fisher)
            model.policy.get_submodule(frozen).requires_grad_(False)
            before = snapshot(model.policy)
            assert train(model)["trust_region/status"] == "accepted"
            moved = changed(before, model.policy)
            assert "log_std" in moved
            assert not any(name.startswith((frozen, f"pi_{frozen}", f"vf_{frozen}")) for name in moved)


def test_a_frozen_actor_or_critic_leaves_the_other_to_train() -> None:
    model = collected(BOX)
    data = rollout(model)
    split = split_parameters(model.policy, data.observations)
    actor, critic = names(model.policy, split.actor), names(model.policy, split.critic)

    for parameter in split.actor:
        parameter.requires_grad_(False)
    before = snapshot(model.policy)
    log = train(model)
    assert (log["trust_region/status"], log["trust_region/critic_status"]) == ("zero_gradient", "fitted")
    assert changed(before, model.policy) == critic

    for parameter in split.actor:
        parameter.requires_grad_(True)
    for parameter in split.critic:
        parameter.requires_grad_(False)
    before = snapshot(model.policy)
    log = train(collect(model))
    assert (log["trust_region/status"], log["trust_region/critic_status"]) == ("accepted", "no_parameters")
    assert changed(before, model.policy) == actor

    model.policy.requires_grad_(False)
    before = snapshot(model.policy)
    train(collect(model))
    assert changed(before, model.policy) == set()


# ------------------------------------------------------------------------------------------------------------ the critic


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
    critic = names(model.policy, split_parameters(model.policy, rollout(model).observations).critic)
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


# ------------------------------------------------------------------------------------------------------------ observations


@pytest.mark.parametrize(
    ("sub_sampling", "thinning", "fisher", "estimator"),
    [
        (1 + i % 2, 1 + i // 2 % 2, fisher, estimator)
        for i, (fisher, estimator) in enumerate(
            itertools.product(("gauss_newton", "kl_hessian", "empirical"), ("analytic", "monte_carlo"))
        )
    ]
    + [(3, 2, "gauss_newton", "analytic")],
)
def test_dict_observations_with_every_option(sub_sampling: int, thinning: int, fisher: str, estimator: str) -> None:
    model = collected(
        BOX,
        DICT,
        n_steps=32,
        sub_sampling_factor=sub_sampling,
        fisher_sub_sampling_factor=thinning,
        fisher=fisher,
        kl_estimator=estimator,
        kl_reduction="mean" if sub_sampling == 2 else "sum",
        policy_kwargs={**SMALL, "features_extractor_kwargs": {"cnn_output_dim": 8}},
    )
    before = snapshot(model.policy)
    log = train(model)
    assert log["trust_region/status"] == "accepted"
    assert any("extractors.image.cnn.0" in name for name in changed(before, model.policy))


@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_images(space: spaces.Space, shared: bool) -> None:
    kwargs = {"share_features_extractor": shared, "features_extractor_kwargs": {"features_dim": 8}}
    log, measured = train_measuring_kl(collected(space, IMAGE, policy="CnnPolicy", policy_kwargs=kwargs, n_steps=32))
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)


@pytest.mark.parametrize(
    "observation_space", [spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(4)], ids=str
)
def test_discrete_observations(observation_space: spaces.Space) -> None:
    log, measured = train_measuring_kl(collected(DISCRETE, observation_space))
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)


# --------------------------------------------------------------------------------------------- modes: dropout, batch norm


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("middle", "kwargs"), [(nn.Dropout, {"p": 0.5}), (nn.BatchNorm1d, {"num_features": 8})])
def test_nothing_random_or_running_gets_into_the_constraint(middle: Any, kwargs: Any, shared: bool) -> None:
    extractor = {"middle": middle, **kwargs}
    policy_kwargs = with_extractor(features_extractor_kwargs=extractor, share_features_extractor=shared)
    model = collected(BOX, policy_kwargs=policy_kwargs)
    data = rollout(model)
    model.policy.set_training_mode(True)
    with evaluation_mode(model.policy):
        actor = LinearizedActor(model.policy, data.observations, list(model.policy.parameters()))
        problem = SurrogateProblem(actor, data.actions, data.advantages)
        zero_step = problem.evaluate()
    assert (zero_step.kl, zero_step.kl_monte_carlo, zero_step.improvement) == (0.0, 0.0, 0.0)
    assert all(module.training for module in model.policy.modules())

    actor_extractor = model.policy.pi_features_extractor.net[1]
    modes_in_critic_fit: list[bool] = []
    model.policy.value_net.register_forward_hook(lambda *_: modes_in_critic_fit.append(actor_extractor.training))
    running = {name for name, _ in model.policy.named_buffers() if name.startswith(("features", "pi_features"))}
    before = snapshot(model.policy)
    log, measured = train_measuring_kl(model)
    assert log["trust_region/status"] == "accepted"
    assert measured <= 0.01 * (1 + 1e-3)
    assert not running & changed(before, model.policy)
    assert modes_in_critic_fit
    assert not any(modes_in_critic_fit)
    if middle is nn.BatchNorm1d and not shared:
        # The critic's own statistics may run.
        assert "vf_features_extractor.net.1.running_mean" in changed(before, model.policy)


# ------------------------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("case", ["box", "sde", "dict"])
def test_a_model_of_sb3_contrib_loads_predicts_the_same_and_trains_on(case: str, tmp_path: Path) -> None:
    observation_space = DICT if case == "dict" else VECTOR
    theirs = make_model(BOX, observation_space, algorithm=ContribTRPO, use_sde=case == "sde", target_kl=0.02, n_steps=16)
    theirs.learn(32)
    theirs.save(tmp_path / "theirs")

    ours = TRPO.load(tmp_path / "theirs", env=theirs.get_env(), device="cpu")
    assert type(ours) is TRPO
    assert (ours.target_kl, ours.n_steps, ours.kl_reduction, ours.fisher) == (0.02, 16, "sum", "gauss_newton")
    observations = theirs.get_env().reset()
    assert np.array_equal(
        ours.predict(observations, deterministic=True)[0], theirs.predict(observations, deterministic=True)[0]
    )
    theirs_adam = theirs.policy.optimizer.state_dict()["state"]
    ours_adam = ours.policy.optimizer.state_dict()["state"]
    assert theirs_adam.keys() == ours_adam.keys() != set()

    before = snapshot(ours.policy)
    ours.learn(32, reset_num_timesteps=False)
    assert ours.num_timesteps == 64
    assert ours.logger.name_to_value["trust_region/status"] == "accepted"
    assert "action_net.weight" in changed(before, ours.policy)
    assert all_finite(ours.policy)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"use_sde": True, "sde_sample_freq": 8},
        {"policy_kwargs": with_extractor(optimizer_class=th.optim.SGD, optimizer_kwargs={"momentum": 0.9})},
        {"fisher": "empirical", "fisher_sub_sampling_factor": 2, "kl_estimator": "monte_carlo"},
    ],
)
def test_a_resumed_run_continues_bit_for_bit(kwargs: dict[str, Any], tmp_path: Path) -> None:
    """
    Given the random states and the environments, which SB3 does not save, and the observation that they stood at.
    """
    model = make_model(BOX, n_critic_updates=2, learning_rate=lambda progress: 1e-2 * progress, **kwargs)
    model.learn(2 * 128)
    model.save(tmp_path / "model")
    env = copy.deepcopy(model.env)
    random_states = th.get_rng_state(), np.random.get_state()

    def two_more(model: Any) -> tuple[dict[str, th.Tensor], Any]:
        th.set_rng_state(random_states[0])
        np.random.set_state(random_states[1])
        model.learn(2 * 128, reset_num_timesteps=False)
        return snapshot(model.policy), model.policy.optimizer.state_dict()["state"]

    expected, expected_optimizer = two_more(model)
    resumed = TRPO.load(tmp_path / "model", env=env, device="cpu", force_reset=False)
    actual, actual_optimizer = two_more(resumed)
    assert resumed._n_updates == model._n_updates == 4
    assert changed(expected, resumed.policy) == set()
    for parameter, state in expected_optimizer.items():
        for key, value in state.items():
            assert th.equal(th.as_tensor(value), th.as_tensor(actual_optimizer[parameter][key]))
    assert actual.keys() == expected.keys()


def test_what_load_is_asked_for_is_checked_as_what_the_constructor_is(tmp_path: Path) -> None:
    make_model(BOX).save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", device="cpu", fisher="kl_hessian", target_kl=0.05)
    assert (loaded.fisher, loaded.target_kl) == ("kl_hessian", 0.05)
    for wrong in ({"target_kl": -1.0}, {"fisher": "fischer"}, {"kl_reduction": "median"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TRPO.load(tmp_path / "model", device="cpu", **wrong)


def test_statuses_have_distinct_codes() -> None:
    assert len({status.value for status in StepStatus}) == len(StepStatus)
