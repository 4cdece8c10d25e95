"""What a sweep, a comparison or torchrun started ends with it, whatever ends it: real processes, real signals."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sb3_trpo_fvp.distributed.parent import exit_on, kill_group

ROOT = Path(__file__).parents[2]
LONG = ["-n", "100000000"]


def start(folder: Path, *command: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "printed.txt").open("w") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=printed, stderr=printed, text=True
        )


def alive(folder: Path) -> list[int]:
    """The processes, of this test alone, that work in the folder or below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place, state = os.readlink(entry / "cwd"), (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and Path(place).is_relative_to(folder):
            found.append(int(entry.name))
    return found


def wait_for(condition: Callable[[], object], folder: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (alive(folder), (folder / "printed.txt").read_text())
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (["sweep", "defaults", "--no-wandb", "--set", "env=CartPole-v1", "n_timesteps=100000000"], signal.SIGTERM, 143),
        (["sweep", "defaults", "--no-wandb", "--set", "env=CartPole-v1", "n_timesteps=100000000"], signal.SIGKILL, -9),
        (["compare", "--env", "CartPole-v1", *LONG, "-j", "1"], signal.SIGHUP, 129),
    ],
)
def test_runs_end_with_the_command_that_started_them(command: list[str], number: int, code: int, tmp_path: Path) -> None:
    tmp_path = tmp_path.resolve()
    process = start(tmp_path, "sb3_trpo_fvp", *command, "-o", "out")
    try:
        wait_for(lambda: list((tmp_path / "out").glob("*/progress")), tmp_path)
        assert len(alive(tmp_path)) == 2
        process.send_signal(number)
        assert process.wait(60) == code
        wait_for(lambda: not alive(tmp_path), tmp_path, 30)
    finally:
        for pid in alive(tmp_path):
            os.kill(pid, signal.SIGKILL)
    if number != signal.SIGKILL:
        assert "the same command goes on with the others" in (tmp_path / "printed.txt").read_text()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ranks_end_with_a_torchrun_that_is_killed(tmp_path: Path) -> None:
    tmp_path = tmp_path.resolve()
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sb3_trpo_fvp", "train"]
    process = start(tmp_path, *torchrun, "--env", "CartPole-v1", *LONG, "--eval-freq", "-1")
    try:
        printed = tmp_path / "printed.txt"
        wait_for(lambda: re.search(r"total_timesteps +\| \d", printed.read_text()), tmp_path)
        assert len(alive(tmp_path)) == 3
        process.kill()
        process.wait()
        wait_for(lambda: not alive(tmp_path), tmp_path, 30)
    finally:
        for pid in alive(tmp_path):
            os.kill(pid, signal.SIGKILL)


def test_signals_end_like_ctrl_c_unless_they_are_ignored() -> None:
    def interrupted(number: int) -> None:
        with exit_on("SIGTERM", "SIGHUP", "SIGNOTHERE"):
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    with pytest.raises(SystemExit) as ended:
        interrupted(signal.SIGTERM)
    assert ended.value.code == 143
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        interrupted(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_killed_process_takes_its_group_along() -> None:
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    kill_group(leader.pid)
    leader.wait()
    leader.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_group(leader.pid)  # gone already: nothing happens
