"""The measurements that both algorithms get from outside."""

import copy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.logger import configure

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.zoo.callbacks import RunRecorder, TrustRegionMonitor, joint_kl

DISCRETE = spaces.Discrete(3)
BOX = spaces.Box(-1.0, 1.0, (3,))
VECTOR = spaces.Box(-1.0, 1.0, (4,))
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1.0, 1.0, (2,))})


class Noise(gym.Env[object, object]):
    """Random observations and rewards."""

    def __init__(self, observation_space: spaces.Space[object], action_space: spaces.Space[object]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[object, dict[str, object]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed if seed is not None else 0)
        return self.observation_space.sample(), {}

    def step(self, action: object) -> tuple[object, float, bool, bool, dict[str, object]]:
        return self.observation_space.sample(), float(np.sum(action)) + self.np_random.normal(), False, False, {}


class Records(BaseCallback):
    """Keeps what is logged under a key, before the algorithm's next rollout, by the algorithm and by the monitor."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.values: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.key in self.logger.name_to_value:
            self.values.append(self.logger.name_to_value[self.key])

    _on_training_end = _on_rollout_start


def learned(
    cls: type[TRPO] | type[sb3_contrib.TRPO], callback: list[BaseCallback], **options: object
) -> TRPO | sb3_contrib.TRPO:
    spec = {"observation_space": VECTOR, "action_space": BOX, "policy": "MlpPolicy", **options}
    env = Noise(spec.pop("observation_space"), spec.pop("action_space"))  # type: ignore[arg-type]
    model = cls(env=env, n_steps=64, batch_size=32, n_critic_updates=1, seed=0, device="cpu", **spec)  # type: ignore[arg-type]
    model.learn(192, callback=callback)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_sde": True},
        {"action_space": DISCRETE},
        {"action_space": spaces.MultiDiscrete([2, 3])},
        {"action_space": spaces.MultiBinary(4)},
        {"observation_space": DICT, "policy": "MultiInputPolicy"},
    ],
    ids=["box", "gsde", "discrete", "multi_discrete", "multi_binary", "dict"],
)
def test_the_measured_kl_is_the_one_the_algorithm_reports(options: dict[str, object]) -> None:
    reported, measured = Records("trust_region/kl"), Records("trust_region/kl")
    learned(TRPO, [reported, TrustRegionMonitor(), measured], **options)
    assert len(measured.values) == 3
    assert min(measured.values) > 1e-4
    assert measured.values == pytest.approx(reported.values, rel=1e-3)


def test_sb3_contribs_joint_kl_exceeds_its_bound_in_proportion_to_the_action() -> None:
    joint, own = Records("trust_region/kl"), Records("train/kl_divergence_loss")
    learned(sb3_contrib.TRPO, [TrustRegionMonitor(), joint, own])
    ratios = np.array(joint.values) / np.array(own.values)
    assert len(ratios) == 3
    # Its own number is an average over the 3 dimensions (and new before old, which moves a small KL little).
    np.testing.assert_allclose(ratios, 3.0, rtol=0.15)


@pytest.mark.parametrize("cap", [1, 3])
def test_sb3_contribs_cg_steps_are_counted(cap: int) -> None:
    steps = Records("trust_region/cg_steps")
    model = learned(sb3_contrib.TRPO, [TrustRegionMonitor(), steps], cg_max_steps=cap)
    assert steps.values == 3 * [cap]
    assert "hessian_vector_product" not in vars(model)


@pytest.mark.parametrize("cls", [TRPO, sb3_contrib.TRPO])
def test_measuring_changes_nothing(cls: type[TRPO] | type[sb3_contrib.TRPO]) -> None:
    alone, measured = learned(cls, []), learned(cls, [TrustRegionMonitor()])
    for a, b in zip(alone.policy.parameters(), measured.policy.parameters(), strict=True):
        assert th.equal(a, b)


def test_joint_kl_against_values_summed_by_hand() -> None:
    def pair(distribution: object, *arguments: tuple[th.Tensor, ...]) -> float:
        old, new = (copy.copy(distribution.proba_distribution(*each)) for each in arguments)  # type: ignore[attr-defined]
        return joint_kl(old, new)

    zeros, ones = th.zeros(5, 2), th.ones(5, 2)
    # N(0, 1) to N(1, e): log σ' + (1 + 1) / 2σ'² − ½ in each of two dimensions
    assert pair(DiagGaussianDistribution(2), (zeros, zeros), (ones, ones)) == pytest.approx(2 * (1 + np.exp(-2) - 0.5))
    even = th.zeros(5, 4)
    skewed = th.log(th.tensor([[0.9, 0.1, 0.9, 0.1]])).expand(5, 4)
    one = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert pair(MultiCategoricalDistribution([2, 2]), (even,), (skewed,)) == pytest.approx(2 * one, rel=1e-5)
    assert pair(CategoricalDistribution(2), (even[:, :2],), (skewed[:, :2],)) == pytest.approx(one, rel=1e-5)
    logit = th.full((5, 3), float(np.log(0.9 / 0.1)))
    assert pair(BernoulliDistribution(3), (th.zeros(5, 3),), (logit,)) == pytest.approx(3 * one, rel=1e-5)


def test_the_progress_is_reported_and_callbacks_are_timed_apart(tmp_path: Path) -> None:
    class Slow(BaseCallback):
        def _on_step(self) -> bool:
            clock[0] += 1.0
            return True

    clock = [0.0]
    progress = tmp_path / "progress"
    recorder = RunRecorder([Slow()], tmp_path, progress)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_trpo_fvp.zoo.callbacks.time.perf_counter", lambda: clock[0])
        model = TRPO("MlpPolicy", Noise(VECTOR, BOX), n_steps=64, batch_size=32, device="cpu")
        model.set_logger(configure(None, []))
        model.learn(128, callback=[recorder])
    assert progress.read_text() == "128 128"
    # The clock stands still but for the callback: all 128 seconds are its own.
    assert recorder._callback_seconds[0] == 128.0
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"time/learn_seconds", "time/learn_cpu_seconds", "time/callback_seconds"} <= set(header)
