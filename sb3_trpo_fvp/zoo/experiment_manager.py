"""RL-Zoo with this project's algorithm, hyperparameter files and records."""

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import rl_zoo3
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.train
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.zoo import search_space, studies
from sb3_trpo_fvp.zoo.callbacks import RunRecorder, TrustRegionMonitor
from sb3_trpo_fvp.zoo.checks import check_settings
from sb3_trpo_fvp.zoo.command_line import StoppedLearning, UserError
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE, baseline_defaults, config_of, entry_of
from sb3_trpo_fvp.zoo.options import without_options

SLIPS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What RL-Zoo, environments and constructors raise for arguments that they cannot use."""


ROLLOUTS = "rollouts.npz"
"""Where a run that was stopped leaves the older rollouts that an update learns from, beside the model."""


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
    _opened: list[VecEnv] | None = None

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
        check_settings(self.algo, used)
        return used, saved

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """
        Read the hyperparameters, make environment and model.

        :return: the model and its hyperparameters; nothing for a search
        :raises UserError: for what environment, policy or algorithm refuse: nothing has been trained yet
        """
        if self.optimize_hyperparameters:
            self._mend_study()
        self._opened = []
        try:
            result: tuple[BaseAlgorithm, dict[str, Any]] | None = super().setup_experiment()
        except SLIPS as error:
            for env in self._opened:
                env.close()
            self._remove_empty_folder()
            reason = " ".join(str(error).split()) or type(error).__name__
            msg = f"{self.algo} cannot be set up for {self.env_name.gym_id}: {reason}"
            raise UserError(msg) from error
        self._opened = None  # what is made from now on is closed by who makes it
        return result

    def create_envs(self, *args: Any, **kwargs: Any) -> VecEnv:
        """
        :param args: see RL-Zoo
        :param kwargs: see RL-Zoo
        :return: environments, which are closed if the rest cannot be set up
        """
        env: VecEnv = super().create_envs(*args, **kwargs)
        if self._opened is not None:
            self._opened.append(env)
        return env

    def create_callbacks(self) -> None:
        """Add the record of the run to RL-Zoo's callbacks."""
        super().create_callbacks()
        monitors: list[BaseCallback] = [TrustRegionMonitor()] if self.algo in (ALGORITHM, BASELINE) else []
        self.callbacks = [RunRecorder([*self.callbacks, *monitors], self.save_path, self.progress_file)]

    def _remove_empty_folder(self) -> None:
        """Remove the run's folder if there is nothing in it but the header that the monitor of the episodes writes."""
        files = [path for path in Path(self.save_path).rglob("*") if path.is_file()]
        if all(path.name.endswith("monitor.csv") and path.read_bytes().count(b"\n") <= 2 for path in files):
            shutil.rmtree(self.save_path, ignore_errors=True)

    def learn(self, model: BaseAlgorithm) -> None:
        """
        Train; after Ctrl-C the model is saved as it is, and the line that continues it is printed.

        :param model: an initialized model
        """
        super().learn(model)
        if model.num_timesteps < self.n_timesteps:
            if isinstance(model, TRPO):
                model.save_rollouts(Path(self.save_path, ROLLOUTS))
            rest = self.n_timesteps - model.num_timesteps
            given = without_options(sys.argv[1:], ("-i", "--trained-agent", "-n", "--n-timesteps"))
            agent = f"{self.save_path}/{self.env_name}.zip"
            command = shlex.join(["sb3-trpo-fvp", "train", *given, "-i", agent, "-n", str(rest)])
            print(f"Stopped at {model.num_timesteps} of {self.n_timesteps} steps; continue with: {command}")

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        """
        Load the agent of ``-i``, and the older rollouts that lie beside it, if any do.

        :param hyperparams: of the algorithm
        :param env: the training environments
        :return: the model
        """
        model: BaseAlgorithm = super()._load_pretrained_agent(hyperparams, env)
        rollouts = Path(self.trained_agent).with_name(ROLLOUTS)
        if isinstance(model, TRPO) and rollouts.is_file():
            model.load_rollouts(rollouts)
        return model

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        Save model and normaliser, and say so where the run has ended in skipped updates.

        :param model: the trained model
        :raises StoppedLearning: if the last updates were skipped; everything is saved
        """
        super().save_trained_model(model)
        if getattr(model, "has_stopped_learning", False):
            skipped = getattr(model, "skipped_updates", 0)
            msg = f"the last {skipped} updates were skipped: {self.save_path} has the model of before; see the warning above"
            raise StoppedLearning(msg)

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
        trial.set_user_attr(studies.WORKER, studies.worker())
        with self._trials.trial(trial):
            try:
                value: float = super().objective(trial)
                return value
            finally:
                studies.fail_stale_trials(trial.study)  # before they are counted

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        """
        :param storage: journal file or database
        :param study_name: a study in it
        :param trial_id: number of a trial
        :param convert: give keyword arguments of the algorithm, and not Optuna's parameters
        :return: the trial's hyperparameters
        :raises UserError: if there is no such storage, study or trial
        """
        if storage.endswith(".log") and not Path(storage).is_file():
            msg = f"no journal file {storage!r}"
            raise UserError(msg)
        self._mend_study()
        try:
            hyperparams: dict[str, Any] = super().load_trial(storage, study_name, trial_id, convert)
        except (KeyError, IndexError) as error:
            msg = f"no trial {trial_id} of a study {study_name!r} in {storage!r}"
            raise UserError(msg) from error
        return hyperparams

    def _mend_study(self) -> None:
        storage: Any = self.storage
        if storage is None:
            return
        if storage.endswith(".log"):
            if not Path(storage).is_file():
                return
            try:
                cut = studies.repair_journal(storage)
            except ValueError as error:
                raise UserError(str(error)) from error
            if cut:
                print(f"{storage}: {cut} line(s) that a killed worker had left unfinished are skipped", file=sys.stderr)
            storage = JournalStorage(JournalFileBackend(storage))
        try:
            study = optuna.load_study(study_name=self.study_name, storage=storage)
        except KeyError:  # no such study yet
            return
        except Exception as error:  # whatever the database raises
            msg = f"--storage {self.storage!r} cannot be used: {' '.join(str(error).split())}"
            raise UserError(msg) from error
        for number in studies.fail_stale_trials(study):
            print(f"Trial {number} is marked as failed: its worker was killed", file=sys.stderr)
