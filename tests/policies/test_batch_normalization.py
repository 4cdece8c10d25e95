"""Batch normalisation on the way to the action: its statistics move with the step, within its bound, or not at all."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_fvp import TRPO, StepStatus
from sb3_trpo_fvp.distributed import Communicator
from sb3_trpo_fvp.policies import split_parameters
from sb3_trpo_fvp.policies.batch_normalization import statistics_step
from sb3_trpo_fvp.trust_region import SurrogateProblem
from tests.behaviour.test_robustness import Matrix
from tests.helpers.models import SMALL, make_model
from tests.helpers.training import changed, collect, rollout, snapshot, train, train_measuring_kl

BOX = spaces.Box(-1.0, 1.0, (2,))
LARGE = spaces.Box(200.0, 1000.0, (4,))
SHARED = pytest.mark.parametrize("share", [True, False], ids=["shared", "own"])
CRITICS = pytest.mark.parametrize("critic", ["adam", "gauss_newton"])


class FlattenBatchNormDropout(BaseFeaturesExtractor):
    """SB3's own test has this one."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, 4)
        self.batch_norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.dropout(self.batch_norm(observations))


def normalized(share: bool = True, **kwargs: Any) -> Any:
    policy_kwargs = {
        **SMALL,
        "features_extractor_class": FlattenBatchNormDropout,
        "share_features_extractor": share,
    }
    return make_model(BOX, LARGE, policy_kwargs=policy_kwargs, **kwargs)


def statistics(policy: Any) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.named_buffers()}


@SHARED
@CRITICS
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_the_scenario_of_sb3s_own_test(env_id: str, share: bool, critic: str) -> None:
    """tests/test_train_eval_mode.py, test_a2c_ppo_train_with_batch_norm."""

    class Extractor(FlattenBatchNormDropout):
        def __init__(self, observation_space: spaces.Box):
            super().__init__(observation_space)
            self._features_dim = observation_space.shape[0]
            self.batch_norm = nn.BatchNorm1d(self._features_dim)

    policy_kwargs = {"net_arch": [16, 16], "features_extractor_class": Extractor, "share_features_extractor": share}
    model = TRPO(
        "MlpPolicy", env_id, policy_kwargs=policy_kwargs, n_steps=100, batch_size=100, critic=critic, seed=1, device="cpu"
    )
    norm = model.policy.features_extractor.batch_norm
    before = norm.bias.clone(), norm.running_mean.clone()
    model.learn(200)
    assert not th.isclose(before[0], norm.bias).any()
    assert not th.isclose(before[1], norm.running_mean).any()
    after = statistics(model.policy)
    observation = model.env.reset()
    first, _ = model.predict(observation, deterministic=True)
    for _ in range(5):
        np.testing.assert_allclose(model.predict(observation, deterministic=True)[0], first)
    assert all(th.equal(tensor, after[name]) for name, tensor in model.policy.named_buffers())


@SHARED
@CRITICS
def test_the_bound_holds_for_parameters_and_statistics_together(share: bool, critic: str) -> None:
    model = normalized(share, critic=critic)
    norm = model.policy.pi_features_extractor.batch_norm
    for update in range(1, 6):
        collect(model)
        before = norm.running_mean.clone()
        log, kl = train_measuring_kl(model)
        assert log["trust_region/status"] == "accepted"
        assert kl == pytest.approx(log["trust_region/kl"], rel=1e-3)
        assert 0.0 < kl <= 0.01 * (1 + 1e-6)
        assert not th.isclose(before, norm.running_mean).any()
        assert norm.num_batches_tracked == update
    assert norm.running_mean.sub(600.0).abs().max() < 60.0, "observations are normalised in earnest"
    own = model.policy.vf_features_extractor.batch_norm
    assert own.running_mean.sub(600.0).abs().max() < 200.0


def test_the_first_refreshment_takes_the_rollouts_statistics_over_and_later_ones_average() -> None:
    model = collect(normalized())
    policy, data = model.policy, rollout(model).observations
    modules = split_parameters(policy, data).actor_modules
    before = snapshot(policy)
    for count in (0, 1, 2, 50):
        policy.features_extractor.batch_norm.num_batches_tracked.fill_(count)
        step = statistics_step(policy, modules, data, policy.get_distribution)
        assert step is not None
        weight = max(0.1, 1.0 / (count + 1))
        th.testing.assert_close(step.new[0], weight * data.mean(0))
        th.testing.assert_close(step.new[1], (1 - weight) + weight * data.var(0), rtol=1e-4, atol=0.0)
    policy.features_extractor.batch_norm.num_batches_tracked.fill_(0)
    assert changed(before, policy) == set()
    assert policy.features_extractor.batch_norm.momentum == 0.1


def test_ranks_take_the_statistics_of_all_states() -> None:
    model = collect(normalized())
    policy, data = model.policy, rollout(model).observations.double().float()
    modules = split_parameters(policy, data).actor_modules

    class Recorded(Communicator):
        def mean(self, tensors: Any, count: int) -> Any:
            self.sent = list(tensors), count
            return list(tensors)

    other = Recorded()
    statistics_step(policy, modules, data[:30], policy.get_distribution, other)

    class Pair(Communicator):
        def mean(self, tensors: Any, count: int) -> Any:
            theirs, their_count = other.sent
            return [(a * count + b * their_count) / (count + their_count) for a, b in zip(tensors, theirs, strict=True)]

    ours = statistics_step(policy, modules, data[30:], policy.get_distribution, Pair())
    whole = statistics_step(policy, modules, data, policy.get_distribution)
    for one, all_of_them in zip(ours.new, whole.new, strict=True):
        th.testing.assert_close(one, all_of_them, rtol=0.02, atol=0.0)  # torch's variances divide by n - 1 on each rank


@SHARED
def test_a_refused_step_leaves_the_statistics_bit_for_bit(share: bool) -> None:
    fisher_kwargs = {"diagonal": lambda n: th.full((n,), 1e-36)}
    refused = {"fisher": Matrix, "fisher_kwargs": fisher_kwargs, "cg_damping": 0.0, "line_search_max_iter": 3}
    model = collect(normalized(share, **refused))
    buffers = {id(buffer) for buffer in model.policy.pi_features_extractor.buffers()}
    names = {name for name, buffer in model.policy.named_buffers() if id(buffer) in buffers}
    before = snapshot(model.policy)
    assert train(model)["trust_region/status"] == "line_search_failed"
    assert names
    assert not names & changed(before, model.policy)


def test_an_interruption_leaves_the_statistics_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = collect(normalized())
    before = snapshot(model.policy)
    moved: list[set[str]] = []

    def interrupted(self: SurrogateProblem) -> Any:
        moved.append(changed(before, model.policy))
        raise KeyboardInterrupt

    monkeypatch.setattr(SurrogateProblem, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.train()
    assert any("running_mean" in name for name in moved[0])
    assert changed(before, model.policy) == set()


def test_where_the_statistics_cannot_move_within_the_bound_the_parameters_move_alone() -> None:
    """Observations far from the last ones: with the new statistics, no step that is tried keeps a bound this small."""
    model = collect(normalized(target_kl=1e-7, line_search_max_iter=2))
    model.policy.action_net.weight.data *= 1000.0
    before = statistics(model.policy)
    log = train(model)
    assert log["trust_region/status"] == StepStatus.ACCEPTED.label
    assert log["trust_region/kl"] <= 1e-7
    assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.named_buffers())


def test_a_critic_fit_that_diverges_leaves_its_own_statistics() -> None:
    model = collect(normalized(share=False, learning_rate=1e38))
    model.rollout_buffer.advantages[:] = 0.0
    before = snapshot(model.policy)
    with pytest.warns(UserWarning, match="diverged"):
        assert train(model)["trust_region/critic_status"] == "diverged"
    assert changed(before, model.policy) == set()
