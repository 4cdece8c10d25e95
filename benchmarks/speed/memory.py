"""
Peak memory of an actor step: how far the resident set rises above where it was, with model and rollout in place.

Each side has processes of its own. The kernel's own high-water mark is read, which no sampling misses; it can be reset
on Linux alone.
"""

import ctypes
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sb3_contrib

import sb3_trpo_fvp
from benchmarks.common.workloads import Rollout, Workload

ALGORITHMS: dict[str, type[Any]] = {"theirs": sb3_contrib.TRPO, "ours": sb3_trpo_fvp.TRPO}
"""Either package's TRPO."""


def peak_bytes(step: Callable[[], object]) -> int:
    """
    Run something and read how much memory it added at its peak.

    :param step: what to run; run it once before, so that what libraries keep for good is not counted
    :return: bytes
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def actor_step_peak(side: str, workload: Workload, rollout: Rollout, threads: int, **kwargs: Any) -> int:
    """
    Measure one side's actor step in a process of its own.

    :param side: ``"theirs"`` or ``"ours"``
    :param workload: of the model
    :param rollout: to fill it with
    :param threads: torch's
    :param kwargs: arguments of the side's TRPO
    :return: bytes
    """
    # With a fixed threshold, glibc gives large tensors back to the system when they are freed, on both sides alike.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": str(threads)}
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        file.write(pickle.dumps((side, workload, rollout, kwargs)))
        file.flush()
        command = [sys.executable, "-m", "benchmarks.speed.memory", file.name]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    msg = f"no {key} in /proc/self/status"
    raise OSError(msg)


def _child(file: Path) -> int:
    side, workload, rollout, kwargs = pickle.loads(file.read_bytes())
    model = workload.build(ALGORITHMS[side], n_critic_updates=0, **kwargs)
    rollout.fill(model)
    warnings.filterwarnings("ignore", "Mean of empty slice|invalid value")
    model.train()
    rollout.fill(model)
    del rollout
    return peak_bytes(model.train)


if __name__ == "__main__":
    print(_child(Path(sys.argv[1])))
