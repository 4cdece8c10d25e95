"""Checks of a command line before RL-Zoo sees it, so that a slip gets a sentence instead of a traceback."""

import importlib
import inspect
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_trpo_fvp.trpo.arguments import check_arguments, choose_critic
from sb3_trpo_fvp.zoo.command_line import UserError, require, suggest
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE, find_config
from sb3_trpo_fvp.zoo.options import training_options

ZOO_HYPERPARAMETERS = {
    "n_envs", "n_timesteps", "normalize", "policy", "env_wrapper", "vec_env_wrapper", "callback", "frame_stack", "env_kwargs",
    "monitor_kwargs", "noise_type", "noise_std",
}  # fmt: skip
"""Hyperparameters that RL-Zoo takes for itself; the others go to the algorithm's constructor."""

NOT_HYPERPARAMETERS = {"self", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"}
"""Arguments of a constructor that RL-Zoo sets from its own options."""

ENVIRONMENT_PACKAGES = {"Bullet": "pybullet_envs_gymnasium", "MiniGrid-": "minigrid", "ALE/": "ale-py"}
"""Packages that register environments, by what the environments' names have in common."""


def check_environment(env_id: str, packages: Iterable[str] = ()) -> None:
    """
    :param env_id: an environment
    :param packages: modules to import first, which register environments
    :raises UserError: if no installed package registers it
    """
    import gymnasium as gym
    import rl_zoo3.import_envs  # noqa: F401 - registers the environments of the packages that are installed

    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            msg = f"--gym-packages {package}: {error}"
            raise UserError(msg) from error
    if env_id in gym.registry:
        return
    message = suggest("environment", env_id, gym.registry)
    for part, package in ENVIRONMENT_PACKAGES.items():
        if part in env_id and not any(part in known for known in gym.registry):
            message = f"unknown environment {env_id!r}: its package is not installed (pip install {package})"
    raise UserError(message)


def check_algorithm(algo: str) -> None:
    """
    :param algo: RL-Zoo's key of an algorithm
    :raises UserError: if there is none of that name
    """
    import rl_zoo3

    if algo not in rl_zoo3.ALGOS:
        raise UserError(suggest("algorithm", algo, rl_zoo3.ALGOS))


def check_hyperparameters(algo: str, names: Iterable[str]) -> None:
    """
    :param algo: RL-Zoo's key of an algorithm
    :param names: hyperparameters that the user sets
    :raises UserError: for one that neither RL-Zoo nor the constructor knows
    """
    import rl_zoo3
    from stable_baselines3 import PPO

    known = {*inspect.signature(rl_zoo3.ALGOS[algo].__init__).parameters, *ZOO_HYPERPARAMETERS}
    known -= NOT_HYPERPARAMETERS
    for name in names:
        if name in known:
            continue
        if algo in (ALGORITHM, BASELINE) and name in inspect.signature(PPO).parameters.keys() - NOT_HYPERPARAMETERS:
            msg = f"`{name}` is a PPO argument; {algo} has none: remove it"
            raise UserError(msg)
        raise UserError(suggest(f"hyperparameter of {algo}", name, known))


def check_settings(algo: str, settings: Mapping[str, Any]) -> None:
    """
    Check the hyperparameters that a training would have, its file's and the command line's together.

    :param algo: RL-Zoo's key of an algorithm
    :param settings: hyperparameters, as RL-Zoo reads them
    :raises UserError: for an unknown name, or a value that RL-Zoo or the constructor refuses
    """
    check_hyperparameters(algo, settings)
    for name in ("n_envs", "n_timesteps", "frame_stack"):
        value = settings.get(name, 1)
        whole = type(value) is int or (name == "n_timesteps" and isinstance(value, float) and value.is_integer())
        if not (whole and value >= 1) and not (name == "frame_stack" and value is None):
            msg = f"`{name}` must be a whole number in [1, ∞), got {value!r}"
            raise UserError(msg)
    if not isinstance(settings.get("normalize", False), bool | str | dict):
        msg = f"`normalize` must be True, False, or a dict of VecNormalize's arguments, got {settings['normalize']!r}"
        raise UserError(msg)
    if algo not in (ALGORITHM, BASELINE):
        return
    import rl_zoo3

    constructor = rl_zoo3.ALGOS[algo]
    for name, parameter in inspect.signature(constructor).parameters.items():
        value, number = settings.get(name), type(parameter.default) in (int, float)
        if isinstance(value, str) and number and not (name == "learning_rate" and _is_schedule(value)):
            msg = f"`{name}` must be a number, got the string {value!r}{_hint(value)}"
            raise UserError(msg)
    if algo == ALGORITHM:
        # The constructor's own checks, before there is a folder; what RL-Zoo reads from strings comes later.
        later = {*ZOO_HYPERPARAMETERS, "policy_kwargs", "learning_rate"}
        given = {name: value for name, value in settings.items() if name not in later}
        try:
            chosen = {"critic": choose_critic(**settings), **given}
            check_arguments(constructor("MlpPolicy", None, device="cpu", _init_setup_model=False, **chosen))
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(str(error)) from error


def _is_schedule(text: str) -> bool:
    kind, _, initial = text.partition("_")
    return kind == "lin" and _hint(initial) != ""


def _hint(text: str) -> str:
    try:
        return f" (YAML and Python take it for a number if it is written {float(text)!r}, without quotes)"
    except ValueError:
        return ""


def check_folder(option: str, folder: str | Path) -> None:
    """
    :param option: the option that names the folder
    :param folder: to write into; it need not exist
    :raises UserError: if it cannot be made or written into
    """
    path = Path(folder).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        msg = f"{option} {str(folder)!r}: {str(existing)!r} is no folder that can be written into"
        raise UserError(msg)


def check_model(path: str, algo: str = ALGORITHM) -> None:
    """
    :param path: file of a saved model
    :param algo: RL-Zoo's key of the algorithm that is to load it
    :raises UserError: if it is missing, damaged, or of another algorithm than this one's TRPO, or sb3-contrib's
    """
    if not os.path.isfile(path):
        msg = f"no model file {path!r}"
        raise UserError(msg)
    try:
        with zipfile.ZipFile(path) as file:
            data = json.loads(file.read("data"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        msg = f"{path} is not a saved model, or only a part of one ({type(error).__name__}: {error})"
        raise UserError(msg) from error
    if algo in (ALGORITHM, BASELINE) and "cg_max_steps" not in data:
        msg = f"{path} is a model of another algorithm: it has no `cg_max_steps`, which every TRPO has"
        raise UserError(msg)


def check_device(device: str) -> None:
    """
    :param device: name of a device
    :raises UserError: if torch knows none of that name
    """
    import torch as th

    try:
        th.device("cpu" if device == "auto" else device)
    except RuntimeError as error:
        msg = f"unknown device {device!r}: auto, cpu, cuda or cuda:0, for instance"
        raise UserError(msg) from error


def checked_training_arguments(prog: str, args: Sequence[str]) -> list[str]:
    """
    Check a command line of RL-Zoo's ``train``.

    :param prog: the command's name, for messages
    :param args: the command line
    :return: the command line for RL-Zoo, with this project's algorithm unless one was given, and its files found by name
    :raises UserError: for an unknown environment, algorithm, hyperparameter or file, or an option outside of its interval
    """
    options = training_options(prog, args)
    check_algorithm(options.algo)
    check_environment(options.env, options.gym_packages)
    check_hyperparameters(options.algo, options.hyperparams)
    check_device(options.device)
    _require_interval("n-timesteps", options.n_timesteps, 1, default=-1)
    _require_interval("eval-episodes", options.eval_episodes, 1)
    _require_interval("n-eval-envs", options.n_eval_envs, 1)
    if options.seed > 2**32 - 1:
        msg = f"--seed must be in [0, {2**32 - 1}], got {options.seed}"
        raise UserError(msg)
    if options.trained_agent and not (options.trained_agent.endswith(".zip") and os.path.isfile(options.trained_agent)):
        msg = f"--trained-agent must be an existing .zip file, got {options.trained_agent!r}"
        raise UserError(msg)
    if options.trained_agent:
        check_model(options.trained_agent, options.algo)
    if options.trial_id is not None and not (options.storage and options.study_name):
        msg = "--trial-id needs --storage and --study-name"
        raise UserError(msg)
    check_folder("--log-folder", options.log_folder)
    for name in ("tensorboard_log", "optimization_log_path"):
        if getattr(options, name):
            check_folder(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.storage and options.storage.endswith(".log"):
        check_folder("--storage", Path(options.storage).parent)
    if options.track:
        require("wandb", "--track", "wandb")

    result = list(args)
    if not any(argument == "--algo" or argument.startswith("--algo=") for argument in args):
        result = ["--algo", options.algo, *result]
    if options.conf_file and options.conf_file.endswith((".yml", ".yaml", ".py")):
        found = find_config(options.conf_file)
        if found is None:
            msg = f"no hyperparameter file {options.conf_file!r}, neither as a path nor among this project's"
            raise UserError(msg)
        result += ["--conf-file", found]  # the last one counts
    return result


def _require_interval(option: str, value: int, least: int, default: int | None = None) -> None:
    if value < least and value != default:
        msg = f"--{option} must be at least {least}, got {value}"
        raise UserError(msg)
