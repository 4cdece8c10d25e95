"""``check_fisher``: what it measures, what it says, and that it leaves everything alone."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_trpo_fvp
from sb3_trpo_fvp import TRPO, GaussNewton, check_fisher, fisher_operator
from sb3_trpo_fvp.check.check import main
from sb3_trpo_fvp.check.contracts import failures
from sb3_trpo_fvp.check.measure import OperatorReport
from sb3_trpo_fvp.check.report import FisherReport
from sb3_trpo_fvp.check.states import StateSource
from sb3_trpo_fvp.distributions import NormalFamily
from tests.helpers.distributions import MixtureDistribution, policy_with
from tests.helpers.environments import DICT, IMAGE
from tests.helpers.models import SMALL, make_model
from tests.helpers.training import collected, rollout, snapshot

BOX = spaces.Box(-1.0, 1.0, (2,))


def by_name(report: FisherReport) -> dict[str, OperatorReport]:
    return {operator.name: operator for operator in report.operators}


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)], ids=str)
def test_the_exact_operators_agree_and_nothing_is_wrong(space: spaces.Space) -> None:
    report = check_fisher(collected(space))
    operators = by_name(report)
    assert list(operators) == ["kl_hessian", "gauss_newton", "empirical"]
    assert operators["gauss_newton"].relative_error < 1e-4
    assert operators["gauss_newton"].cosine > 1 - 1e-6
    assert report.faults == ()
    assert all(operator.is_fisher and operator.seconds > 0 for operator in report.operators)
    assert report.source is StateSource.ROLLOUT_BUFFER
    assert report.num_states == 128


def test_the_numbers_are_those_of_the_matrix() -> None:
    """Cosine, error and Ritz values against the dense matrices."""
    model = collected(BOX, policy_kwargs={"net_arch": {"pi": [2], "vf": [2]}})
    report = by_name(check_fisher(model, lanczos_steps=100))
    data = rollout(model)
    dense = fisher_operator(model.policy, data.observations, kind="kl_hessian").to_dense().double()
    eigenvalues = th.linalg.eigvalsh(dense)
    for name in ("kl_hessian", "gauss_newton"):
        assert report[name].largest_ritz == pytest.approx(float(eigenvalues[-1]), rel=1e-4)
        assert abs(report[name].smallest_ritz) < 1e-3 * float(eigenvalues[-1])
    assert 0.5 < report["empirical"].cosine < 0.9999


def test_a_family_whose_fisher_is_not_the_hessian_of_its_kl_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NormalFamily, "fisher", lambda self, phi: lambda u: (u[0] / phi[1] ** 2, u[1] / phi[1] ** 2))
    report = check_fisher(collected(BOX))
    assert any("`fisher` of the distribution's family is not the Hessian" in fault for fault in report.faults)
    assert "gauss_newton is wrong, kl_hessian is right" in str(report)
    assert report.reference == "kl_hessian"


def test_an_own_operator_is_compared_too() -> None:
    class Halved(GaussNewton):
        def matvec(self, v: th.Tensor) -> th.Tensor:
            return 0.5 * super().matvec(v)

    report = check_fisher(collected(BOX, fisher=Halved))
    halved = by_name(report)["Halved"]
    assert halved.relative_error == pytest.approx(0.5, rel=1e-4)
    assert halved.cosine == pytest.approx(1.0)
    assert [finding.promise for finding in failures(halved.findings)] == ["equal to the Fisher matrix"]
    assert len(report.faults) == 1
    assert "Halved" in report.faults[0]


def test_a_policy_without_a_kl_is_told_what_is_left() -> None:
    model = collected(BOX, policy=policy_with(MixtureDistribution), fisher="empirical", kl_estimator="monte_carlo")
    report = check_fisher(model)
    operators = by_name(report)
    assert "register_family" in operators["kl_hessian"].problem
    assert operators["empirical"].problem == ""
    assert operators["empirical"].is_fisher
    assert math.isnan(operators["empirical"].cosine)
    assert "register_family" in str(report)


@pytest.mark.parametrize("case", ["gsde", "squashed", "dict", "image", "ppo", "contrib"])
def test_any_actor_critic_model_can_be_checked_and_is_left_alone(case: str) -> None:
    kwargs: dict[str, Any] = {}
    observation_space: Any = {"dict": DICT, "image": IMAGE}.get(case, spaces.Box(-1.0, 1.0, (4,)))
    if case in ("gsde", "squashed"):
        kwargs = {"use_sde": True, "policy_kwargs": {**SMALL, "squash_output": case == "squashed"}}
    if case == "image":
        kwargs = {"policy": "CnnPolicy", "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}}
    if case == "ppo":
        kwargs = {"algorithm": lambda *a, n_critic_updates, cg_damping, **k: PPO(*a, **k)}
    if case == "contrib":
        kwargs = {"algorithm": ContribTRPO}
    model = collected(BOX, observation_space, n_steps=32, **kwargs)
    model.policy.set_training_mode(True)
    before = snapshot(model.policy)
    noise = getattr(model.policy.action_dist, "exploration_mat", None)
    states = th.get_rng_state(), np.random.get_state()[1].tolist()
    report = check_fisher(model)
    assert report.faults == ()
    assert report.num_states == 64
    assert by_name(report)["gauss_newton"].relative_error < 1e-3
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())
    assert getattr(model.policy.action_dist, "exploration_mat", None) is noise
    assert th.equal(states[0], th.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()
    assert all(module.training for module in model.policy.modules())


def test_states_come_from_where_they_are() -> None:
    model = make_model(BOX)
    assert check_fisher(model, num_states=10).source is StateSource.ENVIRONMENT
    given = check_fisher(model, np.zeros((5, 4), np.float32))
    assert (given.source, given.num_states) == (StateSource.GIVEN, 5)
    model.env = None
    drawn = check_fisher(model, num_states=10)
    assert (drawn.source, drawn.num_states) == (StateSource.OBSERVATION_SPACE, 10)
    assert any("pass an environment" in advice for advice in drawn.advice)


def test_training_goes_on_after_a_check() -> None:
    model = make_model(BOX)
    model.learn(128)
    check_fisher(model)
    model.learn(128, reset_num_timesteps=False)
    model.rollout_buffer.reset()
    check_fisher(model)
    model.learn(128, reset_num_timesteps=False)
    assert model.num_timesteps == 3 * 128


def test_wrong_arguments_are_named() -> None:
    model = make_model(BOX)
    for name, value in (("num_states", 1), ("num_vectors", 1), ("lanczos_steps", 0)):
        with pytest.raises(ValueError, match=rf"`{name}` must be in \[\d, ∞\), got {value}"):
            check_fisher(model, **{name: value})
    with pytest.raises(ValueError, match="`observations` must be finite"):
        check_fisher(model, np.full((3, 4), np.nan, np.float32))


def test_damping_is_put_into_relation_to_the_curvature() -> None:
    for damping, words in ((1e3, "close to the plain gradient"), (1e-9, "barely damped")):
        report = check_fisher(collected(BOX, cg_damping=damping))
        assert any(words in advice for advice in report.advice)


def test_the_command_prints_a_table_of_states_from_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, policy_kwargs=SMALL, device="cpu").learn(64)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    arguments = [str(tmp_path / "model.zip"), "--num-states", "50", "--device", "cpu"]
    assert main(arguments) == 0
    assert "50 states drawn from the observation space" in capsys.readouterr().out
    assert main([*arguments, "--env", "Pendulum-v1", "--vec-normalize", str(tmp_path / "vecnormalize.pkl")]) == 0
    out = capsys.readouterr().out
    assert "50 states met in the environment" in out
    table = [line for line in out.splitlines() if line.startswith(("operator", "kl_hessian", "gauss_newton", "empirical"))]
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1, "columns are aligned"


@pytest.mark.parametrize(
    "arguments", [["missing.zip"], ["model.zip", "--env", "Missing-v0"], ["model.zip", "--num-states", "1"], []]
)
def test_the_command_says_what_it_could_not_do(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(BOX).save("model.zip")
    with pytest.raises(SystemExit) as exit_code:
        main(arguments)
    assert exit_code.value.code == 2
    assert "sb3-trpo-fvp check: error:" in capsys.readouterr().err


def test_check_fisher_is_public() -> None:
    assert {"check_fisher", "check_model_file", "FisherReport", "OperatorReport"} <= set(sb3_trpo_fvp.__all__)
