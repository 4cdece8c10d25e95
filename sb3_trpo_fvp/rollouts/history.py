"""The rollouts of the last policies, kept so that an update can learn from them again."""

import io
import pathlib
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_trpo_fvp.rollouts.buffer import flat_observations

Array: TypeAlias = np.ndarray[Any, Any]
Observations: TypeAlias = Array | dict[str, Array]


@dataclass(frozen=True)
class Rollout:
    """
    What one policy met in E environments in T steps: N = E T rows, environment after environment, copied out of the buffer.

    :param observations: as the policy saw them, (N, ...) or a dict of such arrays; images stay 8-bit integers
    :param actions: as rollout buffers hold them, (N, A)
    :param log_probs: log-probability of each action under the policy that took it, nats, (N,)
    :param rewards: as the buffer holds them: normalised, and with the value behind a time limit added, at that time; (N,)
    :param episode_starts: whether an episode began with the row, (N,)
    :param last_observations: those after the last step, (E, ...)
    :param last_dones: whether an episode ended with the last step, (E,)
    """

    observations: Observations
    actions: Array
    log_probs: Array
    rewards: Array
    episode_starts: Array
    last_observations: Observations
    last_dones: Array

    @classmethod
    def of(cls, buffer: RolloutBuffer, last_observations: Observations, last_dones: Array) -> "Rollout":
        """
        Copy a full buffer.

        :param buffer: read or not, see :func:`~sb3_trpo_fvp.rollouts.buffer.whole_rollout`
        :param last_observations: those after the last step, (E, ...)
        :param last_dones: whether an episode ended with the last step, (E,)
        :return: the rollout
        """

        def flat(array: Array, flattened_by_reading: bool = True) -> Array:
            rows = array if flattened_by_reading and buffer.generator_ready else buffer.swap_and_flatten(array)
            return rows.reshape(len(rows), -1).copy()

        return cls(
            flat_observations(buffer),
            flat(buffer.actions),
            flat(buffer.log_probs)[:, 0],
            flat(buffer.rewards, False)[:, 0],
            flat(buffer.episode_starts, False)[:, 0],
            {key: array.copy() for key, array in last_observations.items()}
            if isinstance(last_observations, dict)
            else last_observations.copy(),
            np.array(last_dones),
        )

    def __len__(self) -> int:
        return len(self.rewards)

    def by_step(self, rows: Array) -> Array:
        """
        :param rows: a number for each row, (N,)
        :return: the same numbers, (T, E)
        """
        return rows.reshape(len(self.last_dones), -1).T

    @property
    def is_finite(self) -> bool:
        """Whether an update can be made from it."""
        observations = self.observations.values() if isinstance(self.observations, dict) else [self.observations]
        numbers = [self.rewards, self.log_probs, self.actions, *observations]
        return all(bool(np.isfinite(array).all()) for array in numbers)


class RolloutHistory:
    """
    The last rollouts but for the newest, the oldest first.

    Holds at most ``capacity`` copies of what a rollout buffer holds; at capacity 0 it keeps nothing.

    :param capacity: how many rollouts to keep
    """

    def __init__(self, capacity: int):
        self._rollouts: deque[Rollout] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._rollouts)

    @property
    def rollouts(self) -> list[Rollout]:
        """What is kept, the oldest first."""
        return list(self._rollouts)

    def add(self, rollout: Rollout) -> None:
        """
        Keep a rollout; the oldest goes if there is no room.

        :param rollout: the newest, which an update has been made from
        """
        self._rollouts.append(rollout)

    def resize(self, capacity: int) -> None:
        """
        Keep more or fewer from now on, the newest of those that are there.

        :param capacity: how many
        """
        if capacity != self._rollouts.maxlen:
            self._rollouts = deque(self._rollouts, maxlen=capacity)

    def clear(self) -> None:
        """Forget all."""
        self._rollouts.clear()

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Write what is kept; arrays only, in NumPy's format.

        :param path: file to write
        """
        arrays: dict[str, Array] = {"count": np.array(len(self._rollouts))}
        for index, rollout in enumerate(self._rollouts):
            for name, value in vars(rollout).items():
                if isinstance(value, dict):
                    arrays |= {f"{index}/{name}/{key}": array for key, array in value.items()}
                else:
                    arrays[f"{index}/{name}"] = value
        if isinstance(path, io.BufferedIOBase):
            np.savez(path, **arrays)  # type: ignore[arg-type]
            return
        with open(path, "wb") as file:  # to a name without .npz NumPy would append it
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def load(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Read what :meth:`save` wrote, in place of what is kept; of more than there is room for, the newest.

        :param path: the file
        :raises ValueError: if it is no such file
        """
        found: list[dict[str, Any]] = []
        with np.load(path, allow_pickle=False) as file:
            if "count" not in file:
                msg = f"`path` must be a file that save_rollouts wrote, got {path!r}"
                raise ValueError(msg)
            found = [{} for _ in range(int(file["count"]))]
            for name in file.files:
                index, _, rest = name.partition("/")
                field, _, key = rest.partition("/")
                if key:
                    found[int(index)].setdefault(field, {})[key] = file[name]
                elif field:
                    found[int(index)][field] = file[name]
        self.clear()
        self._rollouts.extend(Rollout(**fields) for fields in found)
