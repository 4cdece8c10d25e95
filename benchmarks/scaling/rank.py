"""One rank of the scaling measurement, started by ``torchrun``; rank 0 prints one line of JSON."""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.critic.adam import CHEAP_MINIBATCH
from sb3_trpo_fvp.distributed import Communicator
from sb3_trpo_fvp.distributed.current import replaced_by
from sb3_trpo_fvp.distributed.launch import torchrun
from sb3_trpo_fvp.policies import split_parameters
from sb3_trpo_fvp.trpo.arguments import AS_SB3_CONTRIB

UNCOUNTED = 10
"""Messages that one process does not even send to itself: two each for the rollout's report, the running statistics and the
checksum, four for the explained variance."""


class Counter(Communicator):
    """A single process that counts what it would send to others."""

    def __init__(self) -> None:
        self.messages, self.size = 0, 0

    def mean(self, tensors: Sequence[th.Tensor], count: int) -> list[th.Tensor]:
        """Count one all-reduce."""
        self.messages += 1
        self.size += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return list(tensors)

    def gather(self, value: Any) -> list[Any]:
        """Count two: sizes, then contents."""
        self.messages += 2
        return [value]


class Clock(BaseCallback):
    """Times rollouts and updates on the wall and in this process's CPU time, and reads what the update logged."""

    every_rank = True

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[np.ndarray] = []
        self.ends: list[np.ndarray] = []
        self.logged: list[dict[str, float]] = []

    def _on_rollout_start(self) -> None:
        if self.starts:
            self.logged.append(self._numbers())
        self.starts.append(_now())

    def _on_rollout_end(self) -> None:
        self.ends.append(_now())

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.logged.append(self._numbers())
        self.starts.append(_now())

    def _numbers(self) -> dict[str, float]:
        values = self.model.logger.name_to_value
        return {key: value for key, value in values.items() if isinstance(value, (int, float))}


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def learn(options: argparse.Namespace, comm: Communicator) -> dict[str, Any]:
    """
    Train for a few updates, the first of them unmeasured.

    :param options: the command line
    :param comm: the ranks
    :return: seconds of an update and its rollout, wall and CPU, steps a second of all ranks, messages and megabytes
    """
    env = VecNormalize(make_vec_env(options.env, n_envs=options.n_envs, seed=comm.rank * 1000))
    kwargs = {"batch_size": 128, **AS_SB3_CONTRIB, "seed": 0, "device": "cpu"}
    kwargs |= json.loads(options.params)
    model = TRPO("MlpPolicy", env, **kwargs)
    per_update = kwargs["n_steps"] * options.n_envs * comm.world_size
    counter, clock = Counter(), Clock()
    with replaced_by(counter) if comm.world_size == 1 else nullcontext():
        # Logs are written but read by nobody: `name_to_value` must last until the clock has read it.
        model.learn(per_update * (1 + options.updates), callback=clock, log_interval=10**9)
    starts, ends = np.stack(clock.starts[1:]), np.stack(clock.ends[1:])
    update, rollout = np.median(np.diff(starts, axis=0), axis=0), np.median(ends - starts[:-1], axis=0)

    def median(key: str) -> float:
        return statistics.median(numbers.get(key, 0.0) for numbers in clock.logged[1:])

    alone = comm.world_size == 1
    adam = model.critic == "adam"
    states = kwargs["n_steps"] * options.n_envs
    critic = split_parameters(model.policy, th.as_tensor(env.reset())).critic
    size = sum(parameter.numel() for parameter in critic)
    # Of larger minibatches no rank does the whole fit.
    chooses = adam and size * kwargs["batch_size"] <= CHEAP_MINIBATCH
    fit_messages = model.n_critic_updates * -(-states // kwargs["batch_size"]) if chooses else 0
    return {
        "update": update[0],
        "update_cpu": update[1],
        "rollout": rollout[0],
        "rollout_cpu": rollout[1],
        "rollout_cpu_std": float(np.std((ends - starts[:-1])[:, 1], ddof=1)),
        "steps_per_second": per_update / update[0],
        "states": states,
        "fit": median("trust_region/critic_seconds") * (update[1] - rollout[1]) / (update[0] - rollout[0]),  # in CPU time
        "fit_messages": fit_messages,
        "fit_megabytes": fit_messages * 4e-6 * size,
        "gathered_megabytes": states * 4e-6 * (env.observation_space.shape[0] + 1),
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "cg_steps": median("trust_region/cg_steps"),
        "communication": median("distributed/seconds"),
        "messages": counter.messages / (1 + options.updates) + UNCOUNTED if alone else median("distributed/messages"),
        "megabytes": counter.size / 1e6 / (1 + options.updates) if alone else median("distributed/megabytes"),
    }


def all_reduces(comm: Communicator, rounds: int = 100) -> list[tuple[int, int, float]]:
    """
    Time all-reduces between ranks that do nothing else.

    :param comm: the ranks
    :param rounds: how many of each size
    :return: ranks, bytes, and the seconds of the quickest: other processes only ever delay
    """
    samples = []
    for numbers in (16, 1_000, 30_000, 300_000, 2_000_000):
        tensor = th.zeros(numbers)
        times = []
        for _ in range(rounds):
            comm.gather(0)  # begin together
            started = time.perf_counter()
            comm.mean([tensor], 1)
            times.append(time.perf_counter() - started)
        samples.append((comm.world_size, numbers * 4, min(times)))
    return samples


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=("learn", "all-reduce"), default="learn")
    parser.add_argument("--env", default="Humanoid-v5")
    parser.add_argument("--n-envs", type=int, default=2)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--params", default="{}")
    options = parser.parse_args()
    th.set_num_threads(1)
    with torchrun() as comm:
        result = learn(options, comm) if options.what == "learn" else all_reduces(comm)
        if comm.rank == 0:
            print(json.dumps(result))


if __name__ == "__main__":
    main()
