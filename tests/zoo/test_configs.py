"""The configuration files: the same budgets for both algorithms, RL-Zoo's values for the baseline."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import rl_zoo3
import yaml

from sb3_trpo_fvp.zoo.configs import config_folder, default_config, find_config
from sb3_trpo_fvp.zoo.experiment_manager import ExperimentManager, register
from sb3_trpo_fvp.zoo.sweeps.sweep import Sweep

FILES = {algo: yaml.safe_load(Path(str(default_config(algo))).read_text()) for algo in ("trpo", "trpo_fvp")}
ENVIRONMENTS = [env for env in FILES["trpo"] if env != "default"]
SHARED = ("n_timesteps", "n_envs", "normalize", "env_wrapper", "policy")


def test_both_files_cover_the_same_environments_on_the_same_budget() -> None:
    assert FILES["trpo"].keys() == FILES["trpo_fvp"].keys()
    for env, baseline in FILES["trpo"].items():
        ours = FILES["trpo_fvp"][env]
        assert {key: baseline.get(key) for key in SHARED} == {key: ours.get(key) for key in SHARED}, env


def test_the_baseline_is_rl_zoos_with_v4_carried_to_v5() -> None:
    zoo = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "trpo.yml").read_text())
    ours = FILES["trpo"]
    unavailable = {env for env in zoo if env.startswith("Minitaur")}  # not in pybullet_envs_gymnasium
    for env, entry in zoo.items():
        if env not in unavailable:
            assert ours[env.replace("-v4", "-v5")] == entry, env


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_entry_builds_both_models(env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory
    register()
    for algo in ("trpo", "trpo_fvp"):
        model = _build(algo, env, tmp_path)
        entry = FILES[algo][env]
        assert type(model) is rl_zoo3.ALGOS[algo]
        assert model.n_envs == entry["n_envs"]
        assert (model.get_vec_normalize_env() is not None) == entry.get("normalize", False)
        for key in entry.keys() & {"target_kl", "cg_damping", "cg_max_steps", "n_critic_updates", "n_steps", "gamma"}:
            assert getattr(model, key) == entry[key], key
        model.env.close()


def _build(algo: str, env: str, folder: Path) -> Any:
    manager = ExperimentManager(argparse.Namespace(), algo, env, str(folder), "", -1, -1, seed=0, verbose=0, device="cpu")
    built = manager.setup_experiment()
    assert built is not None
    return built[0]


def test_files_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("default: {}")
    assert find_config(str(own)) == str(own)
    assert find_config("trpo.yml") == str(config_folder() / "trpo.yml")
    assert find_config("sweeps/benchmark.yaml") == str(config_folder() / "sweeps" / "benchmark.yaml")
    assert find_config("nothing.yml") is None
    assert default_config("ppo") is None


def test_the_ppo_of_the_reference_benchmark_is_rl_zoos() -> None:
    """Its budgets are the benchmark's, its MuJoCo entries carry the next version's name; nothing else differs."""
    own = yaml.safe_load((config_folder() / "ppo.yml").read_text())
    zoo = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo.yml").read_text())
    budgets = {run.options["env"]: run.options["n_timesteps"] for run in Sweep.load("reference").runs()}
    assert set(own) == {*budgets, "default"}
    for env, budget in budgets.items():
        expected = zoo.get(env) or zoo.get(env.replace("-v5", "-v4")) or zoo["Ant-v4"]
        entry = own[env] | {key: "".join(own[env][key].split()) for key in ("policy_kwargs",) if key in own[env]}
        expected = expected | {key: "".join(expected[key].split()) for key in ("policy_kwargs",) if key in expected}
        assert entry == expected | {"n_timesteps": budget}, env


def test_the_single_setting_has_nothing_of_an_environments_own() -> None:
    """It covers the reference benchmark, treats environments as RL-Zoo does, and leaves the algorithm at its defaults."""
    single = yaml.safe_load((config_folder() / "single.yml").read_text())
    assert {run.options["env"] for run in Sweep.load("reference").runs()} <= set(single)
    for env in set(single) - {"default"}:
        entry, baseline = single[env], FILES["trpo"][env]
        assert {key: entry.get(key) for key in SHARED} == {key: baseline.get(key) for key in SHARED}, env
        assert set(entry) - set(SHARED) == {"n_steps"}
        assert entry["n_steps"] * entry["n_envs"] == 512
