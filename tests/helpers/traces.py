"""
Record what a change must not change: the parameters after every update of short runs, to the last bit.

    python -m tests.helpers.traces record before.json     # before a refactoring
    python -m tests.helpers.traces compare before.json    # after it: names every run and the first update that differs

A digest stands for all parameters and buffers of the policy, the optimizer's state and the random number generators' states.
Digests are of one machine and one set of packages: they are made when they are needed, and not committed.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.multiprocessing
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_fvp import TRPO
from tests.helpers.environments import DICT, IMAGE
from tests.helpers.models import make_model

BOX, DISCRETE = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4)
FRAMES = spaces.Box(0, 255, (3, 36, 36), np.uint8)


def normalized(action_space: spaces.Space, **kwargs: Any) -> Any:
    """A model on normalised observations and rewards."""
    model = make_model(action_space, **kwargs)
    model.set_env(VecNormalize(model.get_env()))
    return model


RUNS: dict[str, Callable[[], Any]] = {
    "box": lambda: make_model(BOX),
    "discrete": lambda: make_model(DISCRETE, n_envs=1),
    "multi_discrete": lambda: make_model(spaces.MultiDiscrete([3, 2])),
    "multi_binary": lambda: make_model(spaces.MultiBinary(3)),
    "gsde": lambda: make_model(BOX, use_sde=True, sde_sample_freq=4),
    "squashed_gsde": lambda: make_model(
        BOX, use_sde=True, policy_kwargs={"squash_output": True, "net_arch": {"pi": [16], "vf": [16]}}
    ),
    "dict": lambda: make_model(DISCRETE, DICT),
    "image": lambda: make_model(DISCRETE, FRAMES, policy="CnnPolicy", n_steps=32, policy_kwargs={}),
    "one_channel": lambda: make_model(BOX, IMAGE, policy="CnnPolicy", n_steps=32, policy_kwargs={}),
    "gauss_newton_critic": lambda: make_model(BOX, critic="gauss_newton"),
    "kl_hessian": lambda: make_model(BOX, fisher="kl_hessian"),
    "empirical": lambda: make_model(BOX, fisher="empirical"),
    "sub_sampling": lambda: make_model(BOX, sub_sampling_factor=2, fisher_sub_sampling_factor=2),
    "mean_kl": lambda: make_model(BOX, kl_reduction="mean", damped_beta=True),
    "monte_carlo": lambda: make_model(BOX, kl_estimator="monte_carlo", fisher="empirical"),
    "relu_chunks": lambda: make_model(
        BOX,
        fisher_kwargs={"chunk_size": 50},
        policy_kwargs={"activation_fn": th.nn.ReLU, "net_arch": {"pi": [16, 8], "vf": [8]}},
    ),
    "normalized": lambda: normalized(BOX),
}
UPDATES = 3


class Trace(BaseCallback):
    """A digest after each update, of each rank."""

    every_rank = True

    def __init__(self) -> None:
        super().__init__()
        self.digests: list[str] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model._n_updates:
            self.digests.append(digest(self.model))

    def _on_training_end(self) -> None:
        self.digests.append(digest(self.model))


def digest(model: Any) -> str:
    """Everything that the rest of a run depends on, in 16 characters."""
    found = hashlib.sha256()
    state = [*model.policy.state_dict().values()]
    state += [
        value for of in model.policy.optimizer.state_dict()["state"].values() for value in of.values() if th.is_tensor(value)
    ]
    for tensor in state:
        found.update(tensor.detach().cpu().numpy().tobytes())
    found.update(th.get_rng_state().numpy().tobytes())
    found.update(np.asarray(np.random.get_state()[1]).tobytes())
    return found.hexdigest()[:16]


def trace(name: str) -> list[str]:
    """Train one of the short runs."""
    th.set_num_threads(1)
    model = RUNS[name]()
    recorder = Trace()
    model.learn(UPDATES * model.n_steps * model.n_envs, callback=recorder)
    return recorder.digests


def _rank(rank: int, store: str, results: str) -> None:
    th.set_num_threads(1)
    th.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        model = make_model(BOX, algorithm=TRPO)
        recorder = Trace()
        model.learn(UPDATES * model.n_steps * model.n_envs * 2, callback=recorder)
        Path(f"{results}{rank}").write_text(json.dumps(recorder.digests))
    finally:
        th.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive the interpreter's end, and then abort the process


def trace_two_ranks(folder: Path) -> list[str]:
    """Train one policy in two processes."""
    torch.multiprocessing.spawn(_rank, args=(str(folder / "store"), str(folder / "rank")), nprocs=2)
    return [json.loads((folder / f"rank{rank}").read_text()) for rank in range(2)]


def traces() -> dict[str, Any]:
    """Train all of them."""
    import tempfile

    found: dict[str, Any] = {name: trace(name) for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        found["two_ranks"] = trace_two_ranks(Path(folder))
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A sentence for each run that is not the same; a run of several ranks is a list of digests for each of them."""
    found = []
    for name in before | after:
        if name not in after:
            found.append(f"{name}: is not recorded any more")
        elif name not in before:
            found.append(f"{name}: was not recorded before")
        elif before[name] != after[name]:
            old, new = (
                list(zip_longest(*run)) if run and isinstance(run[0], list) else run for run in (before[name], after[name])
            )
            first = next(update for update, (one, other) in enumerate(zip_longest(old, new)) if one != other)
            found.append(f"{name}: differs from update {first} on")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.traces", description=__doc__)
    parser.add_argument("verb", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    found = traces()
    if options.verb == "record":
        options.file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{len(found)} runs recorded")
        return 0
    lines = differences(json.loads(options.file.read_text()), found)
    print("\n".join(lines) or f"{len(found)} runs, all the same to the last bit")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
