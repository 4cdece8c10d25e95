"""One bad run does not take a sweep down, and a finished run counts only for what it ran with."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.zoo.command_line import UserError
from sb3_trpo_fvp.zoo.experiment_manager import register
from sb3_trpo_fvp.zoo.results import FINISHED, Result, load_results
from sb3_trpo_fvp.zoo.sweeps.runner import Runner
from sb3_trpo_fvp.zoo.sweeps.settings import settings_of
from sb3_trpo_fvp.zoo.sweeps.sweep import SweepRun

RUN = {"algo": "trpo_fvp", "env": "CartPole-v1", "seed": 0, "n_timesteps": 64, "eval_freq": 32, "eval_episodes": 1}
SMALL = {"n_steps": 32, "batch_size": 32, "conf_file": "own.yml"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register()
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path, gamma=0.9)
    return tmp_path


def write_file(folder: Path, **hyperparams: Any) -> None:
    path = folder / "own.yml"
    path.write_text(
        yaml.safe_dump({"CartPole-v1": {"policy": "MlpPolicy", "n_timesteps": 64.0, **hyperparams}, "default": {}})
    )
    # Two changes within one tick of the clock are told apart by hand.
    os.utime(path, ns=(0, sum(map(hash, hyperparams.values())) % 2**40 + 1))


def finished(folder: Path, run: SweepRun, **content: Any) -> Path:
    path = folder / "out" / run.name
    path.mkdir(parents=True, exist_ok=True)
    record = {"variant": run.variant, "parameters": dict(run.parameters), "seconds": 1.0, "folder": "zoo", "versions": {}}
    (path / FINISHED).write_text(json.dumps({**record, **content}))
    return path


def test_broken_runs_are_named_and_done_again_and_long_names_are_shortened(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    long = " ".join(["trpo_fvp", *["gamma=0.99"] * 40])
    content = {"method": "grid", "parameters": {**{k: {"value": v} for k, v in {**RUN, **SMALL}.items()}}}
    content["parameters"]["algo"] = {"values": [long, "trpo_fvp"]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
    command = ["sweep", "sweep.yaml", "--no-wandb", "-o", "out", "-j", "2"]
    assert main(command) == 0
    results = load_results(folder / "out")
    assert {len(result.folder.name) for result in results} == {255, len("trpo_fvp__CartPole-v1__seed0__01234567")}
    before = {result.folder: result.seconds for result in results}
    cut = [results[0].folder / FINISHED, results[1].zoo_folder / "evaluations.npz"]
    for path in cut:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    assert main([*command, "--set", "seed=-7"]) == 2
    assert "`seed` must be in [0, 4294967295], got -7" in capfd.readouterr().err
    with pytest.warns(UserWarning, match=f"{FINISHED} cannot be read"):
        assert len(load_results(folder / "out")) == 1
    assert main(command) == 0
    printed = capfd.readouterr().out
    for path in cut:
        assert f"{path} cannot be read" in printed
    assert {result.folder for result in load_results(folder / "out")} == set(before)
    assert len(list((folder / "out" / ".replaced").iterdir())) == 2  # nothing is thrown away
    assert main(command) == 0
    assert "2 of 2 runs were finished before" in capfd.readouterr().out


def test_a_changed_file_or_default_is_another_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    import rl_zoo3

    run = SweepRun.from_parameters({**RUN, **SMALL})
    settings = settings_of(run)
    assert (settings["gamma"], settings["n_steps"], settings["n_timesteps"]) == (0.9, 32, 64)
    finished(folder, run, settings=settings)
    assert Runner([run], folder / "out", 1).is_finished(run)

    write_file(folder, gamma=0.8)
    assert Runner([run], folder / "out", 1).fault(run) == "it finished with gamma=0.9, now 0.8"
    write_file(folder, gamma=0.9, cg_damping=0.5, normalize=True)  # what the file did not have was at its default
    fault = Runner([run], folder / "out", 1).fault(run)
    assert fault == f"it finished with cg_damping={settings['cg_damping']}, now 0.5, normalize=None, now True"
    write_file(folder, gamma=0.9)
    assert Runner([run], folder / "out", 1).is_finished(run)
    (folder / "own.yml").write_text("[")  # nobody can say what it would run with today
    assert Runner([run], folder / "out", 1).is_finished(run)
    write_file(folder, gamma=0.9)

    class Other(rl_zoo3.ALGOS["trpo_fvp"]):  # type: ignore[misc]
        def __init__(self, *args: Any, target_kl: float = 7.0, **kwargs: Any) -> None: ...

        __init__.__signature__ = inspect.signature(rl_zoo3.ALGOS["trpo_fvp"].__init__).replace(  # type: ignore[attr-defined]
            parameters=[
                each.replace(default=7.0) if each.name == "target_kl" else each
                for each in inspect.signature(rl_zoo3.ALGOS["trpo_fvp"].__init__).parameters.values()
            ]
        )

    monkeypatch.setitem(rl_zoo3.ALGOS, "trpo_fvp", Other)
    assert Runner([run], folder / "out", 1).fault(run) == f"it finished with target_kl={settings['target_kl']}, now 7.0"


def test_what_the_sweep_sets_wins_over_file_and_default(folder: Path) -> None:
    settings = settings_of(SweepRun.from_parameters({**RUN, **SMALL, "gamma": 0.5}))
    assert settings["gamma"] == 0.5
    like_for_like = settings_of(SweepRun.from_parameters({**RUN, "conf_file": "trpo.yml", "env": "Pendulum-v1"}))
    assert (like_for_like["target_kl"], like_for_like["cg_damping"]) == (0.01, 0.1)


def test_records_of_earlier_versions_count(folder: Path) -> None:
    run = SweepRun.from_parameters({**RUN, **SMALL})
    path = finished(folder, run)
    assert Runner([run], folder / "out", 1).is_finished(run)
    assert Result.load(path).settings == {}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"folder": 3}'])
def test_a_broken_record_is_an_error_that_names_the_file(folder: Path, content: str) -> None:
    run = SweepRun.from_parameters({**RUN, **SMALL})
    path = finished(folder, run)
    (path / FINISHED).write_text(content)
    with pytest.raises(ValueError, match=f"{FINISHED} cannot be read"):
        Result.load(path)
    assert not Runner([run], folder / "out", 1).is_finished(run)


def test_short_names_are_what_they_were() -> None:
    run = SweepRun.from_parameters({"algo": "trpo_fvp fisher=empirical", "env": "ALE/Pong-v5", "seed": 3})
    assert run.name == "trpo_fvp-fisher=empirical__ALE-Pong-v5__seed3__01d5131d"


@pytest.mark.parametrize(
    ("option", "value"), [("seed", 2**32), ("n_timesteps", 0), ("eval_episodes", 0), ("n_eval_envs", -1), ("n_timesteps", 0.5)]
)
def test_options_outside_of_their_interval_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"`{option}` must be"):
        SweepRun.from_parameters({**RUN, option: value}).zoo_arguments(".")
