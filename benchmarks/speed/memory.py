"""
Peak memory of an actor step: how far the resident set rises above where it was, with model and rollout in place.

Each side has processes of its own.
"""

import pickle
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import sb3_contrib

import sb3_trpo_fvp
from benchmarks.common.processes import peak_bytes, run_module
from benchmarks.common.workloads import Rollout, Workload

ALGORITHMS: dict[str, type[Any]] = {"theirs": sb3_contrib.TRPO, "ours": sb3_trpo_fvp.TRPO}
"""Either package's TRPO."""


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
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        file.write(pickle.dumps((side, workload, rollout, kwargs)))
        file.flush()
        # With a fixed threshold, glibc gives large tensors back to the system when they are freed, on both sides alike.
        variables = {"MALLOC_MMAP_THRESHOLD_": "131072"}
        peak: int = run_module("benchmarks.speed.memory", file.name, threads=threads, variables=variables)
    return peak


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
