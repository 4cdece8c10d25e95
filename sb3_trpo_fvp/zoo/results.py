"""What a finished run of a sweep left on disk."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FINISHED = "finished.json"
"""Written, at once and last, into the folder of a run that came to its end."""


@dataclass(frozen=True)
class Result:
    """
    A finished run.

    :param folder: the run's folder in the sweep's
    :param variant: the algorithm with the settings written beside its name
    :param parameters: the parameters that the sweep gave it
    :param seconds: wall time of the training, evaluations included
    :param cpu_seconds: CPU time of the run's process, NaN where it was not written down
    :param zoo_folder: RL-Zoo's own folder inside, with ``evaluations.npz``, ``progress.csv`` and the models
    :param versions: versions of what it ran with
    """

    folder: Path
    variant: str
    parameters: Mapping[str, Any]
    seconds: float
    cpu_seconds: float
    zoo_folder: Path
    versions: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "Result":
        """
        Read a run's marker.

        :param folder: the folder of a finished run
        :return: the run
        """
        content = json.loads((folder / FINISHED).read_text())
        inner = folder / content["folder"]
        times = content["seconds"], content.get("cpu_seconds", math.nan)
        return cls(folder, content["variant"], content["parameters"], *times, inner, content["versions"])

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Read the evaluations.

        :return: time steps (n_evaluations,), returns (n_evaluations, n_episodes)
        :raises FileNotFoundError: if the run was not evaluated
        """
        with np.load(self.zoo_folder / "evaluations.npz") as file:
            return file["timesteps"], file["results"]

    def logged(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Read one column of ``progress.csv``.

        :param key: a logged value, e.g. ``trust_region/kl``
        :return: time steps at which it was written (n,), its values (n,); empty if it never was
        """
        steps, values = [], []
        with (self.zoo_folder / "progress.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get(key):
                    steps.append(int(float(row["time/total_timesteps"] or math.nan)))
                    values.append(float(row[key]))
        return np.asarray(steps), np.asarray(values)


def load_results(output: Path) -> list[Result]:
    """
    Read the finished runs of a sweep.

    :param output: the sweep's folder
    :return: its finished runs, by the names of their folders
    """
    return [Result.load(marker.parent) for marker in sorted(output.glob(f"*/{FINISHED}"))]
