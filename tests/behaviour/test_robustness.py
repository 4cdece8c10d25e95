"""Numbers that go wrong end in a named outcome: parameters finite and restored, nothing replaced by zero in silence."""

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_fvp import TRPO, FisherOperator, GaussNewton, StepStatus
from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.distributed import ALONE
from sb3_trpo_fvp.distributions import without_validation
from sb3_trpo_fvp.policies import split_parameters
from sb3_trpo_fvp.trust_region import Evaluation, SurrogateProblem, trust_region_step
from tests.helpers.environments import VECTOR, Memoryless
from tests.helpers.models import SMALL, forbid_stacks, make_model
from tests.helpers.training import all_finite, changed, collect, collected, rollout, snapshot, train

BOX = spaces.Box(-1.0, 1.0, (2,))
DISCRETE = spaces.Discrete(3)
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])


def train_refused(model: Any, status: str, match: str | None = None) -> dict[str, Any]:
    """Train; the actor must be left bit for bit as it was, under this status, with this warning or none."""
    actor = split_parameters(model.policy, th.zeros_like(rollout(model).observations)).actor
    before = [parameter.detach().clone() for parameter in actor]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = train(model)
    messages = [str(warning.message) for warning in caught]
    assert log["trust_region/status"] == status, log
    assert all(map(th.equal, before, actor))
    assert log["train/is_line_search_success"] == 0.0
    assert log["trust_region/step_fraction"] == 0.0
    assert any(match in message for message in messages) if match else not messages
    return log


# ------------------------------------------------------------------------------------------- rewards, advantages, observations


class Spoiled(Memoryless):
    """The rewards of the steps from ``first`` to ``last`` are bad."""

    def __init__(self, bad: float, first: int, last: int):
        super().__init__(VECTOR, BOX)
        self.bad, self.spoiled, self.count = bad, range(first, last), 0

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self.count += 1
        return observation, self.bad if self.count in self.spoiled else reward, terminated, truncated, info


@BAD
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, in SB3's return computation and explained variance
def test_bad_rewards_skip_the_updates_that_see_them_and_no_other(bad: float) -> None:
    env = DummyVecEnv([lambda: Spoiled(bad, 70, 140)])
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, policy_kwargs=SMALL, seed=0, device="cpu")
    statuses: list[tuple[str, str]] = []
    weights: list[dict[str, th.Tensor]] = []
    original = model.train

    def spy() -> None:
        original()
        log = model.logger.name_to_value
        statuses.append((str(log["trust_region/status"]), str(log["trust_region/critic_status"])))
        weights.append(snapshot(model.policy))

    model.train = spy  # type: ignore[method-assign]
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        model.learn(5 * 64)
    refused = ("nonfinite_advantages", "nonfinite_returns")
    assert statuses == [("accepted", "fitted"), refused, refused, ("accepted", "fitted"), ("accepted", "fitted")]
    assert changed(weights[0], model.policy) != set()
    assert all(th.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert all_finite(model.policy)
    messages = [str(warning.message) for warning in caught if "TRPO update" in str(warning.message)]
    assert len(messages) == 2, "one warning for each thing to look at, not one for each update"
    assert all("reward" in message or "returns" in message for message in messages)


def spoiled_in_one(bad: float, n_envs: int = 3, last: int = 72) -> VecNormalize:
    """Normalised; the second environment's rewards of the 71st step, and of those up to ``last``, are bad."""
    envs = [lambda index=index: Spoiled(bad if index == 1 else 1.0, 71, last) for index in range(n_envs)]
    return VecNormalize(DummyVecEnv(envs))


@BAD
@pytest.mark.parametrize("written_out", [True, False])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_one_bad_reward_behind_a_normaliser_costs_one_update(bad: float, written_out: bool, tmp_path: Path) -> None:
    env = spoiled_in_one(bad)
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, policy_kwargs=SMALL, seed=0, device="cpu")
    if not written_out:
        forbid_stacks(model.policy)
    checkpoints = CheckpointCallback(1, str(tmp_path), save_vecnormalize=True)
    checkpoints._on_step = lambda: env.save(tmp_path / "at_once.pkl") or True if checkpoints.n_calls == 71 else True
    statuses: list[str] = []
    rows: list[Any] = []
    original = model.train

    def spy() -> None:
        original()
        log = model.logger.name_to_value
        statuses.append(str(log["trust_region/status"]))
        rows.append(model.nonfinite_rewards)

    model.train = spy  # type: ignore[method-assign]
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        model.learn(5 * 64 * 3, callback=checkpoints)
    assert [status == "accepted" for status in statuses] == [True, False, True, True, True]
    assert rows == [0, 1, 1, 1, 1]
    told = [str(warning.message) for warning in caught if "rewards of the environment" in str(warning.message)]
    assert len(told) == 1
    assert "NaN or infinity in 1 rewards" in told[0]
    assert model.skipped_updates == 0
    assert not model.has_stopped_learning
    env.save(tmp_path / "at_the_end.pkl")
    for name in ("at_once.pkl", "at_the_end.pkl"):
        saved = VecNormalize.load(tmp_path / name, env.venv)
        assert np.isfinite([saved.ret_rms.mean, saved.ret_rms.var, *saved.obs_rms.mean, *saved.obs_rms.var]).all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_run_whose_updates_are_skipped_in_a_row_says_so_at_the_end() -> None:
    env = spoiled_in_one(math.nan, last=10**6)
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, policy_kwargs=SMALL, seed=0, device="cpu")
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        model.learn(5 * 64 * 3)
    last = str(caught[-1].message)
    assert last.startswith("THE RUN HAS STOPPED LEARNING: of 5 TRPO updates the last 4 were skipped")
    assert model.skipped_updates == 4
    assert model.has_stopped_learning
    assert model.nonfinite_rewards == 5 * 64 - 70


def test_a_normaliser_that_is_spoiled_already_is_refused_before_any_training() -> None:
    env = spoiled_in_one(math.nan)
    env.ret_rms.var = np.float64(math.nan)
    with pytest.raises(ValueError, match="`env` must be a VecNormalize with finite statistics, got NaN"):
        TRPO("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu").learn(64)


def test_the_learning_rate_of_the_last_update_is_not_negative() -> None:
    rates = []
    model = make_model(BOX, learning_rate=lambda progress: progress * 1e-3)
    original = model.train

    def spy() -> None:
        original()
        rates.append(model.logger.name_to_value["train/learning_rate"])

    model.train = spy
    model.learn(200)  # two rollouts of 128 steps
    assert rates == [pytest.approx(0.36e-3), 0.0]


def test_the_next_run_warns_again() -> None:
    model = collected(BOX)
    for _ in range(2):
        model._warned = set()  # as learn() does
        model.rollout_buffer.advantages[:] = math.nan
        train_refused(model, "nonfinite_advantages", "look at the environment's rewards")
        model.rollout_buffer.advantages[:] = math.nan
        train_refused(model, "nonfinite_advantages")
        collect(model)


@BAD
@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=str)
def test_bad_observations_are_named_and_nothing_moves(bad: float, fisher: str, space: spaces.Space) -> None:
    for where in (0, 7):
        model = collected(space, fisher=fisher)
        model.rollout_buffer.observations[where, 0, 0] = bad
        before = snapshot(model.policy)
        log = train_refused(model, "nonfinite_observations", "observations")
        assert log["trust_region/critic_status"] == "nonfinite_observations"
        assert changed(before, model.policy) == set()


def test_there_is_no_action_for_an_observation_that_is_not_a_number() -> None:
    """An environment that returns NaN ends the run at once, by torch's own error, with the policy as it was."""

    class Broken(Memoryless):
        def _observe(self) -> Any:
            return super()._observe() * (math.nan if self.steps == 5 else 1.0)

    env = DummyVecEnv([lambda: Broken(VECTOR, BOX)])
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, policy_kwargs=SMALL, device="cpu")
    before = snapshot(model.policy)
    with pytest.raises(ValueError, match=r"NaN|nan"):
        model.learn(64)
    assert changed(before, model.policy) == set()


@BAD
def test_bad_advantages_without_normalisation_leave_the_actor_alone(bad: float) -> None:
    model = collected(BOX, normalize_advantage=False)
    model.rollout_buffer.advantages[3, 1] = bad
    log = train_refused(model, "nonfinite_advantages", "rewards")
    assert log["trust_region/critic_status"] == "fitted"


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7e5, 1e-30])
def test_constant_advantages_are_no_signal(constant: float) -> None:
    """0.1 has no exact mean: what rounding leaves of the differences must not be scaled up to a step."""
    model = collected(BOX, n_steps=100, batch_size=200)
    model.rollout_buffer.advantages[:] = constant
    log = train_refused(model, "zero_gradient")
    assert log["trust_region/fvp_count"] == 0


@pytest.mark.parametrize("exponent", [-60, 60, 100])
def test_the_step_does_not_depend_on_the_unit_of_the_reward(exponent: int) -> None:
    """A power of two changes no digit: the actor's step is the same to the last bit."""
    steps = []
    for scale in (1.0, 2.0**exponent):
        model = collected(BOX, normalize_advantage=False)
        model.rollout_buffer.advantages *= np.float32(scale)
        log = train(model)
        assert log["trust_region/status"] == "accepted"
        assert log["trust_region/predicted_improvement"] > 0.0
        steps.append((log["trust_region/cg_residual"], snapshot(model.policy)["action_net.weight"]))
    assert steps[0][0] == pytest.approx(steps[1][0]) != 0.0
    assert th.equal(steps[0][1], steps[1][1])


# ----------------------------------------------------------------------------------------------------------- the distribution


@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
@pytest.mark.parametrize("log_std", [-200.0, -60.0, -30.0, -10.0, 10.0, 30.0, 60.0, 200.0])
def test_policies_from_deterministic_to_boundless_stay_finite(fisher: str, log_std: float) -> None:
    """Whatever σ is, the update is taken within its bound or refused under a name; the policy stays finite."""
    model = collected(BOX, fisher=fisher)
    with th.no_grad():
        model.policy.log_std.fill_(log_std)
    before = snapshot(model.policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        log = train(model)
    assert all_finite(model.policy)
    if log["trust_region/status"] != "accepted":
        assert not {"log_std", "action_net.weight"} & changed(before, model.policy)
    else:
        assert 0.0 <= log["trust_region/kl"] <= 0.01
    if abs(log_std) >= 100:
        assert log["trust_region/status"].startswith("nonfinite")


@pytest.mark.parametrize("space", [DISCRETE, spaces.MultiBinary(3), spaces.MultiDiscrete([2, 3])], ids=str)
@pytest.mark.parametrize("logit", [1e2, 1e6, 1e38])
def test_saturated_discrete_policies_stay_finite_and_within_the_bound(space: spaces.Space, logit: float) -> None:
    model = collected(space)
    with th.no_grad():
        model.policy.action_net.bias[0] = logit
    before = snapshot(model.policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        log = train(model)
    assert all_finite(model.policy)
    assert log["trust_region/status"] != "accepted" or log["trust_region/kl"] <= 0.01
    if log["trust_region/status"] != "accepted":
        assert "action_net.weight" not in changed(before, model.policy)


# --------------------------------------------------------------------------------------------------------------- the curvature


class Matrix(FisherOperator):
    """An operator of one's own, by what it does to the elements of a vector."""

    def __init__(self, *args: Any, diagonal: Any = None, spoil_after: int | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.diagonal = diagonal(self.shape[0])
        self.products, self.spoil_after = 0, spoil_after

    def matvec(self, v: th.Tensor) -> th.Tensor:
        self.products += 1
        spoiled = self.spoil_after is not None and self.products > self.spoil_after
        return self.diagonal * v * (math.nan if spoiled else 1.0)


def own_curvature(diagonal: Any, spoil_after: int | None = None, **kwargs: Any) -> Any:
    fisher_kwargs = {"diagonal": diagonal, "spoil_after": spoil_after}
    return collected(BOX, fisher=Matrix, fisher_kwargs=fisher_kwargs, cg_residual_tol=0.0, **kwargs)


@pytest.mark.parametrize("value", [0.0, -1.0, -1e-12])
def test_no_curvature_or_negative_curvature_everywhere_is_refused(value: float) -> None:
    train_refused(own_curvature(lambda n: th.full((n,), value), cg_damping=0.0), "nonpositive_curvature", "cg_damping")


def test_negative_curvature_met_on_the_way_shortens_the_solve() -> None:
    model = own_curvature(lambda n: th.linspace(-0.02, 1.0, n), cg_damping=0.0, cg_max_steps=50)
    log = train(model)
    assert log["trust_region/cg_status"] == "nonpositive_curvature"
    assert log["trust_region/cg_steps"] > 0
    assert all_finite(model.policy)
    assert log["trust_region/kl"] <= 0.01


def test_nan_in_the_first_product_refuses_the_step_and_later_ones_end_the_solve() -> None:
    train_refused(own_curvature(lambda n: th.ones(n), spoil_after=0), "nonfinite_curvature", "close to deterministic")
    model = own_curvature(lambda n: th.linspace(0.1, 1.0, n), spoil_after=3)
    log = train(model)
    assert (log["trust_region/cg_status"], log["trust_region/cg_steps"]) == ("nonfinite", 3)
    assert log["trust_region/status"] == "accepted"
    assert all_finite(model.policy)


def test_an_ill_conditioned_matrix_of_single_precision_keeps_the_bound() -> None:
    model = own_curvature(lambda n: th.logspace(-12, 6, n), cg_damping=0.0, cg_max_steps=100, line_search_max_iter=60)
    log = train(model)
    assert all_finite(model.policy)
    assert log["trust_region/kl"] <= 0.01


def test_a_step_that_overflows_is_shortened_and_not_raised() -> None:
    """Next to no curvature: β is astronomic, the first tries make NaN of the network, which torch would raise an error for."""
    tiny = {"diagonal": lambda n: th.full((n,), 1e-36)}
    kwargs: dict[str, Any] = {"fisher": Matrix, "fisher_kwargs": tiny, "cg_damping": 0.0, "line_search_shrinking_factor": 0.5}
    train_refused(collected(BOX, line_search_max_iter=5, **kwargs), "line_search_failed")
    model = collected(BOX, line_search_max_iter=200, **kwargs)
    log = train(model)
    assert log["trust_region/status"] == "accepted"
    assert log["trust_region/backtracks"] > 40
    assert 0.0 < log["trust_region/kl"] <= 0.01
    assert all_finite(model.policy)


def test_infinite_weights_that_saturation_hides_are_refused() -> None:
    """tanh(∞) = 1 is finite, and so are surrogate and KL."""

    class Saturated:
        kl_scale, old_objective, old_entropy, comm = 1.0, 0.0, 0.0, ALONE

        def gradient(self) -> th.Tensor:
            return th.ones(1)

        def evaluate(self) -> Evaluation:
            return Evaluation(improvement=1.0, kl=0.0, kl_monte_carlo=0.0, constraint=0.0, entropy=0.0)

    class Identity:
        parameters = (th.nn.Parameter(th.full((1,), 3e38)),)
        observations = th.zeros(1, 1)

        def matvec(self, v: th.Tensor) -> th.Tensor:
            return v

    problem: Any = Saturated()
    operator: Any = Identity()
    options: dict[str, Any] = {
        "target_kl": 1e76,
        "damping": 0.0,
        "cg_max_steps": 1,
        "cg_residual_tol": 0.0,
        "precondition": False,
    }
    stats = trust_region_step(problem, operator, shrinking_factor=0.5, max_iterations=5, **options)
    assert stats.status is StepStatus.ACCEPTED
    assert stats.backtracks == 2
    assert 3e38 < operator.parameters[0].item() < math.inf


# ---------------------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("at", [1, 3])
def test_an_interruption_leaves_the_old_parameters(
    error: type[BaseException], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = collected(BOX, target_kl=1e6, line_search_shrinking_factor=0.99, cg_damping=1e-4)
    model.policy.set_training_mode(True)
    before = snapshot(model.policy)
    calls = []
    evaluate = SurrogateProblem.evaluate

    def interrupted(self: SurrogateProblem) -> Any:
        calls.append(changed(before, model.policy))
        if len(calls) == at:
            raise error
        return evaluate(self)

    monkeypatch.setattr(SurrogateProblem, "evaluate", interrupted)
    with pytest.raises(error):
        model.train()
    assert len(calls) == at
    assert "log_std" in calls[-1], "the parameters of the trial were in place when it was interrupted"
    assert changed(before, model.policy) == set()
    assert all(module.training for module in model.policy.modules())
    assert th.distributions.Distribution._validate_args is __debug__


@pytest.mark.parametrize("critic", ["adam", "gauss_newton"])
def test_an_interrupted_critic_fit_leaves_critic_and_optimizer_as_they_were(
    critic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a fit that diverges, and of a Gauss-Newton trial."""
    model = collected(BOX, critic=critic, learning_rate=1e30)
    optimizer = model.policy.optimizer
    model.policy.predict_values(th.zeros(1, 4)).sum().backward()
    with th.no_grad():
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
    optimizer.zero_grad()
    model.rollout_buffer.advantages[:] = 0.0
    before, state = snapshot(model.policy), copy.deepcopy(optimizer.state_dict()["state"])
    calls: list[set[str]] = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(changed(before, model.policy))
        if calls[-1]:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    if critic == "adam":
        original = type(optimizer).step
        monkeypatch.setattr(type(optimizer), "step", interrupted)
    else:
        original = ValueFunction.__call__
        monkeypatch.setattr(ValueFunction, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.train()
    assert calls[-1], "the critic had moved when it was interrupted"
    assert changed(before, model.policy) == set()
    after = optimizer.state_dict()["state"]
    assert state.keys() == after.keys()
    assert all(th.equal(value, after[key][name]) for key in state for name, value in state[key].items())
    assert all(parameter.grad is None for parameter in model.policy.parameters())


def test_an_overflow_in_adams_second_moment_is_undone_and_the_next_fit_moves_the_critic() -> None:
    """One observation of 1e12: values, loss and parameters stay finite, the square of the gradient does not."""
    model = collected(BOX, policy_kwargs={**SMALL, "activation_fn": th.nn.ReLU})
    train(model)
    collect(model)
    model.rollout_buffer.observations[3, 1] = 1e12
    model.rollout_buffer.advantages[:] = 0.0
    before = snapshot(model.policy)
    with pytest.warns(UserWarning, match="diverged"):
        log = train(model)
    assert log["trust_region/critic_status"] == "diverged"
    assert math.isfinite(log["train/value_loss"])
    assert changed(before, model.policy) == set()
    states = model.policy.optimizer.state_dict()["state"].values()
    assert all(bool(th.isfinite(value).all()) for state in states for value in state.values())
    collect(model)
    assert train(model)["trust_region/critic_status"] == "fitted"
    assert "value_net.weight" in changed(before, model.policy)


def test_an_optimizer_state_that_is_infinite_already_is_forgotten() -> None:
    """As files of earlier versions may hold one."""
    model = collected(BOX)
    train(model)
    for state in model.policy.optimizer.state.values():
        state["exp_avg_sq"].fill_(math.inf)
    statuses = []
    for _ in range(2):
        collect(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statuses.append(train(model)["trust_region/critic_status"])
    assert statuses == ["diverged", "fitted"]


def test_an_operator_that_raises_leaves_everything_as_it_was() -> None:
    class Raises(GaussNewton):
        def matvec(self, v: th.Tensor) -> th.Tensor:
            msg = "out of memory"
            raise RuntimeError(msg)

    model = collected(BOX, fisher=Raises)
    before = snapshot(model.policy)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.train()
    assert changed(before, model.policy) == set()


def test_the_choice_of_validation_is_given_back() -> None:
    default = th.distributions.Distribution._validate_args
    try:
        for choice in (True, False):
            th.distributions.Distribution.set_default_validate_args(choice)
            train(collected(BOX))
            assert th.distributions.Distribution._validate_args is choice
    finally:
        th.distributions.Distribution.set_default_validate_args(default)


def test_threads_that_learn_at_the_same_time_leave_the_choice_of_validation() -> None:
    default = th.distributions.Distribution._validate_args
    first, second = without_validation(), without_validation()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert th.distributions.Distribution._validate_args is False, "the second is still inside"
    second.__exit__(None, None, None)
    assert th.distributions.Distribution._validate_args is default


# ---------------------------------------------------------------------------------------------------------- the log


def test_a_refused_update_logs_finite_numbers() -> None:
    """What is logged for an update that was refused is finite, but for what was not computed."""
    model = make_model(BOX, n_critic_updates=0)
    collect(model)
    model.rollout_buffer.advantages[:] = 0.0
    log = train_refused(model, "zero_gradient")
    numbers = {key: value for key, value in log.items() if not isinstance(value, str)}
    unknown = {key for key, value in numbers.items() if not math.isfinite(value)}
    assert unknown <= {"train/value_loss", "trust_region/gradient_cosine"}
