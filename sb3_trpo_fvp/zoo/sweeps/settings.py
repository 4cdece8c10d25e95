"""The hyperparameters that a run of a sweep trains with: a part of what it is, beside what the sweep sets."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from sb3_trpo_fvp.zoo.checks import NOT_HYPERPARAMETERS, ZOO_HYPERPARAMETERS
from sb3_trpo_fvp.zoo.configs import baseline_defaults, config_of, entry_of, find_config
from sb3_trpo_fvp.zoo.sweeps.sweep import SweepRun


def hyperparameters_of(run: SweepRun) -> dict[str, Any]:
    """
    Gather what RL-Zoo reads for a run: the hyperparameter file's entry, and what the sweep sets.

    :param run: a run of a sweep
    :return: hyperparameters by name
    :raises UserError: if the hyperparameter file cannot be read
    """
    given = run.options.get("conf_file")
    config = config_of(run.algo, find_config(str(given)) if given is not None else None)
    entry = entry_of(config, str(run.options["env"]))[1]
    return {**baseline_defaults(run.algo, config), **entry, **run.hyperparams}


def settings_of(run: SweepRun) -> dict[str, Any]:
    """
    Gather the hyperparameters of a run: the constructor's defaults, the hyperparameter file's entry, what the sweep sets.

    :param run: a run of a sweep
    :return: every hyperparameter by name, as JSON holds it
    :raises UserError: if the hyperparameter file cannot be read
    """
    import rl_zoo3

    parameters = inspect.signature(rl_zoo3.ALGOS[run.algo].__init__).parameters.values()
    settings: dict[str, Any] = dict.fromkeys(ZOO_HYPERPARAMETERS)
    settings |= {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    settings |= hyperparameters_of(run)
    if "n_timesteps" in run.options:
        settings["n_timesteps"] = int(float(run.options["n_timesteps"]))
    kept = {name: value for name, value in settings.items() if name not in NOT_HYPERPARAMETERS}
    content: dict[str, Any] = json.loads(json.dumps(kept, default=repr))
    return content


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """
    Say what changed. A hyperparameter that an earlier version did not have is no change.

    :param before: settings that a run finished with
    :param now: its settings today
    :return: the changes in words, or nothing
    """
    changed = [name for name, value in before.items() if name in now and now[name] != value]
    return ", ".join(f"{name}={before[name]!r}, now {now[name]!r}" for name in sorted(changed))
