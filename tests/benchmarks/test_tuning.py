"""The tuning tries what it says, and the page says what its results say."""

from inspect import signature

import numpy as np
import pytest
import yaml

from benchmarks.tuning import candidates, command, report
from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.zoo.configs import default_config
from sb3_trpo_fvp.zoo.experiment_manager import register
from sb3_trpo_fvp.zoo.sweeps.command import check_runs
from sb3_trpo_fvp.zoo.sweeps.sweep import SweepRun

PAGE = command.PAGE.read_text(encoding="utf-8")


def between(name: str) -> str:
    return PAGE.partition(f"<!-- {name}:start -->\n")[2].partition(f"\n<!-- {name}:end -->")[0]


def test_the_design_is_balanced_in_every_setting_and_every_pair() -> None:
    matrix = candidates.design()
    assert matrix.shape == (12, 11)
    assert (matrix.sum(axis=0) == 0).all()
    assert (matrix.T @ matrix == 12 * np.eye(11)).all()


def test_an_effect_is_found_where_there_is_one() -> None:
    matrix = candidates.design()
    found = report.effects(5.0 + 0.25 * matrix[:, 2] - matrix[:, 5])
    assert found == pytest.approx([0, 0, 0.5, 0, 0, -2, 0, 0, 0, 0, 0])


def test_every_run_of_the_tuning_is_a_valid_call_and_none_is_on_a_reported_seed() -> None:
    register()
    for env in candidates.ENVS:
        runs = candidates.runs_of(env)
        algorithms = [(f"{candidates.sweep_of(steps)[1]} {settings}", seed) for settings, seed, steps in runs]
        check_runs([SweepRun.from_parameters({"algo": algorithm, "env": env, "seed": seed}) for algorithm, seed in algorithms])
        assert len(set(runs)) == len(runs)
        assert all(seed >= 100 for _, seed, _ in runs)


@pytest.mark.parametrize("env", candidates.ENVS)
def test_the_hyperparameter_file_took_what_was_chosen(env: str) -> None:
    with open(str(default_config("trpo_fvp")), encoding="utf-8") as file:
        entry = yaml.safe_load(file)[env]
    wanted = SweepRun.from_parameters({"algo": f"trpo_fvp {candidates.CHOSEN[env]}", "env": env}).hyperparams
    kwargs = wanted.pop("policy_kwargs", None)
    assert entry.get("policy_kwargs") == (f"dict(log_std_init={kwargs['log_std_init']:g})" if kwargs else None)
    defaults = {"critic": "adam"}
    assert {key: entry.get(key, defaults.get(key)) for key in wanted} == wanted


def test_the_page_has_the_tables_of_the_tuning() -> None:
    for name, table in report.parts(command.read()).items():
        assert between(name) == table
    rows = [line for line in between("tried").splitlines() if "**" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| HalfCheetah-v5", "| Hopper-v5", "| Walker2d-v5"]


def test_the_constructor_has_the_damping_that_was_chosen() -> None:
    """The bound of these runs was of one rollout an update; test_reuse.py has what came after it."""
    chosen = SweepRun.from_parameters({"algo": f"trpo_fvp {candidates.DEFAULTS}", "env": "Hopper-v5"}).hyperparams
    assert signature(TRPO).parameters["cg_damping"].default == chosen["cg_damping"]
