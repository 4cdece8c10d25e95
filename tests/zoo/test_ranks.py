"""The command line on several ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.distributed.communicator import Communicator
from sb3_trpo_fvp.zoo.ranks import arguments_of_rank
from tests.helpers import ROOT


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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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
