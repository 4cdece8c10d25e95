"""Sweep files, and the translation of one sweep run into a command line of RL-Zoo's ``train``."""

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sb3_trpo_fvp.zoo.command_line import UserError
from sb3_trpo_fvp.zoo.configs import config_folder, find_config
from sb3_trpo_fvp.zoo.sweeps.values import check_data, check_values

METRIC = "eval/mean_reward"
"""What sweeps maximise: the mean return of RL-Zoo's evaluations, logged by both algorithms."""

ZOO_OPTIONS = {
    "env": "--env",
    "seed": "--seed",
    "n_timesteps": "--n-timesteps",
    "eval_freq": "--eval-freq",
    "eval_episodes": "--eval-episodes",
    "n_eval_envs": "--n-eval-envs",
    "num_threads": "--num-threads",
    "save_freq": "--save-freq",
    "log_interval": "--log-interval",
    "vec_env": "--vec-env",
    "device": "--device",
    "verbose": "--verbose",
    "conf_file": "--conf-file",
}
"""Parameters of a sweep that are options of RL-Zoo; every other one is a hyperparameter."""

TEXT_OPTIONS = {"env", "vec_env", "device", "conf_file"}
"""Those of them that are no whole numbers."""

INTERVALS = {
    "seed": (0, 2**32 - 1),
    "n_timesteps": (1, math.inf),
    "eval_episodes": (1, math.inf),
    "n_eval_envs": (1, math.inf),
    "num_threads": (-1, math.inf),
    "log_interval": (-2, math.inf),
    "verbose": (0, math.inf),
}
"""Least and greatest value of the whole numbers that are bounded; RL-Zoo draws a seed of its own for a negative one."""

LONGEST_NAME = 255
"""Bytes that file systems allow for the name of a folder."""


@dataclass(frozen=True)
class SweepRun:
    """
    One run of a sweep: RL-Zoo's options and the hyperparameters that it overrides.

    :param parameters: the sweep's parameters as they were given, which identify the run
    :param variant: the algorithm with the settings written beside its name, e.g. ``trpo_fvp fisher=empirical``
    :param algo: RL-Zoo's key of the algorithm
    :param options: options of RL-Zoo by parameter name, without the algorithm
    :param hyperparams: hyperparameters that override those of the file
    """

    parameters: Mapping[str, Any]
    variant: str
    algo: str
    options: Mapping[str, Any]
    hyperparams: Mapping[str, Any]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "SweepRun":
        """
        :param parameters: what the sweep sets: ``algo``, ``env``, ``seed``, options of RL-Zoo, and hyperparameters. ``algo``
            may carry settings, ``trpo_fvp fisher=empirical``, so that one grid holds algorithms with different arguments;
            ``env`` too, ``CartPole-v1 n_timesteps=30000``, so that it holds environments with different budgets. Where both
            set the same, the algorithm's counts.
        :return: the run
        :raises UserError: if it names no algorithm or no environment, its settings cannot be read, or a value is not data
        """
        for name in ("algo", "env"):
            value = parameters.get(name)
            if not isinstance(value, str) or not value.strip():
                msg = f"a run needs `{name}` (a string), got {value!r}"
                raise UserError(msg)
        variant, env = (" ".join(parameters[name].split()) for name in ("algo", "env"))
        algo, *algo_settings = variant.split()
        env, *env_settings = env.split()
        merged = {key: value for key, value in parameters.items() if key != "algo"} | {"env": env}
        for setting in (*env_settings, *algo_settings):
            key, equals, value = setting.partition("=")
            if not equals:
                msg = f"settings beside the algorithm or the environment are written key=value, got {setting!r}"
                raise UserError(msg)
            try:
                merged[key] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                msg = f"the value of {setting!r} is not valid YAML"
                raise UserError(msg) from error
        for key, value in merged.items():
            check_data(key, value)
        return cls(
            parameters=dict(parameters),
            variant=variant,
            algo=algo,
            options={key: value for key, value in merged.items() if key in ZOO_OPTIONS},
            hyperparams={key: value for key, value in merged.items() if key not in ZOO_OPTIONS},
        )

    @property
    def name(self) -> str:
        """The name of the run's folder: readable, and different for different parameters."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:8]
        readable = f"{self.variant}__{self.options['env']}__seed{self.options.get('seed', 'x')}"
        readable = re.sub(r"[^A-Za-z0-9_.=-]+", "-", readable)
        return f"{readable[: LONGEST_NAME - len('__') - len(digest)]}__{digest}"

    def zoo_arguments(self, log_folder: str | Path) -> list[str]:
        """
        :param log_folder: where RL-Zoo puts its files; one folder a run, since parallel runs race for RL-Zoo's numbers
        :return: the command line of RL-Zoo's ``train``
        :raises UserError: if the hyperparameter file does not exist or is no YAML file, an option that counts something is no
            whole number of its interval, or a hyperparameter would be run as code
        """
        check_values(self.hyperparams)
        args = ["--algo", self.algo, "--log-folder", str(log_folder)]
        for key, value in self.options.items():
            if key == "conf_file":
                found = find_config(str(value))
                if found is None:
                    msg = f"no hyperparameter file {value!r}"
                    raise UserError(msg)
                if not found.endswith((".yml", ".yaml")):
                    msg = f"the hyperparameter file of a sweep must be a .yml or .yaml file, got {value!r}"
                    raise UserError(msg)
                value = found
            args += [ZOO_OPTIONS[key], str(value) if key in TEXT_OPTIONS else str(_whole(key, value))]
        if self.hyperparams:
            # RL-Zoo evaluates what follows the colon: repr keeps strings strings.
            args += ["--hyperparams", *(f"{key}:{value!r}" for key, value in self.hyperparams.items())]
        return args

    def wandb_arguments(self, project: str, entity: str | None = None) -> list[str]:
        """
        The same scheme for both algorithms: a group is one curve over its seeds, the environment's tag selects a plot.

        :param project: the project in Weights & Biases
        :param entity: the entity, if it is not the user's default
        :return: the options of RL-Zoo's ``train`` that track the run
        """
        args = ["--track", "--wandb-project-name", project, "--wandb-group", f"{self.options['env']} {self.variant}"]
        args += ["--wandb-entity", entity] if entity else []
        return [*args, "--wandb-tags", self.options["env"], self.algo]


@dataclass(frozen=True)
class Sweep:
    """
    A sweep file of Weights & Biases.

    :param path: the file
    :param method: ``grid``, ``random`` or ``bayes``
    :param parameters: the specification of each parameter, as in the file
    :param project: the project that the file names
    """

    path: Path
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    project: str = "sb3-trpo-fvp"

    @classmethod
    def load(cls, name: str | Path, overrides: Mapping[str, Any] | None = None) -> "Sweep":
        """
        :param name: path of a sweep file, or its name among this project's (``benchmark``)
        :param overrides: values, or lists of values, to use instead of the file's
        :return: the sweep
        :raises UserError: if there is no such file, or it is not a sweep
        """
        path = find_config(str(name)) or find_config(f"sweeps/{name}") or find_config(f"sweeps/{name}.yaml")
        if path is None:
            known = (config_folder() / "sweeps").glob("*.yaml")
            msg = f"no sweep file {str(name)!r}; this project's are: {', '.join(sorted(file.stem for file in known))}"
            raise UserError(msg)
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
            raise UserError(msg) from error
        if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict) or "method" not in content:
            msg = f"{path} is not a sweep file: it needs `method` and `parameters`"
            raise UserError(msg)
        parameters = dict(content["parameters"])
        for key, value in (overrides or {}).items():
            parameters[key] = {"values": value} if isinstance(value, list) else {"value": value}
        return cls(Path(path), content["method"], parameters, content.get("project") or cls.project)

    def runs(self) -> list[SweepRun]:
        """
        Every run of a grid, the last parameter varying fastest.

        :return: the runs
        :raises UserError: if the sweep is no grid: the next run of a search depends on the server's view of the earlier ones
        """
        if self.method != "grid":
            msg = (
                f"{self.path.name} is a {self.method!r} sweep, and only grids run without a server: "
                f"start it with `wandb sweep {self.path}` and `wandb agent`"
            )
            raise UserError(msg)
        choices: dict[str, list[Any]] = {}
        for key, specification in self.parameters.items():
            match specification:
                case {"values": [_, *_] as values}:
                    choices[key] = values
                case {"value": value}:
                    choices[key] = [value]
                case _:
                    msg = (
                        f"{self.path.name}: a grid's parameter needs `value`, or `values` with a list, "
                        f"got {specification!r} for {key!r}"
                    )
                    raise UserError(msg)
        runs = [
            SweepRun.from_parameters(dict(zip(choices, values, strict=True)))
            for values in itertools.product(*choices.values())
        ]
        return list({run.name: run for run in runs}.values())


def _whole(name: str, value: Any) -> int:
    """Read 100000.0, and "1e5", which YAML takes for a string, as the whole number that they are."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.5
    if not number.is_integer():
        msg = f"`{name}` must be a whole number, got {value!r}"
        raise UserError(msg)
    least, greatest = INTERVALS.get(name, (-math.inf, math.inf))
    if not least <= number <= greatest:
        msg = f"`{name}` must be in [{least}, {greatest}], got {value!r}".replace("inf]", "∞)")
        raise UserError(msg)
    return int(number)


def wandb_project() -> tuple[str, str | None]:
    """
    Find out where runs go.

    :return: project and entity of the agent that started this process, or this project's name and the user's default
    """
    return os.environ.get("WANDB_PROJECT") or Sweep.project, os.environ.get("WANDB_ENTITY")
