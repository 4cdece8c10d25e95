"""What an algorithm that learns from its last rollouts keeps, saves and loads."""

import pathlib
import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import GymEnv, RolloutBufferSamples

from sb3_trpo_fvp.distributed import Communicator, communicator
from sb3_trpo_fvp.rollouts.history import Observations, Rollout, RolloutHistory
from sb3_trpo_fvp.rollouts.reuse import Batch, ReuseStats, SampleReuse
from sb3_trpo_fvp.trpo.saving import SavedWhole, replacing


class SampleReusingAlgorithm(SavedWhole):
    """
    An on-policy algorithm whose update is made from the newest rollout and from older ones, if it likes.

    Subclasses set ``sample_reuse`` and ``sample_reuse_kwargs`` before the model is set up, pool the rollouts by :meth:`_pool`
    when an update begins, and keep the newest by :meth:`_keep_rollout` when it ends.
    """

    sample_reuse: int
    sample_reuse_kwargs: dict[str, Any]

    def _setup_model(self) -> None:
        super()._setup_model()
        self.rollout_history = RolloutHistory(self.sample_reuse - 1)
        self._misses_rollouts = self.num_timesteps > 0  # it has just been loaded

    def _pool(self, newest: RolloutBufferSamples, comm: Communicator) -> tuple[Batch, ReuseStats]:
        """Put the newest rollout and the older ones together, these weighed by how the present policy would act."""
        reuse = SampleReuse(**self.sample_reuse_kwargs)
        self.rollout_history.resize(self.sample_reuse - 1)  # it may have been set since
        older = self.rollout_history.rollouts
        return reuse.pool(newest, older, self.policy, gamma=self.gamma, gae_lambda=self.gae_lambda, comm=comm)

    def _keep_rollout(self, comm: Communicator) -> None:
        """Keep the newest rollout for the next updates, unless something in it is not finite."""
        # What comes after the last step has no value where a buffer was filled by hand.
        if self.sample_reuse == 1 or self._last_obs is None or self._last_episode_starts is None:
            return
        rollout = Rollout.of(self.rollout_buffer, self._last_obs, self._last_episode_starts)
        if comm.all(rollout.is_finite):  # ranks have as many rollouts as each other
            self.rollout_history.add(rollout)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Go on in other environments, see ``BaseAlgorithm.set_env``; rollouts of the old ones are forgotten with their state.

        :param env: the environments
        :param force_reset: whether to reset them before training goes on; False: they stand where the last rollout ended
        """
        super().set_env(env, force_reset)
        if force_reset:
            self.rollout_history.clear()

    def save_rollouts(self, path: str | pathlib.Path) -> None:
        """
        Save the older rollouts that ``sample_reuse`` learns from, as off-policy algorithms save their replay buffer: with
        them, a model that is loaded goes on exactly as this one would. Several ranks write a file each.

        :param path: file of arrays, ``.npz`` is appended to a name without a suffix
        """
        with replacing(self._rollouts_file(path)) as partial:
            self.rollout_history.save(partial)

    def load_rollouts(self, path: str | pathlib.Path) -> None:
        """
        Load what :meth:`save_rollouts` wrote; after ``set_env``, which forgets older rollouts. Nothing in a file is executed.

        :param path: the file
        :raises ValueError: if it is no such file, or of a model of other spaces
        """
        history = RolloutHistory(self.sample_reuse - 1)
        history.load(self._rollouts_file(path))
        for rollout in history.rollouts:
            found, own = _shapes(rollout.observations, rollout.actions), _shapes_of(self.rollout_buffer)
            if found != own:
                msg = f"`path` must hold rollouts of observations and actions of shapes {own}, got {found} in {str(path)!r}"
                raise ValueError(msg)
        self.rollout_history = history
        self._misses_rollouts = False

    def _rollouts_file(self, path: str | pathlib.Path) -> pathlib.Path:
        file = pathlib.Path(path if pathlib.Path(path).suffix else f"{path}.npz")
        rank = communicator().rank
        return file.with_name(f"{file.stem}.rank{rank}{file.suffix}") if rank else file

    def _warn_of_missing_rollouts(self) -> None:
        """A run that goes on without its older rollouts does not go on exactly as it would have."""
        if self.sample_reuse > 1 and self._misses_rollouts:
            self._misses_rollouts = False
            warnings.warn(
                "No older rollouts to learn from again: `load_rollouts` brings those that `save_rollouts` saved.", stacklevel=3
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollout_history", "_misses_rollouts"]


def _shapes(observations: Observations, actions: np.ndarray) -> tuple[Any, int]:
    if isinstance(observations, dict):
        return {key: array.shape[1:] for key, array in observations.items()}, actions.shape[1]
    return observations.shape[1:], actions.shape[1]


def _shapes_of(buffer: RolloutBuffer) -> tuple[Any, int]:
    return buffer.obs_shape, buffer.action_dim
