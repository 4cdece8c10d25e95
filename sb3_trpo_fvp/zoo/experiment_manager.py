"""RL-Zoo with this project's algorithm, hyperparameter files and records."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import rl_zoo3
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.train
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.zoo import search_space
from sb3_trpo_fvp.zoo.callbacks import RunRecorder, TrustRegionMonitor
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE, baseline_defaults, config_of, entry_of


def register(progress_file: Path | None = None) -> None:
    """
    Make ``trpo_fvp`` an algorithm of RL-Zoo, with this project's hyperparameter files and search space.

    RL-Zoo has no plugins: its scripts share the dictionaries that are changed here, and ``train`` finds its manager by name.

    :param progress_file: where a training reports its progress to the process that started it, if any did
    """
    rl_zoo3.ALGOS[ALGORITHM] = TRPO
    rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER[ALGORITHM] = search_space.sample_trpo_fvp_params
    rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER[ALGORITHM] = search_space.convert_trpo_fvp_params
    rl_zoo3.train.ExperimentManager = partial(ExperimentManager, progress_file=progress_file)


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):  # type: ignore[misc]
    """
    RL-Zoo's manager, with this project's hyperparameter files for ``trpo`` and ``trpo_fvp`` and the run's record.

    :param args: the parsed command line, for the record
    :param algo: RL-Zoo's key of the algorithm
    :param env_id: the environment
    :param rest: RL-Zoo's further positional arguments
    :param config: hyperparameter file; this project's own for its algorithms unless one is given
    :param progress_file: where the run reports its progress, if anywhere
    :param options: RL-Zoo's keyword arguments
    """

    custom_hyperparams: dict[str, Any] | None
    callbacks: list[BaseCallback]

    def __init__(
        self,
        args: Any,
        algo: str,
        env_id: str,
        *rest: Any,
        config: str | None = None,
        progress_file: Path | None = None,
        **options: Any,
    ) -> None:
        self.progress_file = progress_file
        super().__init__(args, algo, env_id, *rest, config=config_of(algo, config), **options)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Read the environment's entry, saying so when there is none, and trial 0 of a study, which RL-Zoo takes for no trial.

        What sb3-contrib's file leaves out is at sb3-contrib's default, for this project's algorithm too.

        :return: hyperparameters to use, hyperparameters to save
        """
        if self.config.endswith((".yml", ".yaml")):
            entry, _ = entry_of(self.config, self.env_name.gym_id)
            if entry == "default":
                note = f"note: {self.config} has no entry for {self.env_name.gym_id}; its untuned 'default' is used"
                print(note, file=sys.stderr)
        if self.storage and self.study_name and self.trial_id == 0:
            trial = self.load_trial(self.storage, self.study_name, 0)
            self.custom_hyperparams = {**trial, **(self.custom_hyperparams or {})}
        used, saved = super().read_hyperparameters()
        for name, default in baseline_defaults(self.algo, self.config).items():
            used.setdefault(name, default)
            saved.setdefault(name, default)
        return used, saved

    def create_callbacks(self) -> None:
        """Add the record of the run to RL-Zoo's callbacks."""
        super().create_callbacks()
        monitors: list[BaseCallback] = [TrustRegionMonitor()] if self.algo in (ALGORITHM, BASELINE) else []
        self.callbacks = [RunRecorder([*self.callbacks, *monitors], self.save_path, self.progress_file)]

    def learn(self, model: BaseAlgorithm) -> None:
        """
        Train; after Ctrl-C the model is saved as it is, and the line that continues it is printed.

        :param model: an initialized model
        """
        super().learn(model)
        if model.num_timesteps < self.n_timesteps:
            rest = self.n_timesteps - model.num_timesteps
            print(
                f"Stopped at {model.num_timesteps} of {self.n_timesteps} steps; continue with: sb3-trpo-fvp train "
                f"--algo {self.algo} --env {self.env_name.gym_id} -i {self.save_path}/{self.env_name}.zip -n {rest}"
            )

    def hyperparameters_optimization(self) -> None:
        """Search with a progress bar, and end without a traceback when no trial has finished yet."""
        total = self.max_total_trials or self.n_trials
        with search_space.TrialProgress(total if self.show_progress else None) as self._trials:
            try:
                super().hyperparameters_optimization()
            except ValueError as error:
                if "No trials are completed yet" not in str(error):
                    raise
                print("No trial has finished yet: nothing to report. The same command goes on with the same study.")

    def objective(self, trial: optuna.Trial) -> float:
        """
        :param trial: the trial to run
        :return: its mean evaluation reward
        """
        with self._trials.trial(trial):
            value: float = super().objective(trial)
            return value
