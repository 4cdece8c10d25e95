"""What callbacks look up in their ``locals`` while a rollout is collected."""

import warnings
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

_LATE = ("obs_tensor", "values", "log_probs")
"""What SB3's loop has computed at each step, and the short way only when a rollout ends."""


class RolloutLocals(dict[str, Any]):
    """The local variables of SB3's loop; those that the short way does without are computed when one of them is looked up."""

    compute: Callable[[], dict[str, Any]]
    """Computes what :data:`_LATE` names, for the step that was taken last."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._warned = False

    def __missing__(self, name: str) -> Any:
        if name not in _LATE or not hasattr(self, "compute"):
            raise KeyError(name)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"A callback looks `{name}` up: `obs_tensor`, `values` and `log_probs` are computed at each step where one is "
                "looked up, and such steps take about as long as in SB3's own loop. Reported once per run.",
                stacklevel=3,
            )
        return self.compute()[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Look a name up, or return the default, see ``dict.get``."""
        return self[name] if name in self else default  # noqa: SIM401

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (name in _LATE and hasattr(self, "compute"))


def shared_locals(callback: BaseCallback) -> RolloutLocals:
    """
    Let a callback and all that it calls look things up in one mapping.

    :param callback: what ``learn`` calls
    :return: the mapping, that of the last rollout if there was one
    """
    if isinstance(callback.locals, RolloutLocals):
        return callback.locals
    found = RolloutLocals(callback.locals)
    reached: list[BaseCallback] = [callback]
    for parent in reached:
        parent.locals = found
        for value in vars(parent).values():
            children = value if isinstance(value, (list, tuple)) else (value,)
            reached += [child for child in children if isinstance(child, BaseCallback) and child not in reached]
    return found
