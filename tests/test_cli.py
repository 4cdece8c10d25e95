import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from sb3_trpo_fvp import TRPO, __version__
from sb3_trpo_fvp.cli import COMMANDS, main
from sb3_trpo_fvp.zoo.command_line import suggest
from sb3_trpo_fvp.zoo.configs import config_folder


def test_help_lists_every_command_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert 30 < len(line) <= 127
    assert main([]) == 0


def test_version_and_configs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["configs"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"sb3-trpo-fvp {__version__}", str(config_folder())]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "unknown command 'trian': did you mean 'train'?"),
        ("train --env HalfCheeta-v5", "unknown environment 'HalfCheeta-v5': did you mean 'HalfCheetah-v5'?"),
        ("train --env halfcheetah-v5", "did you mean 'HalfCheetah-v5'?"),
        ("train --algo trpo_fpv", "unknown algorithm 'trpo_fpv': did you mean 'trpo_fvp'?"),
        ("train -params fihser:1", "unknown hyperparameter of trpo_fvp 'fihser': did you mean 'fisher'?"),
        ("train --algo trpo -params fisher:1", "unknown hyperparameter of trpo 'fisher'"),
        ("train -conf nothing.yml", "no hyperparameter file 'nothing.yml'"),
        ("train -i nothing.zip", "--trained-agent must be an existing .zip file, got 'nothing.zip'"),
        ("train --gym-packages no_such_package", "--gym-packages no_such_package"),
        ("train --env", "argument --env: expected one argument"),
        ("optimize --env HalfCheeta-v5", "did you mean 'HalfCheetah-v5'?"),
        ("enjoy --env CartPole-v1", "no trpo_fvp agent for CartPole-v1 in 'logs'; nothing was trained there yet"),
        ("record-video --algo tropo", "unknown algorithm 'tropo': did you mean 'trpo'?"),
        ("all-plots", "all-plots needs the environments to plot"),
        ("sweep benchmrk", "no sweep file 'benchmrk'; this project's are: benchmark, defaults, operators, reference, search"),
        ("sweep search", "'bayes' sweep, and only grids run without a server"),
        ("sweep benchmark --jobs 0", "--jobs must be at least 1, got 0"),
        ("sweep benchmark --set seed", "--set takes KEY=VALUE, got 'seed'"),
        ("sweep benchmark --set env=HalfCheeta-v5", "did you mean 'HalfCheetah-v5'?"),
        ("sweep benchmark --set cg_dampin=1", "unknown hyperparameter of trpo 'cg_dampin': did you mean 'cg_damping'?"),
        ("sweep-run [1]", "the parameters must be one JSON object, got [1]"),
        ("sweep-run {", "the parameters must be one JSON object"),
        ('sweep-run {"algo":"trpo"}', "a run needs `env` (a string), got None"),
        ("compare --env Pendulm-v1", "did you mean 'Pendulum-v1'?"),
        ("compare --seeds 0", "--seeds must be at least 1, got 0"),
    ],
)
def test_slips_get_a_sentence_and_exit_code_2(
    command: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("sb3-trpo-fvp: ")
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_an_environment_of_a_missing_package_names_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {name: spec for name, spec in gym.registry.items() if not name.startswith("MiniGrid-")}
    monkeypatch.setattr(gym, "registry", here)
    assert main(["train", "--env", "MiniGrid-Unlock-v0"]) == 2
    assert "its package is not installed (pip install minigrid)" in capsys.readouterr().err


def test_suggestions_show_all_names_only_where_they_are_few() -> None:
    assert suggest("thing", "aplha", ["alpha", "beta"]) == "unknown thing 'aplha': did you mean 'alpha'? (known: alpha, beta)"
    many = [f"name{number}" for number in range(100)]
    assert suggest("thing", "zzz", many) == "unknown thing 'zzz'"


def test_the_module_is_the_command_and_zoo_answers_help() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sb3_trpo_fvp", "train", "--help"], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.startswith("usage: sb3-trpo-fvp train")
    assert "trpo_fvp" in result.stdout
    assert "--eval-freq" in result.stdout


def test_check_compares_the_operators_on_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.zip"
    TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, policy_kwargs={"net_arch": [8]}).save(path)
    assert main(["check", str(path), "--env", "CartPole-v1", "--num-states", "64"]) == 0
    printed = capsys.readouterr().out
    for operator in ("gauss_newton", "kl_hessian", "empirical"):
        assert operator in printed
