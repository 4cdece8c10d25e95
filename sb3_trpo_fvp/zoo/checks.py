"""Checks of a command line before RL-Zoo sees it, so that a slip gets a sentence instead of a traceback."""

import argparse
import importlib
import inspect
import os
from collections.abc import Iterable, Sequence

from sb3_trpo_fvp.zoo.command_line import ArgumentParser, UserError, require, suggest
from sb3_trpo_fvp.zoo.configs import ALGORITHM, find_config

ZOO_HYPERPARAMETERS = {
    "n_envs", "n_timesteps", "normalize", "policy", "env_wrapper", "vec_env_wrapper", "callback", "frame_stack", "env_kwargs",
    "monitor_kwargs", "noise_type", "noise_std",
}  # fmt: skip
"""Hyperparameters that RL-Zoo takes for itself; the others go to the algorithm's constructor."""

NOT_HYPERPARAMETERS = {"self", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"}
"""Arguments of a constructor that RL-Zoo sets from its own options."""

ENVIRONMENT_PACKAGES = {"Bullet": "pybullet_envs_gymnasium", "MiniGrid-": "minigrid", "ALE/": "ale-py"}
"""Packages that register environments, by what the environments' names have in common."""


def check_environment(env_id: str) -> None:
    """
    :param env_id: an environment
    :raises UserError: if no installed package registers it
    """
    import gymnasium as gym
    import rl_zoo3.import_envs  # noqa: F401 - registers the environments of the packages that are installed

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
    :param names: hyperparameters that the command line sets
    :raises UserError: for one that neither RL-Zoo nor the constructor knows
    """
    import rl_zoo3

    known = {*inspect.signature(rl_zoo3.ALGOS[algo].__init__).parameters, *ZOO_HYPERPARAMETERS}
    known -= NOT_HYPERPARAMETERS
    for name in names:
        if name not in known:
            raise UserError(suggest(f"hyperparameter of {algo}", name, known))


def parse_known(prog: str, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """
    Read the options of RL-Zoo that are checked here; the rest is left for RL-Zoo's own parser.

    :param prog: the command's name, for messages
    :param args: the command line
    :return: the options read, the command line without them
    """
    parser = ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", default=ALGORITHM)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("-params", "--hyperparams", nargs="+", default=[])
    parser.add_argument("-i", "--trained-agent")
    parser.add_argument("--track", action="store_true")
    return parser.parse_known_args(args)


def checked_training_arguments(prog: str, args: Sequence[str]) -> list[str]:
    """
    Check a command line of RL-Zoo's ``train``.

    :param prog: the command's name, for messages
    :param args: the command line
    :return: the command line for RL-Zoo, with this project's algorithm unless one was given, and its files found by name
    :raises UserError: for an unknown environment, algorithm, hyperparameter or file
    """
    options, _ = parse_known(prog, args)
    for package in options.gym_packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            msg = f"--gym-packages {package}: {error}"
            raise UserError(msg) from error
    check_algorithm(options.algo)
    check_environment(options.env)
    check_hyperparameters(options.algo, (pair.split(":")[0] for pair in options.hyperparams))
    if options.trained_agent and not (options.trained_agent.endswith(".zip") and os.path.isfile(options.trained_agent)):
        msg = f"--trained-agent must be an existing .zip file, got {options.trained_agent!r}"
        raise UserError(msg)
    if options.track:
        require("wandb", "--track", "wandb")

    result = list(args)
    if not any(argument == "--algo" or argument.startswith("--algo=") for argument in args):
        result = ["--algo", options.algo, *result]
    if options.conf_file and options.conf_file.endswith((".yml", ".yaml")):
        found = find_config(options.conf_file)
        if found is None:
            msg = f"no hyperparameter file {options.conf_file!r}, neither as a path nor among this project's"
            raise UserError(msg)
        result += ["--conf-file", found]  # the last one counts
    return result


def check_trained(folder: str, algo: str, env_id: str) -> None:
    """
    :param folder: RL-Zoo's log folder
    :param algo: RL-Zoo's key of the algorithm
    :param env_id: the environment
    :raises UserError: if nothing was trained there; says what was
    """
    name = env_id.replace("/", "-")
    runs = os.listdir(os.path.join(folder, algo)) if os.path.isdir(os.path.join(folder, algo)) else []
    if any(run.rpartition("_")[0] == name for run in runs):
        return
    algos = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    there = sorted(f"{a} on {run}" for a in algos if os.path.isdir(f"{folder}/{a}") for run in os.listdir(f"{folder}/{a}"))
    found = f"found there: {', '.join(there[:12])}" if there else "nothing was trained there yet"
    msg = f"no {algo} agent for {env_id} in {folder!r}; {found}"
    raise UserError(msg)
