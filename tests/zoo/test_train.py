"""The commands that are RL-Zoo's, on runs of a few hundred steps."""

import os
import pickle
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import optuna
import pytest
import sb3_contrib
import yaml

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.zoo.results import Result
from tests.helpers import ROOT

SHORT = ["-n", "128", "--eval-freq", "64", "--eval-episodes", "1", "--seed", "0", "--device", "cpu"]
SMALL = ["-params", "n_steps:32", "batch_size:32"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved_hyperparameters(run: Path) -> dict[str, object]:
    (config,) = run.glob("*/config.yml")
    return dict(yaml.load(config.read_text(), Loader=yaml.UnsafeLoader))


def test_a_trained_agent_is_watched_filmed_and_plotted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--env", "CartPole-v1", *SHORT, *SMALL, "--eval-episodes", "2"]) == 0
    run = folder / "logs" / "trpo_fvp" / "CartPole-v1_1"
    assert type(TRPO.load(run / "CartPole-v1.zip", device="cpu")) is TRPO
    assert saved_hyperparameters(run)["n_envs"] == 2  # from this project's file
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [64, 128]

    capsys.readouterr()
    assert main(["enjoy", "--env", "CartPole-v1", "--no-render", "-n", "300", "--load-best"]) == 0
    assert "Mean reward" in capsys.readouterr().out

    assert main(["enjoy", "--env", "Pendulum-v1", "--no-render"]) == 2
    assert "found there: trpo_fvp on CartPole-v1_1" in capsys.readouterr().err

    assert main(["all-plots", "-e", "CartPole", "--no-display", "-o", "plots"]) == 0
    with (folder / "plots.pkl").open("rb") as file:
        table = pickle.load(file)["results_table"]
    assert table["headers"] == ["Environments", "TRPO_FVP"]  # what the folder holds
    assert table["value_matrix"][-1][0] == "CartPole"


def test_a_video_is_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert main(["train", "--env", "CartPole-v1", *SHORT, *SMALL, "--eval-freq", "-1"]) == 0
    assert main(["record-video", "--env", "CartPole-v1", "-n", "20", "-o", "videos"]) == 0
    (video,) = (folder / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


def test_trpo_is_sb3_contribs_with_this_projects_v5_values(folder: Path) -> None:
    assert main(["train", "--algo", "trpo", "--env", "InvertedPendulum-v5", *SHORT, *SMALL, "--eval-freq", "-1"]) == 0
    run = folder / "logs" / "trpo" / "InvertedPendulum-v5_1"
    saved = saved_hyperparameters(run)
    assert saved["cg_max_steps"] == 25  # RL-Zoo's own file has no such key, and no normalisation
    assert saved["normalize"] is True
    assert (run / "InvertedPendulum-v5" / "vecnormalize.pkl").is_file()
    assert type(sb3_contrib.TRPO.load(run / "InvertedPendulum-v5.zip", device="cpu")) is sb3_contrib.TRPO


def test_the_baselines_file_serves_this_projects_algorithm_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", "LunarLanderContinuous-v3", *SHORT, "-conf", "trpo.yml", "--eval-freq", "-1"]
    assert main(["train", *arguments, "-params", "kl_reduction:'mean'", "n_steps:32", "batch_size:32"]) == 0
    run = folder / "logs" / "trpo_fvp" / "LunarLanderContinuous-v3_1"
    # The file names neither: they are then at sb3-contrib's defaults, and not at this project's.
    model, defaults = TRPO.load(run / "LunarLanderContinuous-v3.zip", device="cpu"), signature(sb3_contrib.TRPO).parameters
    for name in ("target_kl", "cg_damping"):
        assert getattr(model, name) == saved_hyperparameters(run)[name] == defaults[name].default
    assert model.kl_reduction == "mean"
    assert "has no entry" not in capsys.readouterr().err


def test_an_environment_without_an_entry_is_announced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--env", "CartPole-v0", *SHORT, *SMALL, "--eval-freq", "-1"]) == 0
    assert "trpo_fvp.yml has no entry for CartPole-v0" in capsys.readouterr().err


def test_the_run_keeps_every_update_and_its_time(folder: Path) -> None:
    assert main(["train", "--env", "CartPole-v1", *SHORT, *SMALL]) == 0
    run = folder / "logs" / "trpo_fvp" / "CartPole-v1_1"
    result = Result(folder, "trpo_fvp", {}, 0.0, 0.0, run, {})
    steps, kl = result.logged("trust_region/kl")
    assert len(kl) == 2  # 128 steps by 2 environments are two rollouts; SB3 would never write the second
    assert (kl > 0).all()
    assert steps[-1] == 128
    at, seconds = result.logged("time/learn_seconds")
    assert at.tolist() == [64, 128, 128]
    assert (np.diff(seconds) > 0).all()
    assert result.logged("trust_region/target_kl")[1].tolist() == [0.0125, 0.0125]
    assert result.logged("no/such_key")[1].size == 0


def test_workers_share_a_study_that_goes_on(folder: Path) -> None:
    search = [
        "optimize",
        "--env",
        "CartPole-v1",
        "-n",
        "600",
        "--n-trials",
        "1",
        "--storage",
        "study.log",
        "--eval-episodes",
        "1",
    ]
    command = [sys.executable, "-m", "sb3_trpo_fvp", *search, "--no-optim-plots", "--device", "cpu"]
    root = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    # These seeds draw the shortest rollouts.
    workers = [subprocess.Popen([*command, "--seed", seed], env=environment, stdout=subprocess.DEVNULL) for seed in ("7", "9")]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    assert main([*search, "--no-optim-plots", "--device", "cpu", "--seed", "11"]) == 0

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
    study = optuna.load_study(study_name="trpo_fvp_CartPole-v1", storage=storage)
    assert [trial.state for trial in study.trials] == 3 * [optuna.trial.TrialState.COMPLETE]

    study_options = ["--storage", "study.log", "--study-name", "trpo_fvp_CartPole-v1", "--trial-id", "0"]
    assert main(["train", "--env", "CartPole-v1", *study_options, *SHORT]) == 0
    (saved,) = (folder / "logs" / "trpo_fvp").glob("*/CartPole-v1.zip")
    model = TRPO.load(saved, device="cpu")
    for name in ("cg_damping", "target_kl", "sample_reuse", "critic"):
        assert getattr(model, name) == study.trials[0].params[name]
