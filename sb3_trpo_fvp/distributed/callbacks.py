"""Which callbacks run on which rank."""

import warnings
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_trpo_fvp.distributed.statistics import StatisticsGuard


class GlobalProgressBar(ProgressBarCallback):
    """A progress bar that counts the steps of all ranks, which are known when a rollout ends."""

    def _on_step(self) -> bool:
        self.pbar.update(self.model.num_timesteps - self.model._num_timesteps_at_start - self.pbar.n)
        return True

    def _on_training_end(self) -> None:
        self._on_step()
        super()._on_training_end()


class GuardedCallback(CallbackList):
    """
    Looks at the normaliser's statistics after each step, before callbacks see or save them.

    :param callback: what is called then
    :param guard: of the statistics
    """

    def __init__(self, callback: BaseCallback, guard: StatisticsGuard):
        super().__init__([callback])
        self.model, self.locals, self.globals = callback.model, callback.locals, callback.globals
        self.guard = guard

    def on_step(self) -> bool:
        """Guard the statistics, then call the callback, see ``BaseCallback.on_step``."""
        self.guard.check(self.locals["rewards"])
        return self.callbacks[0].on_step()


def callback_of_rank(callback: MaybeCallback, rank: int, progress_bar: bool) -> MaybeCallback:
    """
    Choose what a rank calls: all on rank 0, elsewhere only what is marked ``every_rank = True``.

    :param callback: what ``learn`` was given
    :param rank: the rank
    :param progress_bar: whether to show one
    :return: what to call on this rank
    """
    callbacks: list[Any] = _flat(callback)
    if rank > 0:
        return [part for part in callbacks if getattr(part, "every_rank", False)]
    unmarked = [type(part).__name__ for part in callbacks if not hasattr(part, "every_rank") and not _is_known(part)]
    if unmarked:
        warnings.warn(
            f"{', '.join(unmarked)} is called on rank 0 only, and knows nothing of the other ranks' environments: set "
            "`every_rank = True` on a callback to have it called on each rank, or False to silence this warning.",
            stacklevel=4,
        )
    return [*callbacks, GlobalProgressBar()] if progress_bar else callbacks


def _flat(callback: Any) -> list[Any]:
    if callback is None:
        return []
    if isinstance(callback, CallbackList):
        callback = callback.callbacks
    if isinstance(callback, list):
        return [part for item in callback for part in _flat(item)]
    return [callback]


def _is_known(callback: Any) -> bool:
    """Whether it logs, saves, evaluates or stops, as the ecosystem's own callbacks do."""
    packages = ("stable_baselines3", "sb3_contrib", "sb3_trpo_fvp", "rl_zoo3", "wandb")
    return type(callback).__module__.partition(".")[0] in packages
