"""A whole ``learn`` on two ranks: they start alike, stay alike, log and save once, and stop together."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.distributed import RankFailure
from sb3_trpo_fvp.distributed.agreement import checksum
from tests.helpers.ranks import PER_RANK, Everywhere, run_ranks, small_model, unharmed


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


def _one_bad_reward(rank: int) -> dict[str, Any]:
    """The second rank's eleventh step pays NaN."""
    model = small_model()
    recorder: Any = model.get_vec_normalize_env().venv
    step_wait = recorder.step_wait

    def spoiled() -> Any:
        observations, rewards, dones, infos = step_wait()
        if rank == 1 and len(recorder.seen) == 12:  # the reset is the first
            rewards[0] = np.nan
        return observations, rewards, dones, infos

    recorder.step_wait = spoiled
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(3 * 32 * PER_RANK * 2)
    told = [str(warning.message) for warning in caught if "NaN or infinity in 1 rewards" in str(warning.message)]
    return {**_state(model), "counted": model.nonfinite_rewards, "told": len(told), "skipped": model.skipped_updates}


def _failure(call: Callable[[], Any]) -> str:
    try:
        call()
    except RankFailure as error:
        return str(error)
    return ""


def _learning_rank(rank: int, folder: Path) -> dict[str, Any]:
    model = small_model(verbose=1 if rank == 0 else 0)
    initial = checksum(model.policy)
    everywhere = Everywhere()
    model.learn(4 * 32 * PER_RANK * 2, callback=[CheckpointCallback(32, str(folder / "checkpoints")), everywhere])
    outcome = {"initial": initial, "after": _state(model), "calls": everywhere.n_calls}
    outcome["silent"] = model.logger.output_formats == []
    model.save(folder / "model")

    resumed = TRPO.load(folder / "model", env=small_model().env) if rank == 0 else small_model()
    resumed.learn(32 * PER_RANK * 2, reset_num_timesteps=False)
    outcome["resumed"] = _state(resumed)

    stopped = small_model()
    stopped.learn(10_000, callback=Everywhere(1, 40, lambda _: False))
    outcome["stopped"] = stopped.num_timesteps
    outcome["one bad reward"] = _one_bad_reward(rank)
    outcome["unlike"] = _failure(lambda: small_model(cg_max_steps=10 + rank).learn(1))
    outcome["spoiled"] = _failure(lambda: small_model().learn(1000, callback=Everywhere(1, 10, _spoil)))
    return outcome


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("learn")
    return unharmed(run_ranks(_learning_rank, 2, folder / "ranks", folder)), folder


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


def test_a_bad_reward_of_one_rank_spoils_no_statistic_of_any(learned: Any) -> None:
    first, second = (rank["one bad reward"] for rank in learned[0])
    for rank in (first, second):
        assert rank["counted"] == 1
        assert rank["skipped"] == 0, "the updates after the one that saw it are taken"
        for name in ("observations", "returns"):
            assert np.isfinite(rank[name].var).all()
            assert rank[name].count == pytest.approx(
                3 * 32 * PER_RANK * 2 - PER_RANK + 2 * PER_RANK * (name != "returns"), abs=1e-3
            )
        np.testing.assert_array_equal(rank["returns"].var, first["returns"].var)
    assert (first["told"], second["told"]) == (1, 0)
    assert first["policy"] == second["policy"]


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
