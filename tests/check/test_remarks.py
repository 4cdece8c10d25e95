"""No remark means right: wrong operators, families and states get a fault, approximations are told what they are worth."""

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_fvp import TRPO, FisherOperator, FisherReport, check_fisher, check_model_file
from sb3_trpo_fvp.check import StateSource
from sb3_trpo_fvp.check.check import main
from sb3_trpo_fvp.check.measure import measure_step
from sb3_trpo_fvp.check.states import find_normalization, was_trained_normalized
from sb3_trpo_fvp.distributions.lookup import _REGISTERED
from tests.check.test_measure import Matrix
from tests.helpers.distributions import LaplaceDistribution, LaplaceFamily, policy_with
from tests.helpers.models import SMALL
from tests.helpers.training import collected

BOX = spaces.Box(-1.0, 1.0, (2,))
UNIT = spaces.Box(0.0, 1.0, (2,))


class Identity(FisherOperator):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return v.clone()


class DeclaredIdentity(Identity):
    is_exact = False


def test_the_identity_is_no_fisher_matrix() -> None:
    report = check_fisher(collected(BOX, fisher=Identity))
    (fault,) = report.faults
    assert fault.startswith("Identity is not as an operator must be: equal to the Fisher matrix: cosine 0.")
    assert "is_exact = False" in fault
    assert f"! {fault}" in str(report)


def test_an_approximation_is_told_what_its_step_is_worth() -> None:
    """The plain gradient's step, against formulas of this test's own on the dense matrix."""
    damping = 0.01
    model = collected(BOX, fisher=DeclaredIdentity, cg_damping=damping, policy_kwargs={"net_arch": {"pi": [2], "vf": [2]}})
    report = check_fisher(model, lanczos_steps=60)
    assert report.faults == ()
    operator = next(operator for operator in report.operators if operator.name == "DeclaredIdentity")
    (said,) = (advice for advice in report.advice if advice.startswith("DeclaredIdentity"))
    assert f"cosine {operator.cosine:.4f}" in said
    assert f"{operator.step.efficiency:.2f} times the improvement" in said
    # s is parallel to g: sᵀFs / sᵀs is a mean of eigenvalues, weighted by what g has of each.
    assert 0.0 < operator.step.kl_ratio < report.operators[0].largest_ritz
    assert 0.1 < operator.step.efficiency < 1.0


def test_the_worth_of_a_step_by_the_dense_matrix() -> None:
    th.manual_seed(0)
    exact = th.diag(th.tensor([0.1, 1.0, 10.0], dtype=th.float64))
    other = th.diag(th.tensor([0.2, 1.0, 5.0], dtype=th.float64))
    g = th.randn(3, dtype=th.float64)
    step = measure_step(Matrix(other), Matrix(exact), g, 0.01, 10)
    s, best = (th.linalg.solve(f + 0.01 * th.eye(3, dtype=th.float64), g) for f in (other, exact))
    efficiency = (g @ s / (s @ exact @ s).sqrt()) / (g @ best / (best @ exact @ best).sqrt())
    assert step.efficiency == pytest.approx(float(efficiency), rel=1e-2)
    assert step.kl_ratio == pytest.approx(float(s @ exact @ s / (s @ other @ s)), rel=1e-2)
    assert measure_step(Matrix(-other), Matrix(exact), g, 0.01, 10) is None


@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian"])
def test_a_kl_that_autograd_gets_wrong_is_no_alarm_unless_it_is_used(fisher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_REGISTERED, LaplaceDistribution, LaplaceFamily())
    report = check_fisher(collected(UNIT, policy=policy_with(LaplaceDistribution), fisher=fisher))
    assert report.reference == "gauss_newton"
    said = report.advice if fisher == "gauss_newton" else report.faults
    assert sum("kink" in sentence for sentence in (*report.advice, *report.faults)) == 1
    assert any("kink" in sentence for sentence in said)
    assert report.faults == (() if fisher == "gauss_newton" else said)
    cosines = {operator.name: operator.cosine for operator in report.operators}
    assert cosines["gauss_newton"] == pytest.approx(1.0)
    assert cosines["kl_hessian"] < 0.999


def test_a_family_wrong_in_both_ways_has_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(LaplaceFamily):
        """Autograd cannot differentiate its KL twice, and its Fisher matrix is another."""

        def fisher(self, phi: Any) -> Any:
            return lambda u: tuple(2.0 * tangent / phi[1].square() for tangent in u)

    monkeypatch.setitem(_REGISTERED, LaplaceDistribution, Wrong())
    report = check_fisher(collected(UNIT, policy=policy_with(LaplaceDistribution)))
    assert any("Neither gauss_newton nor kl_hessian" in fault for fault in report.faults)


# States that are normalised as in training


def normalized_model(folder: Path) -> tuple[TRPO, VecNormalize]:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, policy_kwargs=SMALL, device="cpu", seed=0).learn(64)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "Pendulum-v1")
    return model, env


def title(report: FisherReport) -> str:
    return str(report).splitlines()[0]


@pytest.mark.parametrize("layout", ["vecnormalize.pkl", "Pendulum-v1/vecnormalize.pkl"])
def test_statistics_beside_the_model_are_applied(layout: str, tmp_path: Path) -> None:
    """In the model's own folder, and where RL-Zoo leaves them."""
    _, env = normalized_model(tmp_path)
    path, file = str(tmp_path / "Pendulum-v1.zip"), tmp_path / layout
    file.parent.mkdir(exist_ok=True)
    env.save(str(file))
    for env_id, source in (("Pendulum-v1", StateSource.ENVIRONMENT), (None, StateSource.OBSERVATION_SPACE)):
        report = check_model_file(path, env_id, num_states=50, device="cpu")
        assert report.source is source
        assert report.normalization == str(file)
        assert f"normalised by {file}" in title(report)
        assert report.faults == ()
    raw = check_model_file(path, "Pendulum-v1", num_states=50, device="cpu").operators[0].largest_ritz
    file.unlink()
    assert check_model_file(path, "Pendulum-v1", num_states=50, device="cpu").operators[0].largest_ritz != raw


def test_a_checkpoint_has_statistics_of_its_own(tmp_path: Path) -> None:
    for name in ("rl_model_1000_steps.zip", "rl_model_vecnormalize_1000_steps.pkl", "vecnormalize.pkl"):
        (tmp_path / name).touch()
    assert find_normalization(str(tmp_path / "rl_model_1000_steps.zip")) == tmp_path / "rl_model_vecnormalize_1000_steps.pkl"
    assert find_normalization(str(tmp_path / "rl_model_1000_steps")) == tmp_path / "rl_model_vecnormalize_1000_steps.pkl"
    assert find_normalization(str(tmp_path / "rl_model_2000_steps.zip")) == tmp_path / "vecnormalize.pkl"
    assert find_normalization(str(tmp_path / "elsewhere" / "model.zip")) is None


CONFIGS = {
    "- - - n_envs\n    - 1\n  - - normalize\n    - true\n  - - policy\n    - MlpPolicy\n": True,
    "- - - normalize\n    - '{''norm_obs'': True, ''norm_reward'': False}'\n": True,
    "- - - normalize\n    - '{''norm_obs'': False, ''norm_reward'': True}'\n": False,
    "- - - normalize\n    - false\n": False,
    "- - - normalize_advantage\n    - true\n": False,
    "normalize: true\n": True,
}


@pytest.mark.parametrize("text", CONFIGS)
def test_normalisation_is_read_from_the_runs_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "Pendulum-v1").mkdir()
    (tmp_path / "Pendulum-v1" / "config.yml").write_text(f"!!python/object/apply:collections.OrderedDict\n{text}")
    assert was_trained_normalized(str(tmp_path / "best_model.zip")) is CONFIGS[text]


def test_statistics_that_are_gone_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    normalized_model(tmp_path)
    (tmp_path / "Pendulum-v1").mkdir()
    (tmp_path / "Pendulum-v1" / "config.yml").write_text(next(iter(CONFIGS)))
    arguments = [str(tmp_path / "Pendulum-v1.zip"), "--env", "Pendulum-v1", "--num-states", "50", "--device", "cpu"]
    assert main(arguments) == 1
    assert "! The states are not normalised" in capsys.readouterr().out


def test_given_states_before_their_normalisation_are_a_fault(tmp_path: Path) -> None:
    model, env = normalized_model(tmp_path)
    raw = env.unnormalize_obs(model.rollout_buffer.observations.reshape(-1, 3))
    assert any("not normalised" in fault for fault in check_fisher(model, raw.astype(np.float32)).faults)
    assert check_fisher(model, env.normalize_obs(raw).astype(np.float32)).faults == ()


def test_checking_is_no_training_of_the_statistics(tmp_path: Path) -> None:
    model, env = normalized_model(tmp_path)
    model.rollout_buffer.reset()
    before = pickle.dumps(env.obs_rms)
    report = check_fisher(model, num_states=20)
    assert report.source is StateSource.ENVIRONMENT
    assert report.normalization == "the environment's VecNormalize"
    assert pickle.dumps(env.obs_rms) == before
    assert env.training


def test_statistics_of_something_else_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    normalized_model(tmp_path)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps([1, 2]))
    arguments = [str(tmp_path / "Pendulum-v1.zip"), "--env", "Pendulum-v1", "--vec-normalize", str(tmp_path / "other.pkl")]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "must be a file of VecNormalize.save" in capsys.readouterr().err
    VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")])).save(str(tmp_path / "other.pkl"))
    with pytest.raises(SystemExit):
        main(arguments)
    assert "must have statistics of the model's observations" in capsys.readouterr().err
    with pytest.raises(ValueError, match="must have statistics of the model's observations"):
        check_model_file(arguments[0], vec_normalize=arguments[-1])


def test_every_promise_of_an_operator_is_on_the_page_about_own_ones() -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-operators.md").read_text()
    rows = {name.strip() for row in page.splitlines() if row.startswith("|") for name in row.split("|")[1].split(",")}
    findings = check_fisher(collected(BOX)).operators[0].findings
    assert {finding.promise for finding in findings} <= rows
