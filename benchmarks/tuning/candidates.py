"""What :mod:`benchmarks.tuning` tries: the runs that ``candidates.yaml`` lists."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml

TuningRun: TypeAlias = tuple[str, int, int]
"""Settings, seed and steps."""
Tried: TypeAlias = Mapping[str, Mapping[str, list[int]]]
"""Seeds by environment and settings."""

_CONTENT: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("candidates.yaml").read_text(encoding="utf-8"))
_SCREENING = _CONTENT["screening"]
ENVS: tuple[str, ...] = tuple(_SCREENING["environments"])
SEED: int = _SCREENING["seed"]
STEPS: int = _SCREENING["n_timesteps"]
LEVELS: Mapping[str, list[str]] = _SCREENING["levels"]
"""Low and high level of each setting."""
LEVELS_OF: Mapping[str, Mapping[str, list[str]]] = _SCREENING["levels_of"]
"""Other levels, by environment."""
BEYOND: Mapping[str, tuple[int, Tried]] = {
    name: (_CONTENT[name]["n_timesteps"], _CONTENT[name]["seeds"]) for name in ("tried", "retried", "swapped")
}
"""What was tried beyond the screening: steps, and seeds by environment and settings."""
CHOSEN: Mapping[str, str] = _CONTENT["chosen"]
"""What ``trpo_fvp.yml`` has, by environment."""
DEFAULTS: str = _CONTENT["defaults"]
"""What the constructor has."""
SWAP_STEPS = BEYOND["swapped"][0]
OVER = "trpo_fvp conf_file=trpo.yml"
"""Settings replace RL-Zoo's values, and not those of the file that is being tuned."""


def design() -> np.ndarray:
    """
    Build the design of 12 runs.

    :return: levels -1 and 1, (12, 11), columns orthogonal
    """
    first = np.array([1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1])
    return np.vstack([[np.roll(first, shift) for shift in range(11)], -np.ones(11, dtype=int)])


def variants(env: str) -> list[str]:
    """
    Write the screening runs of one environment down.

    :param env: the environment
    :return: the settings of each
    """
    factors = {**LEVELS, **LEVELS_OF.get(env, {})}
    runs = []
    for row in design()[:, : len(factors)]:
        settings = [f"{name}={levels[int(level > 0)]}" for (name, levels), level in zip(factors.items(), row, strict=True)]
        runs.append(" ".join(settings))
    return runs


def runs_of(env: str) -> list[TuningRun]:
    """
    List an environment's runs, of the screening first.

    :param env: the environment
    :return: settings, seed and steps of each
    """
    screened = [(settings, SEED, STEPS) for settings in variants(env)]
    tried = [
        (settings, seed, steps)
        for steps, of in BEYOND.values()
        for settings, seeds in of.get(env, {}).items()
        for seed in seeds
    ]
    return screened + tried


def sweep_of(steps: int) -> tuple[str, str]:
    """
    Tell what a run belongs to.

    :param steps: of the run
    :return: the sweep, and the algorithm that the settings are written behind
    """
    return ("defaults", "trpo_fvp") if steps == SWAP_STEPS else ("benchmark", OVER)
