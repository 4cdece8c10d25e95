"""Slips in a command line or a file: one sentence, exit code 2, no traceback, before anything is trained or written."""

import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.cli import main

FILES = {
    "string.yml": "CartPole-v1: {policy: MlpPolicy, n_timesteps: 64, target_kl: 1e-2}",
    "quoted.yml": 'CartPole-v1: {policy: MlpPolicy, n_timesteps: 64, target_kl: "0.01"}',
    "negative.yml": "CartPole-v1: {policy: MlpPolicy, n_timesteps: 64, cg_damping: -1}",
    "ppo.yml": "CartPole-v1: {policy: MlpPolicy, n_timesteps: 64, clip_range: 0.2}",
    "policy.yml": "CartPole-v1: {policy: NoPolicy, n_timesteps: 64}",
    "broken.yml": "CartPole-v1: [",
    "scalar.yml": "CartPole-v1: 5",
    "other.yml": "Acrobot-v1: {}",
    "empty.yml": "",
    "scalar.yaml": "{method: grid, parameters: {env: {value: CartPole-v1}, algo: {value: trpo}, seed: 5}}",
    "letters.yaml": "{method: grid, parameters: {env: {value: CartPole-v1}, algo: {values: trpo}}}",
    "none.yaml": "{method: grid, parameters: {env: {value: CartPole-v1}, algo: {values: []}}}",
    "file": "",
    "notes.log": "no journal",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    options = {"n_steps": 16, "batch_size": 16, "device": "cpu", "policy_kwargs": {"net_arch": [4]}}
    TRPO("MlpPolicy", "CartPole-v1", **options).save(folder / "trpo.zip")
    PPO("MlpPolicy", "CartPole-v1", **options).save(folder / "ppo.zip")
    DQN("MlpPolicy", "CartPole-v1", buffer_size=1, device="cpu").save(folder / "dqn.zip")
    whole = (folder / "trpo.zip").read_bytes()
    (folder / "cut.zip").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def folder(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with wrong files, a trained agent, and what a training leaves that ended before it saved."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    for path in models.iterdir():
        shutil.copy(path, tmp_path / path.name)
    for env in ("CartPole-v1_1", "Acrobot-v1_1", "InvertedPendulum-v5_1"):
        (tmp_path / "logs" / "trpo_fvp" / env).mkdir(parents=True)
    shutil.copy(models / "trpo.zip", tmp_path / "logs/trpo_fvp/CartPole-v1_1/CartPole-v1.zip")
    shutil.copy(models / "trpo.zip", tmp_path / "logs/trpo_fvp/InvertedPendulum-v5_1/InvertedPendulum-v5.zip")
    return tmp_path


def contents(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train -params fisher:empirical", "a string needs quotes of its own: fisher:\"'empirical'\""),
        ("train -params fisher", "-params takes NAME:VALUE, got 'fisher'"),
        ("train -params gamma:1.5.5", "-params gamma:1.5.5: '1.5.5' is not Python"),
        ("train --env-kwargs g", "--env-kwargs takes NAME:VALUE, got 'g'"),
        ("train --env-kwargs foo:1", "unexpected keyword argument 'foo'"),
        ("train -params n_envs:0", "`n_envs` must be a whole number in [1, ∞), got 0"),
        ("train -params n_envs:2.0", "`n_envs` must be a whole number in [1, ∞), got 2.0"),
        ("train -params frame_stack:-1", "`frame_stack` must be a whole number in [1, ∞), got -1"),
        ("train -params n_timesteps:-3", "`n_timesteps` must be a whole number in [1, ∞), got -3"),
        ("train -params normalize:5", "`normalize` must be True, False, or a dict"),
        ("train -params cg_damping:-1", "`cg_damping` must be in [0, ∞), got -1"),
        ("train -params \"target_kl:'0.01'\"", "`target_kl` must be a number, got the string '0.01'"),
        ("train -params \"learning_rate:'lin'\"", "`learning_rate` must be a number, got the string 'lin'"),
        ("train -params clip_range:0.2", "`clip_range` is a PPO argument; trpo_fvp has none"),
        ("train --algo trpo -params ent_coef:0.0", "`ent_coef` is a PPO argument; trpo has none"),
        ('train -params "policy_kwargs:dict(foo=1)"', "unexpected keyword argument 'foo'"),
        ("train -params \"env_wrapper:'no.such.Wrapper'\"", "No module named 'no'"),
        (
            "train -conf string.yml",
            "got the string '1e-2' (YAML and Python take it for a number if it is written 0.01",
        ),
        ("train -conf quoted.yml", "`target_kl` must be a number, got the string '0.01'"),
        ("train -conf negative.yml", "`cg_damping` must be in [0, ∞), got -1"),
        ("train -conf ppo.yml", "`clip_range` is a PPO argument"),
        ("train -conf policy.yml", "Policy NoPolicy unknown"),
        ("train -conf broken.yml", "broken.yml is not valid YAML"),
        ("train -conf scalar.yml", "scalar.yml is not a hyperparameter file"),
        ("train -conf empty.yml", "empty.yml is not a hyperparameter file"),
        ("train -conf other.yml", "other.yml has no entry for CartPole-v1, and no 'default' entry"),
        ("train -conf no_such_package", "No module named 'no_such_package'"),
        ("train --env Blackjack-v1", "Tuple(Discrete(32), Discrete(11), Discrete(2)) observation space is not supported"),
        ("train -n -5", "--n-timesteps must be at least 1, got -5"),
        ("train -n 1e5", "invalid int value: '1e5'"),
        ("train --eval-episodes 0", "--eval-episodes must be at least 1, got 0"),
        ("train --seed 99999999999", "--seed must be in [0, 4294967295], got 99999999999"),
        ("train --device tpu9", "unknown device 'tpu9'"),
        ("train -f file/logs", "--log-folder 'file/logs': "),
        ("train -tb file/logs", "--tensorboard-log 'file/logs': "),
        ("train -i ppo.zip", "ppo.zip is a model of another algorithm"),
        ("train -i cut.zip", "cut.zip is not a saved model, or only a part of one"),
        ("train --trial-id 3", "--trial-id needs --storage and --study-name"),
        ("optimize -n -5", "--n-timesteps must be at least 1, got -5"),
        ("optimize --storage file/s.log", "--storage 'file': "),
        ("optimize --storage notes.log", "notes.log is no journal of Optuna"),
        ("optimize --optimization-log-path file/x", "--optimization-log-path 'file/x': "),
        ("enjoy --env Acrobot-v1", "path: logs/trpo_fvp/Acrobot-v1_1/Acrobot-v1.zip; it holds no model"),
        ("enjoy --load-best", "best_model.zip; logs/trpo_fvp/CartPole-v1_1 holds CartPole-v1.zip"),
        ("enjoy --load-last-checkpoint", "No checkpoint found for trpo_fvp on CartPole-v1"),
        ("enjoy --exp-id 7", "The logs/trpo_fvp/CartPole-v1_7 folder was not found"),
        ("enjoy --no-render -n -5", "--n-timesteps must be at least 1, got -5"),
        ("enjoy --no-render --reward-log file/x", "--reward-log 'file/x': "),
        ("record-video --load-best", "best_model.zip; logs/trpo_fvp/CartPole-v1_1 holds CartPole-v1.zip"),
        ("record-video -o file/x", "--output-folder 'file/x': "),
        ("all-plots -e Nope", "no evaluations of 'Nope' in logs/trpo_fvp; found there: Acrobot-v1_1, CartPole-v1_1"),
        ("all-plots -e CartPole -f nowhere", "no evaluations of 'CartPole' in nowhere/trpo_fvp; there are no runs"),
        ("all-plots -e CartPole -l a b", "--labels needs one label for each of the 1 folders, got 2"),
        ("sweep scalar.yaml", "a grid's parameter needs `value`, or `values` with a list, got 5 for 'seed'"),
        ("sweep letters.yaml", "got {'values': 'trpo'} for 'algo'"),
        ("sweep none.yaml", "got {'values': []} for 'algo'"),
        ("sweep defaults --no-wandb -o file/x", "--output 'file/x': "),
        ("sweep defaults --no-wandb --set seed=-7", "`seed` must be in [0, 4294967295], got -7"),
        ("sweep defaults --no-wandb --set seed=[", "--set seed=[: '[' is not valid YAML"),
        ("sweep defaults --no-wandb --set seed=2020-01-01", "`seed` of a sweep must be a finite number"),
        ("sweep defaults --no-wandb --set conf_file=broken.yml", "broken.yml is not valid YAML"),
        ('sweep-run \'{"algo": " ", "env": "CartPole-v1"}\'', "a run needs `algo` (a string), got ' '"),
        ('sweep-run \'{"algo": "trpo", "env": "CartPole-v1"}\' --output file/x', "--output "),
        ("compare --fisher foo", "`fisher` must be one of"),
        ("compare -o file/x", "--output 'file/x': "),
        ("check nothing.zip", "no model file 'nothing.zip'"),
        ("check cut.zip", "cut.zip is not a saved model, or only a part of one"),
        ("check ppo.zip", "ppo.zip is a model of another algorithm"),
        ("check dqn.zip", "dqn.zip is a model of another algorithm"),
        ("check trpo.zip --device tpu9", "unknown device 'tpu9'"),
    ],
)
def test_a_slip_gets_one_sentence(command: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert main(shlex.split(command)) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert message in printed[-1]
    assert [line for line in printed if not line.startswith("note: ")] == printed[-1:]
    assert printed[-1].startswith("sb3-trpo-fvp: ")
    assert contents(folder) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("enjoy", "there is no display to show the agent on: add --no-render, or use record-video"),
        ("record-video --env InvertedPendulum-v5", "MuJoCo films without a display only if MUJOCO_GL=egl"),
    ],
)
def test_a_missing_display_gets_one_sentence(
    command: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err


def test_a_video_of_a_drawn_environment_needs_no_display(folder: Path) -> None:
    assert main(["record-video", "--env", "CartPole-v1", "-n", "3", "-o", "videos"]) == 0
    assert list((folder / "videos").glob("*.mp4"))


def test_evaluations_that_cannot_be_read_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "logs" / "trpo_fvp" / "CartPole-v1_1" / "evaluations.npz"
    np.savez(path, timesteps=np.arange(3), results=np.zeros((3, 2)))
    assert main(["all-plots", "-e", "CartPole", "-k", "successes", "--no-display"]) == 2
    assert "evaluations.npz has no 'successes': --key must be one of results, timesteps" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:100])
    assert main(["all-plots", "-e", "CartPole", "--no-display"]) == 2
    assert "evaluations.npz cannot be read (BadZipFile" in capsys.readouterr().err


def test_options_are_found_however_they_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "logs").rename(folder / "mine")
    for command in (["-f", "mine"], ["-fmine"], ["--folder=mine"], ["--folder", "mine"]):
        assert main(["enjoy", *command, "--no-render", "-n", "3"]) == 0
    assert "Loading mine/trpo_fvp" in capsys.readouterr().out
