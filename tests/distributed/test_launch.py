"""Under ``torchrun``, and in one process, which loads nothing of a group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.distributed.launch import TIMEOUT_VARIABLE, timeout
from tests.helpers import ROOT

SCRIPT = """
import os, signal
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.critic import adam
from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.distributed import communicator
from sb3_trpo_fvp.distributed.launch import torchrun

class Kill(BaseCallback):
    every_rank = True
    def _on_step(self):
        if self.n_calls == 150 and communicator().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

with torchrun() as comm:
    print("rank", comm.rank, "of", comm.world_size)
    model = TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, seed=0, device="cpu")
    model.learn(100_000, callback=[CheckpointCallback(64, "checkpoints"), Kill()])
"""


def test_torchrun_stops_when_a_rank_is_killed_and_the_last_checkpoint_loads(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    environment = {**os.environ, TIMEOUT_VARIABLE: "20", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode != 0
    assert done.stdout.split("\n")[0] == "rank 0 of 2", "rank 1 is silent"
    assert "rank 1 of 2" not in done.stdout
    # torchrun's own report, the rank and the signal; the survivor's message comes first if it is quicker.
    assert "SIGKILL" in done.stderr
    assert "rank      : 1" in done.stderr
    # Rank 1 dies in the third rollout; rank 0 may be stopped while it saves at the end of its part of that.
    steps = [TRPO.load(path).num_timesteps for path in (tmp_path / "checkpoints").glob("*.zip")]
    assert sorted(steps)[:2] == [64, 192]


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ValueError, match=TIMEOUT_VARIABLE):
        timeout()


def test_one_process_imports_nothing_of_a_group() -> None:
    code = (
        "import sys; from sb3_trpo_fvp import TRPO; "
        "TRPO('MlpPolicy', 'CartPole-v1', n_steps=32, batch_size=32, device='cpu').learn(32); "
        "print([m for m in sys.modules if m.startswith('sb3_trpo_fvp.distributed.')])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    imported = set(eval(out))
    assert "sb3_trpo_fvp.distributed.communicator" in imported
    assert not imported & {f"sb3_trpo_fvp.distributed.{name}" for name in ("process_group", "roll_call", "launch")}
