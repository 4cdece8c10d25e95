"""What every RL-Zoo run of this project records beside RL-Zoo's own files, by the same code for both algorithms."""

import copy
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.logger import CSVOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_trpo_fvp.rollouts.buffer import flat_observations

PROGRESS_INTERVAL = 0.5
"""Seconds between two reports of a run's progress to the process that started it."""


def joint_kl(old: Distribution, new: Distribution) -> float:
    """
    Mean over the states of KL(old ‖ new) of the whole action, that is, summed over its dimensions.

    Written apart from the algorithm's own KL on purpose: it measures both algorithms from outside.

    :param old: the action distribution before the update, for N states
    :param new: the same after it
    :return: mean joint KL, in nats
    """
    olds = old.distribution if isinstance(old.distribution, list) else [old.distribution]
    news = new.distribution if isinstance(new.distribution, list) else [new.distribution]
    divergences = [th.distributions.kl_divergence(p, q) for p, q in zip(olds, news, strict=True)]
    return sum(kl.reshape(kl.shape[0], -1).sum(dim=1).mean().item() for kl in divergences)


class TrustRegionMonitor(BaseCallback):
    """
    Measures the joint KL between the policies before and after each update, on that update's own observations.

    Logs ``trust_region/kl`` and the ``trust_region/target_kl`` it was to keep, and ``trust_region/cg_steps`` for
    sb3-contrib's, which does not log it itself (its products with the Hessian are counted), so that one dashboard or
    table shows both algorithms by the same measure.
    """

    model: OnPolicyAlgorithm

    def __init__(self) -> None:
        super().__init__()
        self._observations: th.Tensor | dict[str, th.Tensor] | None = None
        self._old: Distribution | None = None
        self._updates = 0
        self._products = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # A copy: the buffer may be overwritten by the next rollout before the measurement.
        self._observations = obs_as_tensor(_observations_of_update(self.model), self.model.device)
        self._old = self._distribution()
        self._updates = self.model._n_updates
        self._count_products()

    def _on_rollout_start(self) -> None:
        self._measure()

    def _on_training_end(self) -> None:
        self._measure()

    def _measure(self) -> None:
        if self._old is None or self.model._n_updates == self._updates:  # stopped by Ctrl-C before the update
            return
        # An own distribution may have no KL that torch knows; the algorithm then says so itself.
        with suppress(NotImplementedError, AttributeError):
            self.logger.record("trust_region/kl", joint_kl(self._old, self._distribution()))
            self.logger.record("trust_region/target_kl", getattr(self.model, "target_kl", math.nan))
        if vars(self.model).pop("hessian_vector_product", None) is not None:
            # One product for the first residual and one for the step length are not CG steps.
            self.logger.record("trust_region/cg_steps", max(self._products - 2, 0))
        self._old = self._observations = None

    def _count_products(self) -> None:
        """Count sb3-contrib's products until the next rollout; the model is never saved in between."""
        product = getattr(self.model, "hessian_vector_product", None)
        if product is None:
            return

        def counted(*args: Any, **kwargs: Any) -> th.Tensor:
            self._products += 1
            result: th.Tensor = product(*args, **kwargs)
            return result

        self._products = 0
        self.model.hessian_vector_product = counted  # type: ignore[attr-defined]

    def _distribution(self) -> Distribution:
        assert isinstance(self.model.policy, ActorCriticPolicy)
        with th.no_grad():
            # The policy hands out one object that it refills at every call.
            return copy.copy(self.model.policy.get_distribution(self._observations))  # type: ignore[arg-type]


def _observations_of_update(model: OnPolicyAlgorithm) -> Any:
    """Copy the states that the next update is made from: those of the newest rollout, and of older ones that are kept."""
    newest = flat_observations(model.rollout_buffer)
    history = getattr(model, "rollout_history", None)
    older = [] if history is None else [rollout.observations for rollout in history.rollouts]
    if isinstance(newest, dict):
        return {key: np.concatenate([array, *(each[key] for each in older)]) for key, array in newest.items()}
    return np.concatenate([newest, *older])


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


class RunRecorder(CallbackList):
    """
    Runs RL-Zoo's callbacks and keeps the record of the run.

    It writes every logged value to ``progress.csv``; logs ``time/learn_seconds``, the time spent without the callbacks (above
    all evaluations) so that speeds compare learning alone, ``time/learn_cpu_seconds``, the same of this process's CPU time,
    which takes no notice of what else the machine does, and ``time/callback_seconds``, the rest; writes out the last update's
    values, which Stable-Baselines3 records and never dumps; and reports the progress to whoever started the run.

    :param callbacks: the callbacks to run
    :param folder: where ``progress.csv`` goes
    :param progress_file: optional file that holds ``done total`` while the run goes on
    """

    def __init__(self, callbacks: list[BaseCallback], folder: str | Path, progress_file: str | Path | None = None) -> None:
        super().__init__(callbacks)
        self.folder = Path(folder)
        self.progress_file = progress_file
        self._csv: CSVOutputFormat | None = None
        # Wall and CPU time.
        self._callback_seconds = self._started = np.zeros(2)
        self._reported = 0.0

    def _on_training_start(self) -> None:
        self._csv = CSVOutputFormat(str(self.folder / "progress.csv"))
        self.logger.output_formats.append(self._csv)
        super()._on_training_start()
        self._started = _clocks()

    def _on_rollout_start(self) -> None:
        began = _clocks()
        super()._on_rollout_start()
        self._callback_seconds = self._callback_seconds + _clocks() - began

    def _on_step(self) -> bool:
        began = _clocks()
        proceed = super()._on_step()
        if self.progress_file is not None and began[0] - self._reported > PROGRESS_INTERVAL:
            self._reported = began[0]
            self._report()
        self._callback_seconds = self._callback_seconds + _clocks() - began
        return proceed

    def _on_rollout_end(self) -> None:
        began = _clocks()
        super()._on_rollout_end()
        self._callback_seconds = self._callback_seconds + _clocks() - began
        self._record_times()

    def _on_training_end(self) -> None:
        if self._csv is None:  # RL-Zoo ends the training a second time to close its progress bar
            return
        self._record_times()
        super()._on_training_end()
        self.logger.record("time/total_timesteps", self.num_timesteps)
        self.logger.dump(self.num_timesteps)
        self.logger.output_formats.remove(self._csv)
        self._csv.close()
        self._csv = None

    def _record_times(self) -> None:
        wall, cpu = _clocks() - self._started - self._callback_seconds
        self.logger.record("time/learn_seconds", float(wall))
        self.logger.record("time/learn_cpu_seconds", float(cpu))
        self.logger.record("time/callback_seconds", float(self._callback_seconds[0]))

    def _report(self) -> None:
        assert self.progress_file is not None
        temporary = f"{self.progress_file}.tmp"
        Path(temporary).write_text(f"{self.num_timesteps} {self.locals['total_timesteps']}")
        os.replace(temporary, self.progress_file)
