"""Ctrl-C saves what was learned, and the line that it prints goes on with the same training."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sb3_trpo_fvp.zoo.options import without_options
from tests.helpers import ROOT


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sb3_trpo_fvp", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # A shell in the background would have Ctrl-C ignored.
    reset = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes, **reset)  # type: ignore[call-overload]


def test_the_printed_command_is_the_exact_one_and_goes_on(tmp_path: Path) -> None:
    Path(tmp_path, "own.yml").write_text(
        "CartPole-v1: {policy: MlpPolicy, n_timesteps: 1000000, n_steps: 64, normalize: true}\n"
    )
    given = [
        "--env",
        "CartPole-v1",
        "-conf",
        "own.yml",
        "-params",
        "gamma:0.97",
        "--seed",
        "3",
        "--eval-freq",
        "-1",
        "-f",
        "out",
    ]
    process = start(tmp_path, "train", *given, "-n", "500000")
    log = tmp_path / "out" / "trpo_fvp" / "CartPole-v1_1" / "progress.csv"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") > 6) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    found = re.search(r"continue with: (sb3-trpo-fvp train .*)", printed)
    assert found, printed
    command = shlex.split(found[1])
    assert command[2:-6] == ["--algo", "trpo_fvp", *given]
    assert command[-6:-4] == ["--conf-file", str(tmp_path / "own.yml")]  # found: it may be of this project's, by its name
    assert command[-4:-1] == ["-i", "out/trpo_fvp/CartPole-v1_1/CartPole-v1.zip", "-n"]
    assert int(command[-1]) < 500_000
    with np.load(tmp_path / "out" / "trpo_fvp" / "CartPole-v1_1" / "rollouts.npz") as file:
        assert int(file["count"]) == 3

    again, _ = start(tmp_path, *command[1:-1], "256").communicate(timeout=120)
    assert "Loading saved VecNormalize stats" in again
    assert "load_rollouts" not in again  # nothing is missing
    assert (tmp_path / "out" / "trpo_fvp" / "CartPole-v1_2" / "CartPole-v1.zip").is_file(), again


@pytest.mark.parametrize(
    ("args", "rest"),
    [
        (["--env", "A", "-n", "5", "-P"], ["--env", "A", "-P"]),
        (["--n-timesteps=5", "-i", "x.zip", "--seed", "1"], ["--seed", "1"]),
        (["-params", "n_steps:64", "--n-timesteps", "9"], ["-params", "n_steps:64"]),
    ],
)
def test_options_are_taken_out_however_they_are_written(args: list[str], rest: list[str]) -> None:
    assert without_options(args, ("-i", "--trained-agent", "-n", "--n-timesteps")) == rest
