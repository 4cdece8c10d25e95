"""Data-parallel training, in processes that are really started; alone, nothing of it is imported."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.critic import adam
from sb3_trpo_fvp.distributed import RankFailure, communicator
from sb3_trpo_fvp.distributed.agreement import checksum, odd_ones_out
from sb3_trpo_fvp.distributed.callbacks import GlobalProgressBar, callback_of_rank
from sb3_trpo_fvp.distributed.communicator import Communicator
from sb3_trpo_fvp.distributed.launch import TIMEOUT_VARIABLE, timeout
from sb3_trpo_fvp.distributed.statistics import merge_running_statistics, pooled_moments, window
from sb3_trpo_fvp.linalg.vectors import flatten
from sb3_trpo_fvp.zoo.ranks import arguments_of_rank
from tests.conftest import DoubleFlatten

N_ENVS, N_STEPS = 8, 64
SPLITS = {
    "gauss_newton": (4, 4),
    "kl_hessian": (4, 4),
    "empirical": (4, 4),
    "unequal": (3, 5),
    "thinned": (4, 4),
    "gauss_newton_critic": (3, 5),
    "written_out": (3, 5),
    "averaged_minibatches": (3, 5),
}
SINGLE = {"written_out", "averaged_minibatches"}
"""Cases of a plain policy in single precision, which takes the shorter ways: layers written out, the preconditioner."""
PER_RANK = 2


# ----------------------------------------------------------------------------------------------- starting processes
def _enter(function: Callable[..., Any], rank: int, world_size: int, folder: Path, seconds: float, args: tuple[Any, ...]):
    """Join a gloo group, call ``function`` and leave its result, or the exception, in the folder."""
    import torch.distributed as dist

    from sb3_trpo_fvp.distributed import roll_call

    th.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    roll_call.GRACE_SECONDS = 6.0
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size, timeout=timedelta(seconds=seconds)
    )
    try:
        result = function(rank, *args)
    except Exception as error:
        result = error
    (folder / f"{rank}.partial").write_bytes(pickle.dumps(result))
    (folder / f"{rank}.partial").rename(folder / f"{rank}.result")


def run_ranks(function: Callable[..., Any], world_size: int, folder: Path, *args: Any, seconds: float = 60.0) -> list[Any]:
    """Call ``function(rank, *args)`` in new processes of one group; a rank that leaves no result has None."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sb3_trpo_fvp.distributed.process_group", "stable_baselines3.common.env_util"])
    processes = [
        context.Process(target=_enter, args=(function, rank, world_size, folder, seconds, args), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    results = [folder / f"{rank}.result" for rank in range(world_size)]
    deadline = time.monotonic() + 90
    # A rank that is meant to hang is ended as soon as the others are done.
    while time.monotonic() < deadline and sum(process.is_alive() for process in processes) > 0:
        if sum(path.exists() for path in results) >= world_size - 1:
            for process in processes:
                process.join(5)
            break
        time.sleep(0.05)
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
    return [pickle.loads(path.read_bytes()) if path.exists() else None for path in results]


def _unharmed(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


# --------------------------------------------------------------------------------------------------------- exactness
def _options(case: str, batch_size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": batch_size, "n_critic_updates": 4, "device": "cpu", "seed": 0}
    if case in SINGLE:
        return options
    options["policy_kwargs"] = {"features_extractor_class": DoubleFlatten}
    if case == "thinned":
        return {**options, "sub_sampling_factor": 2, "fisher_sub_sampling_factor": 2}
    if case == "gauss_newton_critic":
        return {**options, "critic": "gauss_newton"}
    return {**options, "fisher": "gauss_newton" if case == "unequal" else case}


def _train_on(model: TRPO, rollout: dict[str, Any], single: bool = False) -> dict[str, Any]:
    """Do one update on a given rollout from given parameters, and tell what came of it."""
    model.policy.to(th.float32 if single else th.float64).load_state_dict(rollout["policy"])
    before = flatten(list(model.policy.parameters())).detach().clone()
    model.rollout_buffer.reset()
    for key, value in rollout["buffer"].items():
        setattr(model.rollout_buffer, key, value.copy())
    model.rollout_buffer.full = True
    model.train()
    logged = {key: value for key, value in model.logger.name_to_value.items() if "seconds" not in key}
    return {"step": flatten(list(model.policy.parameters())).detach() - before, "logged": logged}


def _exactness_rank(rank: int, rollout: dict[str, Any]) -> dict[str, Any]:
    outcomes = {}
    few = adam.MOST_RANKS
    for case, split in SPLITS.items():
        # The others bring all states together, since a rank fits so small a critic sooner than it sends a message.
        adam.MOST_RANKS = 1 if case == "averaged_minibatches" else few
        env = make_vec_env("Pendulum-v1", n_envs=split[rank])
        model = TRPO("MlpPolicy", env, **_options(case, batch_size=N_STEPS * split[rank]))
        model._setup_learn(1)
        own = slice(sum(split[:rank]), sum(split[: rank + 1]))
        buffer = {key: value[:, own] for key, value in rollout["buffer"].items()}
        outcomes[case] = _train_on(model, {**rollout, "buffer": buffer}, case in SINGLE)
    if rank == 1:
        buffer["advantages"] = np.full_like(buffer["advantages"], np.nan)
        buffer["returns"] = np.full_like(buffer["returns"], np.nan)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        outcomes["nan_on_rank_1"] = _train_on(model, {**rollout, "buffer": buffer}, case in SINGLE)
    return outcomes


@pytest.fixture(scope="module")
def exactness(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One update of 1 process with 8 environments, and of 2 ranks that share them, on the same rollout."""
    env = make_vec_env("Pendulum-v1", n_envs=N_ENVS, seed=0)
    model = TRPO("MlpPolicy", env, **_options("gauss_newton", N_STEPS * N_ENVS))
    _, callback = model._setup_learn(N_STEPS * N_ENVS)
    model.policy.double()
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, N_STEPS)
    keys = ("observations", "actions", "advantages", "returns", "values", "log_probs", "rewards", "episode_starts")
    rollout = {
        "policy": {key: value.clone() for key, value in model.policy.state_dict().items()},
        "buffer": {key: getattr(model.rollout_buffer, key).copy() for key in keys},
    }
    alone = {}
    for case in SPLITS:
        model = TRPO("MlpPolicy", env, **_options(case, N_STEPS * N_ENVS))
        model._setup_learn(1)
        alone[case] = _train_on(model, rollout, case in SINGLE)
    return alone, _unharmed(run_ranks(_exactness_rank, 2, tmp_path_factory.mktemp("exactness") / "ranks", rollout))


@pytest.mark.parametrize("case", SPLITS)
def test_two_ranks_take_the_step_of_one_process(exactness: Any, case: str) -> None:
    alone, ranks = exactness
    expected = alone[case]["step"]
    assert expected.norm() > 0
    for rank in ranks:
        # Sums in another order: rounding, times the condition of the problem.
        error = (rank[case]["step"] - expected).norm() / expected.norm()
        assert error < (5e4 if case in SINGLE else 1e5) * th.finfo(expected.dtype).eps, error
    assert th.equal(ranks[0][case]["step"], ranks[1][case]["step"])


@pytest.mark.parametrize("case", SPLITS)
def test_two_ranks_log_the_numbers_of_one_process(exactness: Any, case: str) -> None:
    alone, ranks = exactness
    for key, expected in alone[case]["logged"].items():
        if isinstance(expected, str):
            assert ranks[0][case]["logged"][key] == expected, key
        else:
            # The buffer's values and returns are single precision, and SB3's explained variance is computed in it.
            tolerance = 1e-4 if key == "train/explained_variance" else 5e-3 if case in SINGLE else 1e-7
            assert ranks[0][case]["logged"][key] == pytest.approx(expected, rel=tolerance, abs=1e-9), key
    assert ranks[0][case]["logged"]["distributed/world_size"] == 2


def test_a_small_critic_is_fitted_without_a_message_a_minibatch(exactness: Any) -> None:
    """Bringing the states together takes 10 messages; averaging them takes 2 and one for each of the 4 minibatches."""
    together, averaged = (exactness[1][0][case]["logged"] for case in ("written_out", "averaged_minibatches"))
    assert together["distributed/messages"] - averaged["distributed/messages"] == 10 - (2 + 4)


def test_what_is_not_finite_on_one_rank_stops_the_update_of_all(exactness: Any) -> None:
    for rank in exactness[1]:
        outcome = rank["nan_on_rank_1"]
        assert outcome["step"].count_nonzero() == 0
        assert outcome["logged"]["trust_region/status"] == "nonfinite_advantages"
        assert outcome["logged"]["trust_region/critic_status"] == "nonfinite_returns"


# ------------------------------------------------------------------------------------------------------------- learn
class Recorder(VecEnvWrapper):
    """Keeps every observation that the environments give, before it is normalised, in double precision."""

    def __init__(self, venv: Any):
        super().__init__(venv)
        self.seen: list[np.ndarray] = []

    def reset(self) -> Any:
        observations = self.venv.reset().astype(np.float64)
        self.seen.append(observations.copy())
        return observations

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        observations = observations.astype(np.float64)
        self.seen.append(observations.copy())
        return observations, rewards, dones, infos


class Everywhere(BaseCallback):
    """Called on each rank; does something on one of them, after the given number of calls."""

    every_rank = True

    def __init__(self, rank: int = -1, calls: int = 10, action: Callable[[TRPO], Any] = lambda model: None):
        super().__init__()
        self.rank, self.calls, self.action = rank, calls, action

    def _on_step(self) -> bool:
        if self.n_calls == self.calls and communicator().rank == self.rank:
            return self.action(self.model) is not False
        return True


def _model(rank: int = 0, **options: Any) -> TRPO:
    env = VecNormalize(Recorder(make_vec_env("CartPole-v1", n_envs=PER_RANK, seed=0)))
    return TRPO("MlpPolicy", env, n_steps=32, batch_size=64, n_critic_updates=2, device="cpu", **{"seed": 5, **options})


def _state(model: TRPO) -> dict[str, Any]:
    normalizer = model.get_vec_normalize_env()
    return {
        "policy": checksum(model.policy),
        "optimizer": [value.tolist() for state in model.policy.optimizer.state.values() for value in state.values()],
        "num_timesteps": model.num_timesteps,
        "observations": normalizer.obs_rms,
        "returns": normalizer.ret_rms,
        "seen": np.concatenate(normalizer.venv.seen),
        "episodes": list(model.ep_info_buffer),
    }


def _spoil(model: TRPO) -> None:
    with th.no_grad():
        model.policy.value_net.bias += 1e-6


def _failure(call: Callable[[], Any]) -> str:
    try:
        call()
    except RankFailure as error:
        return str(error)
    return ""


def _learning_rank(rank: int, folder: Path) -> dict[str, Any]:
    model = _model(verbose=1 if rank == 0 else 0)
    initial = checksum(model.policy)
    everywhere = Everywhere()
    model.learn(4 * 32 * PER_RANK * 2, callback=[CheckpointCallback(32, str(folder / "checkpoints")), everywhere])
    outcome = {"initial": initial, "after": _state(model), "calls": everywhere.n_calls}
    outcome["silent"] = model.logger.output_formats == []
    model.save(folder / "model")

    resumed = TRPO.load(folder / "model", env=_model().env) if rank == 0 else _model()
    resumed.learn(32 * PER_RANK * 2, reset_num_timesteps=False)
    outcome["resumed"] = _state(resumed)

    stopped = _model()
    stopped.learn(10_000, callback=Everywhere(1, 40, lambda _: False))
    outcome["stopped"] = stopped.num_timesteps
    outcome["unlike"] = _failure(lambda: _model(cg_max_steps=10 + rank).learn(1))
    outcome["spoiled"] = _failure(lambda: _model().learn(1000, callback=Everywhere(1, 10, _spoil)))
    return outcome


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("learn")
    return _unharmed(run_ranks(_learning_rank, 2, folder / "ranks", folder)), folder


def test_ranks_start_alike_and_stay_alike(learned: Any) -> None:
    first, second = learned[0]
    assert first["initial"] != second["initial"], "the ranks' own seeds would have given different networks"
    for key in ("policy", "optimizer", "num_timesteps", "episodes"):
        assert first["after"][key] == second["after"][key], key
    assert first["after"]["num_timesteps"] == 4 * 32 * PER_RANK * 2
    assert not np.isclose(first["after"]["seen"][:PER_RANK], second["after"]["seen"][:PER_RANK]).any()


def test_running_statistics_have_seen_every_rank_once(learned: Any) -> None:
    ranks = [rank["after"] for rank in learned[0]]
    seen = np.concatenate([rank["seen"] for rank in ranks])
    prior = RunningMeanStd(shape=seen.shape[1:])
    prior.update(seen)
    steps = ranks[0]["num_timesteps"]
    for rank in ranks:
        # The first reset comes after the ranks have agreed, and counts.
        assert rank["observations"].count == pytest.approx(steps + 2 * PER_RANK, abs=1e-3)
        np.testing.assert_allclose(rank["observations"].mean, prior.mean, rtol=1e-9)
        np.testing.assert_allclose(rank["observations"].var, prior.var, rtol=1e-9)
        assert rank["returns"].count == pytest.approx(steps, abs=1e-3)
    assert ranks[0]["returns"].var == ranks[1]["returns"].var


def test_rank_0_alone_logs_and_saves(learned: Any) -> None:
    (first, second), folder = learned
    assert (first["silent"], second["silent"]) == (False, True)
    assert first["calls"] == second["calls"] == 4 * 32
    assert len(list((folder / "checkpoints").glob("*.zip"))) == 4
    assert not list(folder.rglob("*.partial"))


def test_a_checkpoint_loads_in_one_process_and_in_many(learned: Any) -> None:
    (first, second), folder = learned
    alone = TRPO.load(folder / "model")
    assert checksum(alone.policy) == first["after"]["policy"]
    assert alone.num_timesteps == first["after"]["num_timesteps"]
    # In many: rank 0 loaded it, the other rank had a model of its own, and both went on from rank 0's.
    assert first["resumed"]["policy"] == second["resumed"]["policy"] != first["after"]["policy"]
    assert first["resumed"]["num_timesteps"] == second["resumed"]["num_timesteps"] == 5 * 32 * PER_RANK * 2


def test_a_callback_of_one_rank_stops_all(learned: Any) -> None:
    # Rank 1 stops in the second rollout after 8 of 32 steps; rank 0 ends that rollout.
    assert [rank["stopped"] for rank in learned[0]] == [PER_RANK * (32 + 32 + 32 + 8)] * 2


def test_ranks_that_differ_are_named(learned: Any) -> None:
    for rank in learned[0]:
        assert rank["unlike"] == "`cg_max_steps` must be the same on all ranks, got 11 on rank 1 and 10 on rank 0"
        assert "after update 1 the parameters of rank 1 differ" in rank["spoiled"]


# ------------------------------------------------------------------------------------------------------------ faults
def _raise(model: TRPO) -> None:
    msg = "the simulator broke"
    raise ValueError(msg)


def _kill(model: TRPO) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(model: TRPO) -> None:
    time.sleep(300)


def _faulty_rank(rank: int, fault: Callable[[TRPO], Any]) -> None:
    _model().learn(100_000, callback=Everywhere(1, 70, fault))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_raise, "rank 1 raised ValueError: the simulator broke"),
        (_kill, "rank 1 of 3 was killed"),
        (_hang, "rank 1 of 3 hung until the timeout"),
    ],
)
def test_a_fault_of_one_rank_stops_the_others_and_is_named(tmp_path: Path, fault: Any, message: str) -> None:
    # Only what hangs has to be waited for; on a busy machine a rank that is well may stand still for seconds.
    results = run_ranks(_faulty_rank, 3, tmp_path / "ranks", fault, seconds=12.0 if fault is _hang else 60.0)
    for rank in (0, 2):
        assert isinstance(results[rank], RankFailure)
        assert message in str(results[rank])
    assert isinstance(results[1], ValueError) == (fault is _raise)


SCRIPT = """
import os, signal
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.critic import adam
from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.distributed import communicator
from sb3_trpo_fvp.distributed.launch import torchrun

class Kill(BaseCallback):
    every_rank = True
    def _on_step(self):
        if self.n_calls == 150 and communicator().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

with torchrun() as comm:
    print("rank", comm.rank, "of", comm.world_size)
    model = TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, seed=0, device="cpu")
    model.learn(100_000, callback=[CheckpointCallback(64, "checkpoints"), Kill()])
"""


def test_torchrun_stops_when_a_rank_is_killed_and_the_last_checkpoint_loads(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    environment = {**os.environ, TIMEOUT_VARIABLE: "20", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode != 0
    assert done.stdout.split("\n")[0] == "rank 0 of 2", "rank 1 is silent"
    assert "rank 1 of 2" not in done.stdout
    # torchrun's own report, the rank and the signal; the survivor's message comes first if it is quicker.
    assert "SIGKILL" in done.stderr
    assert "rank      : 1" in done.stderr
    # Rank 1 dies in the third rollout; rank 0 may be stopped while it saves at the end of its part of that.
    steps = [TRPO.load(path).num_timesteps for path in (tmp_path / "checkpoints").glob("*.zip")]
    assert sorted(steps)[:2] == [64, 192]


def test_the_command_trains_one_agent_with_two_ranks(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [
        "--env",
        "CartPole-v1",
        "-n",
        "64",
        "--seed",
        "1",
        "--save-freq",
        "16",
        "--eval-freq",
        "16",
        "--eval-episodes",
        "1",
    ]
    params = ["-params", "n_envs:2", "n_steps:16", "batch_size:16"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [*launcher, "-m", "sb3_trpo_fvp", "train", *options, *params]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saving to logs/trpo_fvp/CartPole-v1_1") == 1
    (run,) = (tmp_path / "logs" / "trpo_fvp").iterdir()
    assert TRPO.load(run / "CartPole-v1.zip").num_timesteps == 64
    assert (run / "best_model.zip").exists()


@pytest.mark.parametrize("command", [["optimize"], ["train", "--algo", "trpo"]])
def test_torchrun_is_refused_where_ranks_would_not_work_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command, "--env", "CartPole-v1"]) == 2
    assert "only `train` of trpo_fvp" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ in one process
class Pretended(Communicator):
    """Ranks whose answers are known beforehand: the group as one of its ranks sees it."""

    def __init__(self, others: list[Any]):
        self.others = others
        self.world_size = 1 + len(others)

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def test_moments_of_all_ranks_are_those_of_all_numbers() -> None:
    parts = [th.randn(n, dtype=th.float64) * 3 + 1e4 for n in (5, 1, 8)]
    others = [pooled_moments(part, Communicator()) for part in parts[1:]]
    moments = pooled_moments(parts[0], Pretended(others))
    everything = th.cat(parts)
    assert moments.mean == pytest.approx(float(everything.mean()), rel=1e-14)
    assert moments.std == pytest.approx(float(everything.std()), rel=1e-12)
    assert moments.largest == float(everything.abs().max())
    assert np.isnan(pooled_moments(th.tensor([1.0, float("nan")]), Pretended(others)).largest)


def test_merging_alone_changes_nothing_but_rounding() -> None:
    rng = np.random.default_rng(0)
    statistic = RunningMeanStd(shape=(3,))
    statistic.update(rng.normal(100.0, 5.0, (1000, 3)))
    base = statistic.copy()
    statistic.update(rng.normal(90.0, 5.0, (50, 3)))
    expected = statistic.copy()
    merge_running_statistics([statistic], [base], Communicator())
    assert statistic.count == pytest.approx(expected.count, rel=1e-15)
    np.testing.assert_allclose(statistic.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(statistic.var, expected.var, rtol=1e-12)


def test_a_frozen_normalizer_is_left_alone() -> None:
    statistic = RunningMeanStd(shape=(2,))
    statistic.update(np.ones((4, 2)))
    before = statistic.copy()
    merge_running_statistics([statistic], [statistic.copy()], Communicator())
    assert (statistic.count, statistic.mean.tolist(), statistic.var.tolist()) == (
        before.count,
        before.mean.tolist(),
        before.var.tolist(),
    )


def test_a_full_window_holds_episodes_of_every_rank() -> None:
    assert list(window([0], [[1, 2, 3], [10, 20], []], size=4)) == [10, 2, 20, 3]
    assert list(window([0], [[1, 2, 3], [10, 20], []], size=None)) == [0, 1, 10, 2, 20, 3]
    assert list(window([0], [[False], [True]], size=2)) == [False, True]


def test_the_checksum_sees_one_bit_and_a_swap() -> None:
    module = th.nn.Linear(3, 2)
    before = checksum(module)
    with th.no_grad():
        weight = module.weight[0, 0].clone()
        module.weight[0, 0] = th.nextafter(weight, weight + 1)
        assert checksum(module) != before
        module.weight[0, 0] = weight
        assert checksum(module) == before
        module.weight[0, [0, 1]] = module.weight[0, [1, 0]]
        assert checksum(module) != before
    assert odd_ones_out(["a", "b", "a"]) == [1]
    assert odd_ones_out(["a", "b"]) == [1]
    assert odd_ones_out(["a", "a"]) == []


class Unmarked(BaseCallback):
    def _on_step(self) -> bool:
        return True


class Marked(Unmarked):
    every_rank: ClassVar[bool] = True


def test_callbacks_run_on_rank_0_unless_they_are_marked() -> None:
    checkpoint, marked, unmarked = CheckpointCallback(1, "."), Marked(), Unmarked()
    assert callback_of_rank([checkpoint, [marked]], 0, False) == [checkpoint, marked]
    assert callback_of_rank([checkpoint, [marked]], 1, True) == [marked]
    assert callback_of_rank(None, 1, False) == []
    with pytest.warns(UserWarning, match="Unmarked is called on rank 0 only"):
        assert callback_of_rank(unmarked, 0, False) == [unmarked]


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_the_progress_bar_counts_what_the_ranks_agree_on() -> None:
    model = TRPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu")
    bars: list[Any] = callback_of_rank(None, 0, progress_bar=True)
    assert [type(bar) for bar in bars] == [GlobalProgressBar]
    model.learn(128, callback=[*bars, *callback_of_rank(TwiceTheSteps(), 0, False)])
    assert bars[0].pbar.n == model.num_timesteps == 128


class TwiceTheSteps(BaseCallback):
    """As if another rank had made as many steps, which is known when a rollout ends."""

    every_rank = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.model.num_timesteps += 32


def test_ranks_but_the_first_train_with_no_lasting_output() -> None:
    comm = Communicator()
    args = ["--env", "CartPole-v1", "-P", "--track", "-f", "mine", "--eval-freq", "100"]
    with arguments_of_rank(args, comm) as kept:
        assert kept == args
    comm.rank = 1
    with arguments_of_rank(args, comm) as changed:
        assert changed[: len(args) - 2] == [arg for arg in args if arg not in ("-P", "--track")]
        folder = Path(changed[-1])
        assert folder.is_dir()
        assert changed[changed.index("--save-freq") + 1] == "-1"
    assert not folder.exists()


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ValueError, match=TIMEOUT_VARIABLE):
        timeout()


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


def test_one_process_imports_nothing_of_a_group() -> None:
    code = (
        "import sys; from sb3_trpo_fvp import TRPO; "
        "TRPO('MlpPolicy', 'CartPole-v1', n_steps=32, batch_size=32, device='cpu').learn(32); "
        "print([m for m in sys.modules if m.startswith('sb3_trpo_fvp.distributed.')])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    imported = set(eval(out))
    assert "sb3_trpo_fvp.distributed.communicator" in imported
    assert not imported & {f"sb3_trpo_fvp.distributed.{name}" for name in ("process_group", "roll_call", "launch")}
