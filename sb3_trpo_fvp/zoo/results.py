"""What a finished run of a sweep left on disk."""

import csv
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    :param zoo_folder: RL-Zoo's own folder inside, with ``evaluations.npz``, ``progress.csv``, ``*.monitor.csv`` and the models
    :param versions: versions of what it ran with
    :param settings: every hyperparameter that it ran with; empty where it was not written down
    """

    folder: Path
    variant: str
    parameters: Mapping[str, Any]
    seconds: float
    cpu_seconds: float
    zoo_folder: Path
    versions: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Result":
        """
        Read a run's marker.

        :param folder: the folder of a finished run
        :return: the run
        :raises ValueError: if the marker cannot be read; names the file
        """
        path = folder / FINISHED
        try:
            content = json.loads(path.read_text())
            inner = folder / content["folder"]
            times = content["seconds"], content.get("cpu_seconds", math.nan)
            rest = content["versions"], content.get("settings", {})
            return cls(folder, content["variant"], content["parameters"], *times, inner, *rest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{path} cannot be read ({type(error).__name__}: {error})"
            raise ValueError(msg) from error

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Read the evaluations.

        :return: time steps (n_evaluations,), returns (n_evaluations, n_episodes)
        :raises FileNotFoundError: if the run was not evaluated
        :raises ValueError: if the file cannot be read; names it
        """
        path = self.zoo_folder / "evaluations.npz"
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                return file["timesteps"], file["results"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            msg = f"{path} cannot be read ({type(error).__name__}: {error})"
            raise ValueError(msg) from error

    def training_episodes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """
        Read what Stable-Baselines3's ``Monitor`` wrote of the training: every finished episode, without any evaluation.

        :return: for each copy of the environment, the time steps of all copies together at which its episodes ended (n,), and
            their returns (n,), as the environment pays them
        :raises FileNotFoundError: if there are no such files
        """
        paths = sorted(self.zoo_folder.glob("*.monitor.csv"), key=lambda path: int(path.name.partition(".")[0]))
        if not paths:
            msg = f"no *.monitor.csv in {self.zoo_folder}"
            raise FileNotFoundError(msg)
        copies = []
        for path in paths:
            with path.open(newline="") as file:
                file.readline()  # when it began, as JSON
                rows = [(int(row["l"]), float(row["r"])) for row in csv.DictReader(file)]
            lengths, returns = np.array([length for length, _ in rows], dtype=int), np.array([total for _, total in rows])
            copies.append((len(paths) * lengths.cumsum(), returns))
        return copies

    def training_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Read the returns of training, the copies of the environment merged.

        :return: time steps at which episodes ended, ascending (n,), their returns (n,); see :meth:`training_episodes`
        :raises FileNotFoundError: if the run kept no record of its episodes
        """
        steps, returns = (np.concatenate(arrays) for arrays in zip(*self.training_episodes(), strict=True))
        order = np.argsort(steps, kind="stable")
        return steps[order], returns[order]

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
    Read the finished runs of a sweep. One whose marker cannot be read is left out, with a warning that names the file.

    :param output: the sweep's folder
    :return: its finished runs, by the names of their folders
    """
    results = []
    for marker in sorted(output.glob(f"*/{FINISHED}")):
        try:
            results.append(Result.load(marker.parent))
        except ValueError as error:
            warnings.warn(f"{error}: the run is left out", stacklevel=2)
    return results
