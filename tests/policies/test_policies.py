"""Every policy that SB3 can build, and what users build on it: whose parameters are whose, modes, optimizers, saving."""

import itertools
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.policies import evaluation_mode, split_parameters
from sb3_trpo_fvp.trust_region import SurrogateProblem
from tests.helpers.environments import DICT, IMAGE
from tests.helpers.models import SMALL, with_extractor
from tests.helpers.training import changed, collect, collected, names_of, rollout, snapshot, train, train_measuring_kl

BOX = spaces.Box(-1.0, 1.0, (2,))
DISCRETE = spaces.Discrete(3)


# ------------------------------------------------------------------------------------------ whose parameters are whose


@pytest.mark.parametrize("shared", [True, False])
def test_extractor_parameters_are_the_actors_unless_the_critic_has_its_own(shared: bool) -> None:
    model = collected(BOX, policy_kwargs=with_extractor(share_features_extractor=shared))
    split = split_parameters(model.policy, rollout(model).observations)
    actor, critic = names_of(model.policy, split.actor), names_of(model.policy, split.critic)
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
    assert "shift" in names_of(model.policy, split_parameters(model.policy, rollout(model).observations).actor)
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
    actor, critic = names_of(model.policy, split.actor), names_of(model.policy, split.critic)

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
def test_dict_observations_train_with_every_option(sub_sampling: int, thinning: int, fisher: str, estimator: str) -> None:
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
def test_images_train_within_the_bound(space: spaces.Space, shared: bool) -> None:
    kwargs = {"share_features_extractor": shared, "features_extractor_kwargs": {"features_dim": 8}}
    log, measured = train_measuring_kl(collected(space, IMAGE, policy="CnnPolicy", policy_kwargs=kwargs, n_steps=32))
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)


@pytest.mark.parametrize(
    "observation_space", [spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(4)], ids=str
)
def test_discrete_observations_train_within_the_bound(observation_space: spaces.Space) -> None:
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
    # The step moves running statistics within the bound, and the critic's fit leaves them (test_batch_normalization.py).
    assert running & changed(before, model.policy) == running
    assert modes_in_critic_fit
    assert not any(modes_in_critic_fit)
    if middle is nn.BatchNorm1d and not shared:
        # The critic's own statistics may run.
        assert "vf_features_extractor.net.1.running_mean" in changed(before, model.policy)
