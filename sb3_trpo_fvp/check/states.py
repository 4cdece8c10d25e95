"""The states that a model is checked on: where they are from, and whether they are normalised as in training."""

import copy
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import check_shape_equal, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_trpo_fvp.policies import index_observations, num_observations
from sb3_trpo_fvp.rollouts.buffer import flat_observations


class StateSource(Enum):
    """Where states are from; the value goes on the sentence "1024 states …"."""

    GIVEN = "given"
    """By the caller, as the policy sees them: normalised, where it was trained on normalised ones."""
    ROLLOUT_BUFFER = "of the rollout buffer"
    """Of the model's last rollout."""
    ENVIRONMENT = "met in the environment"
    """By the policy, acting in the model's environment."""
    OBSERVATION_SPACE = "drawn from the observation space"
    """At random: numbers that have little to do with training."""


@dataclass(frozen=True)
class Normalization:
    """
    How the observations of a saved model were normalised in training.

    :param statistics: with which, None for not at all
    :param path: the file that they are from
    :param is_missing: whether the run's configuration says that they were, and there is no file
    """

    statistics: VecNormalize | None = None
    path: str = ""
    is_missing: bool = False


class Scale(Enum):
    """Whether states are what the policy saw in training, as far as one can tell."""

    UNKNOWN = 0
    """Nothing says that observations were normalised."""
    NORMALIZED = 1
    """As in training."""
    RAW = 2
    """They look as before the normalisation that the model was trained with."""
    STATISTICS_MISSING = 3
    """Observations were normalised in training, and nobody knows how."""


@dataclass(frozen=True)
class States:
    """
    What a model is checked on.

    :param observations: N states, on the policy's device
    :param source: where they are from
    :param scale: whether they are normalised as in training
    :param normalization: what normalised them, a part of a sentence, empty if nothing did
    """

    observations: PyTorchObs
    source: StateSource
    scale: Scale = Scale.UNKNOWN
    normalization: str = ""


def find_states(
    model: OnPolicyAlgorithm, given: Any, num_states: int, seed: int, normalization: Normalization | None = None
) -> States:
    """
    Find states: those given, else those of the rollout buffer, of the environment, or of the observation space.

    :param model: the model; its environment is reset if it is used
    :param given: (N, ...) array or tensor, or a dict of such
    :param num_states: most states to return
    :param seed: of the environment or the observation space
    :param normalization: of a saved model; its statistics are applied to states drawn from the observation space
    :return: the states
    """
    buffer = getattr(model, "rollout_buffer", None)
    if given is not None:
        arrays, source = given, StateSource.GIVEN
    elif buffer is not None and buffer.full:
        arrays, source = flat_observations(buffer), StateSource.ROLLOUT_BUFFER
    elif model.env is not None:
        arrays, source = _visited(model, model.env, num_states, seed), StateSource.ENVIRONMENT
    else:
        space = copy.deepcopy(model.observation_space)
        space.seed(seed)
        arrays, source = _stack([space.sample() for _ in range(num_states)]), StateSource.OBSERVATION_SPACE
        if normalization is not None and normalization.statistics is not None:
            arrays = normalization.statistics.normalize_obs(arrays)
    tensors = obs_as_tensor(arrays, model.policy.device) if isinstance(arrays, dict | np.ndarray) else arrays
    every = max(1, num_observations(tensors) // num_states)
    states = index_observations(index_observations(tensors, slice(None, None, every)), slice(num_states))
    return States(states, source, *_scale(model, states, source, normalization or Normalization()))


def _scale(
    model: OnPolicyAlgorithm, states: PyTorchObs, source: StateSource, normalization: Normalization
) -> tuple[Scale, str]:
    """Return whether states are normalised, and by what."""
    if normalization.is_missing:
        return Scale.STATISTICS_MISSING, ""
    wrapper = model.get_vec_normalize_env() or normalization.statistics
    if wrapper is None or not wrapper.norm_obs:
        return Scale.UNKNOWN, ""
    if source is not StateSource.GIVEN:
        return Scale.NORMALIZED, normalization.path or "the environment's VecNormalize"
    return (Scale.RAW if _looks_raw(states, wrapper) else Scale.NORMALIZED), ""


def _looks_raw(states: PyTorchObs, normalizer: VecNormalize) -> bool:
    """Whether a normal with the running mean and variance explains the states better than a standard normal does."""
    statistics: Any = normalizer.obs_rms
    pairs = [(states[key], rms) for key, rms in statistics.items()] if isinstance(states, dict) else [(states, statistics)]
    gained = sum(_log_density(values, rms) - _log_density(values, None) for values, rms in pairs)
    # Statistics that are near 0 and 1 anyway cannot tell, and do not matter.
    return gained > 0.1 * len(pairs)


def _log_density(values: th.Tensor, rms: RunningMeanStd | None) -> float:
    """Mean of log N(x; mean, variance) over all numbers, up to a constant."""
    x = values.double().cpu().numpy()
    mean, variance = (0.0, 1.0) if rms is None else (rms.mean, rms.var + 1e-8)
    return float(np.mean(-0.5 * (np.square(x - mean) / variance + np.log(variance))))


def _visited(model: OnPolicyAlgorithm, env: VecEnv, num_states: int, seed: int) -> Any:
    """Let the policy act, as in a rollout, and keep what it sees."""
    env.seed(seed)
    seen: list[Any] = []
    with _fixed_statistics(model.get_vec_normalize_env()):
        last: Any = env.reset()
        while len(seen) * env.num_envs < num_states:
            seen.append(last)
            actions, _ = model.policy.predict(last, deterministic=False)
            last, *_ = env.step(actions)
    # The next learn() has to reset the environment: it no longer stands where the model believes it does.
    model._last_obs = None
    if isinstance(seen[0], dict):
        return {key: np.concatenate([observation[key] for observation in seen]) for key in seen[0]}
    return np.concatenate(seen)


@contextmanager
def _fixed_statistics(normalizer: VecNormalize | None) -> Iterator[None]:
    """What is met while checking is no part of the training."""
    if normalizer is None:
        yield
        return
    training, normalizer.training = normalizer.training, False
    try:
        yield
    finally:
        normalizer.training = training


def _stack(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in samples[0]}
    return np.stack([np.asarray(sample) for sample in samples])


def find_normalization(model_path: str) -> Path | None:
    """
    Look for the statistics of the ``VecNormalize`` that a saved model was trained with.

    These are, beside ``x_1000_steps.zip`` the checkpoint's ``x_vecnormalize_1000_steps.pkl``, then ``vecnormalize.pkl`` in the
    model's folder, then the one in a folder of it, as RL-Zoo has ``logs/trpo_fvp/ENV_1/ENV/vecnormalize.pkl``.

    :param model_path: file of the model
    :return: the file, None if there is none or several folders have one
    """
    path = Path(model_path)
    checkpoint = re.fullmatch(r"(.*)_(\d+)_steps", path.name.removesuffix(".zip"))
    names = [f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}_steps.pkl"] if checkpoint else []
    for name in (*names, "vecnormalize.pkl"):
        if (path.parent / name).is_file():
            return path.parent / name
    nested = list(path.parent.glob("*/vecnormalize.pkl"))
    return nested[0] if len(nested) == 1 else None


def was_trained_normalized(model_path: str) -> bool:
    """
    Read from RL-Zoo's ``config.yml`` whether observations were normalised.

    :param model_path: file of the model, in its run's folder
    :return: True only where the file says so
    """
    for config in Path(model_path).parent.glob("*/config.yml"):
        said = re.search(r"^\W*normalize\s*\n\s*-\s*(.*)$|^\s*normalize:\s*(.*)$", config.read_text(), re.MULTILINE)
        value = "" if said is None else (said[1] or said[2] or "").lower()
        if value not in ("", "false") and not re.search(r"norm_obs\W+false", value):
            return True
    return False


def load_normalization(path: str | Path, space: spaces.Space[Any]) -> VecNormalize:
    """
    Load a ``VecNormalize`` whose statistics stay as they are; it has no environment yet.

    :param path: its file
    :param space: of the observations that it is for
    :return: the wrapper
    :raises ValueError: if the file holds something else, or statistics of other observations
    """
    with open(path, "rb") as file:
        normalizer = pickle.load(file)
    if not isinstance(normalizer, VecNormalize):
        msg = f"`vec_normalize` must be a file of VecNormalize.save, got {str(path)!r} with a {type(normalizer).__name__}"
        raise ValueError(msg)
    try:
        check_shape_equal(normalizer.observation_space, space)
    except AssertionError as error:
        msg = f"`vec_normalize` must have statistics of the model's observations, got {str(path)!r}: {error}"
        raise ValueError(msg) from error
    normalizer.training = False
    return normalizer
