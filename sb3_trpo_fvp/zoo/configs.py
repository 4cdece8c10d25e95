"""Where this project's hyperparameter and sweep files are, in a wheel as in a checkout."""

from pathlib import Path

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
