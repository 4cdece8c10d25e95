"""Saving, loading and going on: the same model, bit for bit, sb3-contrib's too."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_fvp import TRPO, GaussNewton
from tests.helpers.environments import ACTION_SPACES, DICT, OBSERVATION_DIM, VECTOR, Memoryless, unbounded
from tests.helpers.models import DISTRIBUTIONS, make_model, model_of, with_extractor
from tests.helpers.training import all_finite, changed, parameters_of, snapshot

BOX = spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_saved_and_loaded_model_is_the_same_and_trains_on(distribution: str, tmp_path: Path) -> None:
    options = {
        "fisher": "empirical",
        "fisher_sub_sampling_factor": 2,
        "cg_residual_tol": 0.01,
        "kl_reduction": "mean",
        "target_kl": 0.02,
        "sub_sampling_factor": 2,
    }
    model = model_of(distribution, **options).learn(128)
    model.save(tmp_path / "model")
    states = np.random.default_rng(0).standard_normal((7, OBSERVATION_DIM)).astype(np.float32)
    loaded = TRPO.load(tmp_path / "model", env=model.env, device="cpu")
    for name, tensor in parameters_of(model).items():
        assert th.equal(parameters_of(loaded)[name], tensor)
    assert {name: getattr(loaded, name) for name in options} == options
    np.testing.assert_array_equal(model.predict(states, deterministic=True)[0], loaded.predict(states, deterministic=True)[0])
    # The critic's optimizer and the counters go with it.
    assert loaded.num_timesteps == 128
    assert loaded.policy.optimizer.state_dict()["state"].keys() == model.policy.optimizer.state_dict()["state"].keys()
    before = parameters_of(loaded)
    loaded.learn(128, reset_num_timesteps=False)
    assert loaded.num_timesteps == 256
    assert any(not th.equal(tensor, before[name]) for name, tensor in parameters_of(loaded).items())


def test_a_model_loaded_without_an_environment_trains_once_it_has_one(tmp_path: Path) -> None:
    model_of().save(tmp_path / "model")
    model = TRPO.load(tmp_path / "model", device="cpu")
    assert model.predict(np.zeros(OBSERVATION_DIM, np.float32))[0].shape == (3,)
    model.set_env(DummyVecEnv([lambda: Memoryless(unbounded(), ACTION_SPACES["box"])] * 2))
    model.learn(128)


class Scaled(GaussNewton):
    """An operator of a user's own, with an argument of its own."""

    def __init__(self, *args: Any, scale: float = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scale = scale

    def matvec(self, v: th.Tensor) -> th.Tensor:
        return self.scale * super().matvec(v)


def test_model_with_an_own_operator_is_saved_and_loaded(tmp_path: Path) -> None:
    model_of(fisher=Scaled, fisher_kwargs={"scale": 2.0}).save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model_of().env, device="cpu")
    assert loaded.fisher is Scaled
    assert loaded.fisher_kwargs == {"scale": 2.0}
    loaded.learn(128)


def test_set_parameters_makes_two_models_one(tmp_path: Path) -> None:
    one, other = model_of(seed=1).learn(128), model_of(seed=2)
    assert not all(th.equal(tensor, parameters_of(other)[name]) for name, tensor in parameters_of(one).items())
    other.set_parameters(one.get_parameters())
    assert all(th.equal(tensor, parameters_of(other)[name]) for name, tensor in parameters_of(one).items())
    one.save(tmp_path / "model")
    third = model_of(seed=3)
    third.set_parameters(str(tmp_path / "model"), device="cpu")
    assert all(th.equal(tensor, parameters_of(third)[name]) for name, tensor in parameters_of(one).items())


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
    assert str(ours.logger.name_to_value["trust_region/status"]) == "accepted"
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


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TRPO("MlpPolicy", gym.make("CartPole-v1"), n_steps=32, batch_size=32, device="cpu")
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()

    def fail(model: TRPO, path: Path, *_: Any) -> None:
        path.write_bytes(b"half a checkpoint")
        msg = "disk full"
        raise OSError(msg)

    monkeypatch.setattr(OnPolicyAlgorithm, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
