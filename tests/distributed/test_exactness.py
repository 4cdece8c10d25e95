"""One update of two ranks is that of one process, to rounding."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.critic import adam
from sb3_trpo_fvp.linalg.vectors import flatten
from tests.helpers.models import DoubleFlatten
from tests.helpers.ranks import run_ranks, unharmed

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
    return alone, unharmed(run_ranks(_exactness_rank, 2, tmp_path_factory.mktemp("exactness") / "ranks", rollout))


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
        assert str(outcome["logged"]["trust_region/status"]) == "nonfinite_advantages"
        assert str(outcome["logged"]["trust_region/critic_status"]) == "nonfinite_returns"
