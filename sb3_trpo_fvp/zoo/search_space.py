"""The Optuna search space of ``trpo_fvp``, and the progress of a search."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_onpolicy_params
from tqdm.auto import tqdm


def sample_trpo_fvp_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample one setting: RL-Zoo's choices for TRPO, and those of this project's arguments that decide returns: how many rollouts
    an update learns from, the critic, the initial log σ, the bound and the damping. Solver and operator decide the time.

    ``target_kl`` and ``cg_damping`` refer to the joint KL, hence ranges above RL-Zoo's for sb3-contrib.

    :param trial: the trial to sample for
    :param n_actions: unused, part of RL-Zoo's signature
    :param n_envs: unused, part of RL-Zoo's signature
    :param additional_args: unused, part of RL-Zoo's signature
    :return: keyword arguments of ``TRPO``
    """
    trial.suggest_int("n_steps_pow", 7, 11)
    trial.suggest_categorical("sample_reuse", [1, 2, 4])
    trial.suggest_int("batch_size_pow", 5, 9)
    trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
    trial.suggest_float("one_minus_gae_lambda", 0.001, 0.1, log=True)
    trial.suggest_categorical("critic", ["gauss_newton", "adam"])
    trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True)  # this and the next are Adam's
    trial.suggest_int("n_critic_updates", 5, 30)
    trial.suggest_categorical("net_arch", ["small", "medium"])
    trial.suggest_categorical("activation_fn", ["tanh", "relu"])
    trial.suggest_float("log_std_init", -1.5, 0.5)
    trial.suggest_float("target_kl", 0.005, 0.2, log=True)
    trial.suggest_float("cg_damping", 0.1, 2.0, log=True)
    hyperparams = convert_trpo_fvp_params(trial.params)
    for name in ("gamma", "gae_lambda", "n_steps", "batch_size"):
        trial.set_user_attr(name, hyperparams[name])
    return hyperparams


def convert_trpo_fvp_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: a trial's parameters, as Optuna keeps them
    :return: keyword arguments of ``TRPO``
    """
    hyperparams: dict[str, Any] = convert_onpolicy_params(sampled_params)
    hyperparams["batch_size"] = min(hyperparams["batch_size"], hyperparams["n_steps"])
    # Policies without a log σ, of discrete actions, take no notice of it.
    hyperparams["policy_kwargs"]["log_std_init"] = hyperparams.pop("log_std_init")
    return hyperparams


class TrialProgress:
    """
    One progress bar for the trials that this process runs.

    :param total: how many trials, or ``None`` for no bar
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._bar: Any = None

    def __enter__(self) -> "TrialProgress":
        self._bar = tqdm(total=self._total, unit="trial", disable=self._total is None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    @contextmanager
    def trial(self, trial: optuna.Trial) -> Iterator[None]:
        """
        Count a trial, whether it finishes, is pruned or fails.

        :param trial: the trial that runs inside
        """
        self._bar.set_postfix_str(f"trial {trial.number} running")
        try:
            yield
        finally:
            self._bar.update()
