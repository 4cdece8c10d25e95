"""What a user of Stable-Baselines3 expects of an algorithm: saving, callbacks, logging, environments, spaces, options."""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_trpo_fvp import TRPO, FisherOperator, GaussNewton
from tests.helpers import oracles
from tests.helpers.environments import ACTION_SPACES, OBSERVATION_DIM, Memoryless, unbounded
from tests.helpers.models import DISTRIBUTIONS, model_of
from tests.helpers.training import collect, logged, parameters_of, states_actions_advantages

distributions = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
FISHERS = ("gauss_newton", "kl_hessian", "empirical")
SCALARS = {
    *("beta", "cg_steps", "cg_residual", "fvp_count", "backtracks", "step_fraction", "kl", "kl_monte_carlo"),
    *("predicted_improvement", "actual_improvement", "entropy", "actor_seconds", "critic_seconds"),
}
TRAIN_KEYS = {
    *("policy_objective", "value_loss", "kl_divergence_loss", "explained_variance", "is_line_search_success", "std"),
    "learning_rate",
}


class Recorded(FisherOperator):
    """An operator of a user's own: Gauss-Newton, scaled, that remembers what it was built with."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, policy: Any, observations: Any, actions: Any = None, *, scale: float = 1.0, **kwargs: Any):
        super().__init__(policy, observations, actions, **kwargs)
        self.inner = GaussNewton(policy, observations, actions, **kwargs)
        self.scale = scale
        self.seen.append({"observations": observations.clone(), "actions": actions.clone(), "scale": scale})

    def matvec(self, v: th.Tensor) -> th.Tensor:
        return self.scale * self.inner.matvec(v)


def test_trpo_is_a_direct_subclass_of_the_on_policy_algorithm() -> None:
    assert OnPolicyAlgorithm in TRPO.__bases__


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_action_space_trains_with_every_operator(distribution: str, fisher: str) -> None:
    model = model_of(distribution, fisher=fisher)
    before = parameters_of(model)
    model.learn(2 * 128)
    assert model.num_timesteps == 256
    assert model._n_updates == 2
    after = parameters_of(model)
    assert all(bool(th.isfinite(tensor).all()) for tensor in after.values())
    assert not any(th.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_predict_gives_actions_of_the_space(distribution: str) -> None:
    model = model_of(distribution)
    states = np.random.default_rng(0).standard_normal((7, OBSERVATION_DIM)).astype(np.float32)
    for deterministic in (True, False):
        action, state = model.predict(states[0], deterministic=deterministic)
        assert state is None
        assert model.action_space.contains(action if action.ndim else action.item())
        batch, _ = model.predict(states, deterministic=deterministic)
        assert len(batch) == 7
    once, again = (model.predict(states, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_callbacks_are_called_and_can_stop_the_training(tmp_path: Path) -> None:
    class Counter(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []
            self.statuses: list[Any] = []

        def _on_training_start(self) -> None:
            self.calls.append("training_start")

        def _on_rollout_start(self) -> None:
            self.calls.append("rollout_start")
            self.statuses.append(str(self.logger.name_to_value.get("trust_region/status")))

        def _on_rollout_end(self) -> None:
            self.calls.append("rollout_end")

        def _on_training_end(self) -> None:
            self.calls.append("training_end")

        def _on_step(self) -> bool:
            return self.num_timesteps < 300

    counter = Counter()
    checkpoints = CheckpointCallback(save_freq=64, save_path=str(tmp_path / "checkpoints"))
    evaluation = EvalCallback(
        DummyVecEnv([lambda: Memoryless(unbounded(), ACTION_SPACES["box"])]),
        n_eval_episodes=2,
        eval_freq=64,
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
        warn=False,
    )
    model = model_of().learn(1024, [counter, checkpoints, evaluation], log_interval=100)
    assert model.num_timesteps == 300
    assert counter.calls == ["training_start", *["rollout_start", "rollout_end"] * 2, "rollout_start", "training_end"]
    assert counter.statuses == ["None", "accepted", "accepted"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert (tmp_path / "best" / "best_model.zip").exists()
    TRPO.load(tmp_path / "best" / "best_model", device="cpu")


@pytest.mark.parametrize("distribution", ["gaussian", "categorical"])
def test_every_documented_key_is_logged_and_finite(distribution: str) -> None:
    model = model_of(distribution)
    collect(model)
    model.train()
    log = logged(model)
    assert {f"trust_region/{key}" for key in SCALARS} <= set(log)
    assert {f"train/{key}" for key in TRAIN_KEYS - ({"std"} if distribution == "categorical" else set())} <= set(log)
    assert all(np.isfinite(log[f"trust_region/{key}"]) for key in SCALARS)
    assert log["trust_region/status"] == "accepted"
    assert log["trust_region/cg_status"] in ("converged", "max_steps")
    assert log["trust_region/critic_status"] == "fitted"
    assert log["train/n_updates"] == 1
    assert log["trust_region/actual_improvement"] > 0
    assert log["trust_region/predicted_improvement"] > 0
    assert log["trust_region/actor_seconds"] > 0
    assert log["trust_region/critic_seconds"] > 0


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # As with every on-policy algorithm of SB3, an update is written when the next rollout is complete.
    model_of(tensorboard_log=str(tmp_path)).learn(3 * 128)
    (folder,) = tmp_path.iterdir()
    assert folder.name == "TRPO_FVP_1"
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    codes = {"status", "cg_status", "critic_status"}
    assert {f"trust_region/{key}" for key in SCALARS | codes} <= scalars
    assert {f"train/{key}" for key in TRAIN_KEYS} <= scalars
    assert [event.value for event in events.Scalars("trust_region/status")] == [0.0, 0.0]
    assert [event.step for event in events.Scalars("trust_region/kl")] == [256, 384]


def test_printed_log_names_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    model_of(verbose=1).learn(256)
    printed = capsys.readouterr().out
    assert "trust_region/" in printed
    assert "accepted" in printed


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_the_progress_bar_ends_at_the_last_step(capsys: pytest.CaptureFixture[str]) -> None:
    model_of().learn(128, progress_bar=True)
    assert "128/128" in capsys.readouterr().out


def test_learning_rate_schedule_is_the_critics() -> None:
    seen = []

    class Rates(BaseCallback):
        def _on_rollout_end(self) -> None:
            self.before = parameters_of(self.model)

        def _on_rollout_start(self) -> None:
            rate = self.logger.name_to_value.get("train/learning_rate")
            if rate is not None:
                after, actor = parameters_of(self.model), oracles.actor_parameters(self.model.policy)
                moved = {name for name in after if not th.equal(after[name], self.before[name])}
                seen.append((rate, moved & set(actor) == set(actor), bool(moved - set(actor))))

        def _on_step(self) -> bool:
            return True

    # The critic's rate is 0 from the half on; the actor has none.
    model = model_of(learning_rate=lambda progress: 1e-3 * progress if progress > 0.5 else 0.0)
    model.learn(4 * 128 + 1, Rates(), log_interval=100)
    rates = [rate for rate, _, _ in seen]
    remaining = [1 - k * 128 / 513 for k in range(1, 5)]
    assert rates == pytest.approx([1e-3 * progress if progress > 0.5 else 0.0 for progress in remaining])
    assert all(actor_moved for _, actor_moved, _ in seen)
    assert [critic_moved for _, _, critic_moved in seen] == [True, True, False, False]


def test_several_environments_in_one_process_or_in_several() -> None:
    results = []
    for vec_env_cls in (DummyVecEnv, SubprocVecEnv):
        env = make_vec_env("CartPole-v1", 2, seed=0, vec_env_cls=vec_env_cls)
        try:
            model = TRPO("MlpPolicy", env, n_steps=32, batch_size=64, seed=0, device="cpu").learn(2 * 64)
        finally:
            env.close()
        assert model.num_timesteps == 128
        assert len(model.ep_info_buffer) > 0
        results.append(parameters_of(model))
    assert all(th.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_training_goes_on_with_a_saved_vec_normalize(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, device="cpu").learn(256)
    assert model.get_vec_normalize_env() is env
    assert env.obs_rms.count > 256
    assert float(np.abs(model.rollout_buffer.observations).max()) <= 10.0
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "normalize.pkl"))
    loaded_env = VecNormalize.load(str(tmp_path / "normalize.pkl"), make_vec_env("Pendulum-v1", 2, seed=0))
    TRPO.load(tmp_path / "model", env=loaded_env, device="cpu").learn(128)


@pytest.mark.parametrize("sample_freq", [-1, 4])
@pytest.mark.parametrize(
    "policy_kwargs", [{}, {"full_std": False}, {"use_expln": True}, {"squash_output": True}, {"log_std_init": -2.0}], ids=str
)
def test_every_gsde_option_trains_within_the_bound(policy_kwargs: dict[str, Any], sample_freq: int) -> None:
    model = model_of("gsde", policy_kwargs=policy_kwargs, sde_sample_freq=sample_freq)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    old = oracles.distributions(model.policy, observations)
    model.train()
    assert logged(model)["trust_region/status"] == "accepted"
    assert oracles.joint_kl(old, oracles.distributions(model.policy, observations)) <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {"net_arch": []},
        {"net_arch": [16]},
        {"net_arch": {"pi": [8, 8], "vf": []}},
        {"activation_fn": th.nn.GELU},
        {"activation_fn": th.nn.SiLU},
        {"ortho_init": False},
        {"share_features_extractor": False},
        {"optimizer_class": th.optim.SGD},
        {"normalize_images": False},
    ],
    ids=str,
)
def test_every_kind_of_network_trains_within_the_bound(policy_kwargs: dict[str, Any]) -> None:
    model = model_of("gaussian", policy_kwargs=policy_kwargs)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    old = oracles.distributions(model.policy, observations)
    model.train()
    assert logged(model)["trust_region/status"] == "accepted"
    assert 0.003 < oracles.joint_kl(old, oracles.distributions(model.policy, observations)) <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize(
    ("policy", "space"),
    [
        ("MlpPolicy", spaces.Discrete(5)),
        ("MlpPolicy", spaces.MultiDiscrete([3, 4])),
        ("MlpPolicy", spaces.MultiBinary(4)),
        ("MlpPolicy", spaces.Box(-1.0, 1.0, (2, 3))),
        ("CnnPolicy", spaces.Box(0, 255, (36, 36, 3), np.uint8)),
        ("MultiInputPolicy", spaces.Dict({"vector": spaces.Box(-1.0, 1.0, (3,)), "index": spaces.Discrete(3)})),
    ],
    ids=str,
)
def test_every_observation_space_trains(policy: str, space: spaces.Space) -> None:
    env = DummyVecEnv([lambda: Memoryless(space, ACTION_SPACES["discrete"])])
    kwargs = {"features_extractor_kwargs": {"features_dim": 16}} if policy == "CnnPolicy" else None
    model = TRPO(policy, env, n_steps=32, batch_size=32, n_critic_updates=1, policy_kwargs=kwargs, seed=0, device="cpu")
    collect(model)
    model.train()
    assert logged(model)["trust_region/status"] == "accepted"


def test_own_operator_gets_the_rollout_and_its_own_arguments() -> None:
    Recorded.seen.clear()
    model = model_of("gaussian", fisher=Recorded, fisher_kwargs={"scale": 3.0})
    collect(model)
    observations, actions, _ = states_actions_advantages(model)
    model.train()
    (seen,) = Recorded.seen
    assert seen["scale"] == 3.0
    pairs = [th.cat([o, a], dim=1) for o, a in ((observations, actions), (seen["observations"], seen["actions"]))]
    rows = [pair[np.lexsort(pair.numpy().T)] for pair in pairs]
    assert th.equal(rows[0], rows[1])


def test_own_operator_changes_the_step() -> None:
    """A curvature nine times too large: a third of the length of the step, and a ninth of its KL."""
    kls = {}
    for scale in (1.0, 9.0):
        model = model_of("gaussian", fisher=Recorded, fisher_kwargs={"scale": scale}, cg_damping=0.0, target_kl=1e-3)
        collect(model)
        model.train()
        # Of the full step: the line search may have shortened one whose KL exceeds its quadratic model by a little.
        kls[scale] = logged(model)["trust_region/kl"] / logged(model)["trust_region/step_fraction"] ** 2
    assert kls[1.0] / kls[9.0] == pytest.approx(9.0, rel=0.05)


@pytest.mark.parametrize("factor", [1, 2, 3, 64])
def test_fisher_sub_sampling_thins_the_product_and_nothing_else(factor: int) -> None:
    Recorded.seen.clear()
    model = model_of("gaussian", fisher=Recorded, fisher_sub_sampling_factor=factor, n_critic_updates=0)
    collect(model)
    observations, actions, _ = states_actions_advantages(model)
    old = oracles.distributions(model.policy, observations)
    model.train()
    (seen,) = Recorded.seen
    assert len(seen["observations"]) == len(seen["actions"]) == -(-128 // factor)
    whole = {tuple(row) for row in th.cat([observations, actions], dim=1).tolist()}
    assert {tuple(row) for row in th.cat([seen["observations"], seen["actions"]], dim=1).tolist()} <= whole
    # The line search measures the KL on every state.
    kl = oracles.joint_kl(old, oracles.distributions(model.policy, observations))
    assert logged(model)["trust_region/kl"] == pytest.approx(kl, rel=1e-3)
    if logged(model)["trust_region/status"] == "accepted":
        assert kl <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("factor", [2, 3])
def test_sub_sampling_thins_the_whole_actor_step(factor: int) -> None:
    Recorded.seen.clear()
    model = model_of("gaussian", fisher=Recorded, sub_sampling_factor=factor, fisher_sub_sampling_factor=2)
    collect(model)
    observations, _, _ = states_actions_advantages(model)
    thinned = observations[::factor]
    old = oracles.distributions(model.policy, thinned)
    model.train()
    assert len(Recorded.seen[0]["observations"]) == -(-len(thinned) // 2)
    kl = oracles.joint_kl(old, oracles.distributions(model.policy, thinned))
    assert logged(model)["trust_region/kl"] == pytest.approx(kl, rel=1e-3)


def test_monte_carlo_kl_can_be_the_constraint() -> None:
    model = model_of("gaussian", kl_estimator="monte_carlo", fisher="empirical", n_critic_updates=0)
    collect(model)
    model.train()
    log = logged(model)
    assert log["trust_region/status"] == "accepted"
    assert log["train/kl_divergence_loss"] == log["trust_region/kl_monte_carlo"] <= 0.01


def test_an_environment_is_made_from_its_name() -> None:
    model = TRPO("MlpPolicy", "HalfCheetah-v5", n_steps=256, device="cpu", seed=0)
    assert isinstance(model.get_env().envs[0], gym.Env)
    assert model.learn(512).num_timesteps == 512


@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
@distributions
def test_the_same_seed_gives_the_same_parameters(distribution: str, fisher: str) -> None:
    first, second, other = (parameters_of(model_of(distribution, fisher=fisher, seed=seed).learn(256)) for seed in (7, 7, 8))
    assert all(th.equal(tensor, second[name]) for name, tensor in first.items())
    assert not all(th.equal(tensor, other[name]) for name, tensor in first.items())
