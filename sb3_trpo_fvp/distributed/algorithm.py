"""An on-policy algorithm of Stable-Baselines3 whose rollouts are shared out among ranks."""

import io
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_fvp.distributed.agreement import check_arguments, check_parameters
from sb3_trpo_fvp.distributed.callbacks import GuardedCallback, callback_of_rank
from sb3_trpo_fvp.distributed.communicator import Communicator
from sb3_trpo_fvp.distributed.current import communicator
from sb3_trpo_fvp.distributed.statistics import StatisticsGuard, merge_running_statistics, running_statistics, window

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="DataParallelAlgorithm")

SEED_STRIDE = 10_000
"""Between the seeds of two ranks, so that environment i of one is no environment of another."""


@dataclass(frozen=True)
class RolloutReport:
    """
    What a rank tells the others after its part of a rollout.

    :param num_timesteps: environment steps taken
    :param go_on: False if a callback asked to stop
    :param episodes: statistics of the episodes that ended, see ``Monitor``
    :param successes: ``is_success`` of those that report it
    :param nonfinite_rewards: rewards that were NaN or infinite
    """

    num_timesteps: int
    go_on: bool
    episodes: list[dict[str, Any]]
    successes: list[Any]
    nonfinite_rewards: int


class DataParallelAlgorithm(OnPolicyAlgorithm):
    """
    What every on-policy algorithm does alike when several ranks train one policy; alone, it does nothing.

    Each rank steps environments of its own from a seed of its own. Parameters, optimizer state and running statistics
    are taken over from rank 0 when ``learn`` begins; steps, episodes and ``VecNormalize`` statistics are put together
    after every rollout; rank 0 alone logs, saves and runs callbacks. What an update averages is up to the subclass,
    which calls :meth:`_end_update` when it is done.
    """

    _taken_over: ClassVar[tuple[str, ...]] = ("num_timesteps", "_n_updates")
    """Attributes beside the networks and running statistics that all ranks take over from rank 0."""
    _bases: tuple[RunningMeanStd, ...] = ()
    """The ``VecNormalize`` statistics that all ranks last agreed on."""
    _guard: StatisticsGuard | None = None
    nonfinite_rewards: int = 0
    """Rewards of all ranks that were NaN or infinite, since ``learn`` was called."""

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed all generators and the environments, differently on every rank.

        :param seed: seed of rank 0
        """
        if seed is not None:
            seed = (seed + communicator().rank * SEED_STRIDE) % 2**32
        super().set_random_seed(seed)

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "OnPolicyAlgorithm",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        """
        Learn, see ``BaseAlgorithm.learn``. With several ranks, every rank calls this with the same numbers.

        :param total_timesteps: environment steps of all ranks together
        :param callback: run on rank 0; one with an attribute ``every_rank = True`` on each rank
        :param log_interval: updates between logs
        :param tb_log_name: the name of the run for TensorBoard
        :param reset_num_timesteps: whether to count steps from zero
        :param progress_bar: whether rank 0 shows one
        :return: the trained model
        :raises RankFailure: with several ranks, if one died, hung, raised or went its own way
        """
        comm = communicator()
        if comm.world_size == 1:
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        with comm.reporting():
            check_arguments(self, {"total_timesteps": total_timesteps, "reset_num_timesteps": reset_num_timesteps}, comm)
            self._take_over_from_rank_0(comm)
            if comm.rank > 0:
                self.set_logger(Logger(folder=None, output_formats=[]))
            callback = callback_of_rank(callback, comm.rank, progress_bar)
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Fill this rank's rollout buffer and put the ranks' statistics together.

        :param env: this rank's environments
        :param callback: called at every step
        :param rollout_buffer: to fill
        :param n_rollout_steps: steps of each environment
        :return: whether to go on: False on every rank as soon as a callback of one rank says so
        """
        comm = communicator()
        if comm.world_size == 1:
            go_on = self._collect_guarded(env, callback, rollout_buffer, n_rollout_steps)
            self._report_rewards(_count_nonfinite(rollout_buffer))
            return go_on
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        steps, episodes, successes = self.num_timesteps, list(self.ep_info_buffer), list(self.ep_success_buffer)
        # Without an end for the while, so that what is new can be told from what was there.
        self.ep_info_buffer, self.ep_success_buffer = deque(episodes), deque(successes)
        go_on = self._collect_guarded(env, callback, rollout_buffer, n_rollout_steps)
        reports = comm.gather(
            RolloutReport(
                self.num_timesteps - steps,
                go_on,
                list(self.ep_info_buffer)[len(episodes) :],
                list(self.ep_success_buffer)[len(successes) :],
                _count_nonfinite(rollout_buffer),
            )
        )
        self.num_timesteps = steps + sum(report.num_timesteps for report in reports)
        size = self._stats_window_size
        self.ep_info_buffer = window(episodes, [report.episodes for report in reports], size)
        self.ep_success_buffer = window(successes, [report.successes for report in reports], size)
        if self._vec_normalize_env is not None:
            statistics = running_statistics(self._vec_normalize_env)
            merge_running_statistics(statistics, self._bases, comm)
            self._bases = tuple(statistic.copy() for statistic in statistics)
        self._report_rewards(sum(report.nonfinite_rewards for report in reports))
        return all(report.go_on for report in reports)

    def _collect_guarded(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the rollout buffer, and keep what is not finite out of the normaliser's statistics."""
        if self._guard is None:
            return self._collect(env, callback, rollout_buffer, n_rollout_steps)
        self._guard.check()
        return self._collect(env, GuardedCallback(callback, self._guard), rollout_buffer, n_rollout_steps)

    def _report_rewards(self, nonfinite: int) -> None:
        """Count the rewards of a rollout that were not finite, and say once per run that there are some."""
        if nonfinite and not self.nonfinite_rewards and communicator().rank == 0:
            warnings.warn(
                f"NaN or infinity in {nonfinite} rewards of the environment by step {self.num_timesteps}: updates that see "
                "them are skipped, and VecNormalize does not take them in. Look at the environment's rewards. Reported once "
                "per run; see rollout/nonfinite_rewards in the log.",
                stacklevel=5,
            )
        self.nonfinite_rewards += nonfinite
        if self.nonfinite_rewards:
            self.logger.record("rollout/nonfinite_rewards", self.nonfinite_rewards)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self.nonfinite_rewards = 0
        self._guard = None if self._vec_normalize_env is None else StatisticsGuard(self._vec_normalize_env)
        prepared = super()._setup_learn(*args, **kwargs)
        if self._guard is not None:  # the environments may have been reset
            self._guard.check()
        return prepared

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # The last rollout may go beyond the end, where a linear schedule is negative.
        self._current_progress_remaining = max(0.0, self._current_progress_remaining)

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        """Fill the rollout buffer, as ``OnPolicyAlgorithm.collect_rollouts``; a faster way overrides this one."""
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _end_update(self) -> None:
        """Check that all ranks hold the same policy after an update, and log what agreeing has cost."""
        comm = communicator()
        if comm.world_size == 1:
            return
        buffers = dict(self.policy.named_buffers())
        if buffers:  # running statistics of batch normalisation, each rank's from its own minibatches
            for name, tensor in comm.broadcast({name: tensor.cpu() for name, tensor in buffers.items()}).items():
                buffers[name].copy_(tensor)
        check_parameters(self.policy, self._n_updates, comm)
        self.logger.record("distributed/world_size", comm.world_size)
        for key, value in comm.spent().items():
            self.logger.record(f"distributed/{key}", value)

    def _take_over_from_rank_0(self, comm: Communicator) -> None:
        """Begin with rank 0's parameters, optimizer state, running statistics and what :attr:`_taken_over` names."""
        state = io.BytesIO()
        th.save({"policy": self.policy.state_dict(), "optimizer": self.policy.optimizer.state_dict()}, state)
        statistics = [] if self._vec_normalize_env is None else running_statistics(self._vec_normalize_env)
        attributes = {name: getattr(self, name) for name in self._taken_over}
        written, attributes, bases = comm.broadcast((state.getvalue(), attributes, tuple(statistics)))
        self._bases = bases
        if comm.rank == 0:
            self._bases = tuple(statistic.copy() for statistic in statistics)
            return
        loaded = th.load(io.BytesIO(written), map_location=self.device, weights_only=True)
        self.policy.load_state_dict(loaded["policy"])
        self.policy.optimizer.load_state_dict(loaded["optimizer"])
        for name, value in attributes.items():
            setattr(self, name, value)
        for statistic, base in zip(statistics, bases, strict=True):
            statistic.mean, statistic.var, statistic.count = base.mean.copy(), base.var.copy(), base.count

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_bases", "_guard", "nonfinite_rewards"]


def _count_nonfinite(buffer: RolloutBuffer) -> int:
    """Count the rewards that a guard leaves as they are."""
    return int(buffer.rewards.size - np.count_nonzero(np.isfinite(buffer.rewards)))
