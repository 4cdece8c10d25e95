"""Ranks that are really started, in processes of one group, and a small model for each."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.distributed import communicator

PER_RANK = 2
"""Environments of each rank of a :func:`small_model`."""


def _enter(function: Callable[..., Any], rank: int, world_size: int, folder: Path, seconds: float, args: tuple[Any, ...]):
    """Join a gloo group, call ``function`` and leave its result, or the exception, in the folder."""
    import torch.distributed as dist

    from sb3_trpo_fvp.distributed import roll_call

    th.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    roll_call.GRACE_SECONDS = 6.0
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size, timeout=timedelta(seconds=seconds)
    )
    try:
        result = function(rank, *args)
    except Exception as error:
        result = error
    (folder / f"{rank}.partial").write_bytes(pickle.dumps(result))
    (folder / f"{rank}.partial").rename(folder / f"{rank}.result")


def run_ranks(function: Callable[..., Any], world_size: int, folder: Path, *args: Any, seconds: float = 60.0) -> list[Any]:
    """Call ``function(rank, *args)`` in new processes of one group; a rank that leaves no result has None."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sb3_trpo_fvp.distributed.process_group", "stable_baselines3.common.env_util"])
    processes = [
        context.Process(target=_enter, args=(function, rank, world_size, folder, seconds, args), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    results = [folder / f"{rank}.result" for rank in range(world_size)]
    deadline = time.monotonic() + 90
    # A rank that is meant to hang is ended as soon as the others are done.
    while time.monotonic() < deadline and sum(process.is_alive() for process in processes) > 0:
        if sum(path.exists() for path in results) >= world_size - 1:
            for process in processes:
                process.join(5)
            break
        time.sleep(0.05)
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
    return [pickle.loads(path.read_bytes()) if path.exists() else None for path in results]


def unharmed(results: list[Any]) -> list[Any]:
    """These results, unless one of them is an exception, which is raised."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


class Recorder(VecEnvWrapper):
    """Keeps every observation that the environments give, before it is normalised, in double precision."""

    def __init__(self, venv: Any):
        super().__init__(venv)
        self.seen: list[np.ndarray] = []

    def reset(self) -> Any:
        observations = self.venv.reset().astype(np.float64)
        self.seen.append(observations.copy())
        return observations

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        observations = observations.astype(np.float64)
        self.seen.append(observations.copy())
        return observations, rewards, dones, infos


class Everywhere(BaseCallback):
    """Called on each rank; does something on one of them, after the given number of calls."""

    every_rank = True

    def __init__(self, rank: int = -1, calls: int = 10, action: Callable[[TRPO], Any] = lambda model: None):
        super().__init__()
        self.rank, self.calls, self.action = rank, calls, action

    def _on_step(self) -> bool:
        if self.n_calls == self.calls and communicator().rank == self.rank:
            return self.action(self.model) is not False
        return True


def small_model(**options: Any) -> TRPO:
    """A model of CartPole behind a normaliser, each rank with ``PER_RANK`` environments."""
    env = VecNormalize(Recorder(make_vec_env("CartPole-v1", n_envs=PER_RANK, seed=0)))
    return TRPO("MlpPolicy", env, n_steps=32, batch_size=64, n_critic_updates=2, device="cpu", **{"seed": 5, **options})
