"""Where this project's hyperparameter and sweep files are, in a wheel as in a checkout."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_trpo_fvp.trpo.arguments import AS_SB3_CONTRIB
from sb3_trpo_fvp.zoo.command_line import UserError

ALGORITHM = "trpo_fvp"
"""RL-Zoo's key for this project's TRPO; ``trpo`` stays sb3-contrib's, so that no log confuses the two."""

BASELINE = "trpo"


def config_folder() -> Path:
    """
    Find this project's files.

    :return: the folder of the hyperparameter files (``trpo_fvp.yml``, ``trpo.yml``) and of ``sweeps/``
    """
    package = Path(__file__).resolve().parents[1]
    packaged = package / "zoo_configs"  # where the wheel puts it
    return packaged if packaged.is_dir() else package.parent / "zoo_configs"


def find_config(name: str) -> str | None:
    """
    Find a file by its path, or by its name among this project's.

    :param name: a path, or the name of a file of :func:`config_folder` such as ``trpo.yml`` or ``sweeps/benchmark.yaml``
    :return: an absolute path, or ``None`` if there is no such file
    """
    for path in (Path(name), config_folder() / name):
        if path.is_file():
            return str(path.resolve())
    return None


def default_config(algo: str) -> str | None:
    """
    :param algo: RL-Zoo's key of an algorithm
    :return: this project's hyperparameter file for it, or ``None`` where RL-Zoo's own serves
    """
    return find_config(f"{algo}.yml") if algo in (ALGORITHM, BASELINE) else None


def config_of(algo: str, given: str | None = None) -> str:
    """
    :param algo: RL-Zoo's key of an algorithm
    :param given: the hyperparameter file that the user asked for, if any
    :return: the file that a training reads: the given one, this project's, or RL-Zoo's own
    """
    import rl_zoo3

    return given or default_config(algo) or str(Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml")


def read_config(path: str) -> Mapping[str, Mapping[str, Any]]:
    """
    Read a hyperparameter file.

    :param path: a YAML file
    :return: its entries by environment
    :raises UserError: if it is not there, not YAML, or not a mapping of environments to hyperparameters
    """
    try:
        return _parsed(path, Path(path).stat().st_mtime_ns)
    except OSError as error:
        msg = f"the hyperparameter file {path!r} cannot be read: {error.strerror}"
        raise UserError(msg) from error


@functools.lru_cache
def _parsed(path: str, modified: int) -> Mapping[str, Mapping[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise UserError(msg) from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        msg = f"{path} is not a hyperparameter file: it needs an entry `ENVIRONMENT:` with hyperparameters below"
        raise UserError(msg)
    return content


def entry_of(path: str, env_id: str) -> tuple[str, Mapping[str, Any]]:
    """
    Find what RL-Zoo takes for an environment.

    :param path: a YAML file
    :param env_id: the environment
    :return: the name of the entry, which is the environment's, ``atari`` or ``default``, and its hyperparameters
    :raises UserError: if the file cannot be read or has no entry that serves
    """
    from rl_zoo3.exp_manager import ExperimentManager

    content = read_config(path)
    fallback = "atari" if ExperimentManager.is_atari(env_id) else "default"
    for name in (env_id, fallback):
        if name in content:
            return name, content[name]
    msg = f"{path} has no entry for {env_id}, and no {fallback!r} entry"
    raise UserError(msg)


def baseline_defaults(algo: str, config: str) -> dict[str, Any]:
    """
    Give what sb3-contrib's file leaves out: it is sb3-contrib's default and its way to learn, for this one too.

    :param algo: RL-Zoo's key of an algorithm
    :param config: its hyperparameter file
    :return: the hyperparameters whose defaults differ, or none
    """
    if algo != ALGORITHM or Path(config).name != f"{BASELINE}.yml":
        return {}
    return dict(AS_SB3_CONTRIB)
