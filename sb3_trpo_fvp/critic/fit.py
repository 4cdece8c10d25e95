"""Fitting the value function to the rollout's returns, without touching what the actor uses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.linalg.status import Status
from sb3_trpo_fvp.linalg.vectors import all_finite
from sb3_trpo_fvp.policies import ParameterSplit, evaluation_mode


class CriticStatus(Status):
    """How a critic fit ended; all but FITTED leave the critic bit for bit as it was."""

    FITTED = 0, "the critic was moved"
    NO_PARAMETERS = 1, "everything behind the values is frozen or the actor's", "nothing, if that is meant"
    NONFINITE_RETURNS = 2, "NaN or infinity in the returns", "look at the environment's rewards", True
    DIVERGED = (
        3,
        "the fit ended in NaN or infinity; critic and optimizer state were put back",
        "lower `learning_rate`, normalise the rewards",
        True,
    )
    NONFINITE_OBSERVATIONS = 4, "NaN or infinity in the observations", "look at the environment's observations", True
    NO_DESCENT = 5, "no Gauss-Newton step lowered the loss; the next fit is damped more", "now and then: nothing"
    ZERO_GRADIENT = 6, "the loss has no slope", "nothing"
    NONFINITE_VALUES = (
        7,
        "finite data, but NaN or infinity in the values or their derivatives",
        "the critic's weights are huge: normalise the rewards",
        True,
    )


@dataclass(frozen=True)
class CriticStats:
    """
    What happened in a critic fit.

    :param status: how it ended
    :param loss: mean squared error, over the minibatches or as the fit says, in squared units of the return; NaN if none
        was computed
    """

    status: CriticStatus
    loss: float = math.nan

    @property
    def state(self) -> dict[str, float]:
        """Numbers that the next fit goes on from; a model is saved with them."""
        return {}


class CriticFit(ABC):
    """A way to fit the critic, chosen by ``TRPO(..., critic=...)``."""

    training_mode: ClassVar[bool] = True
    """Whether modules that only the critic uses are in training mode while it is fitted."""

    @abstractmethod
    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> CriticStats:
        """
        Move the critic's parameters towards the returns.

        :param values: the critic on the rollout's N states
        :param returns: targets, shape (N,)
        :param state: what the fit before returned as :attr:`CriticStats.state`, empty for the first
        :return: what happened
        """


def fit_critic(
    critic: CriticFit,
    policy: ActorCriticPolicy,
    split: ParameterSplit,
    rollout: Any,
    state: Mapping[str, float],
    comm: Communicator = ALONE,
) -> CriticStats:
    """
    Fit the critic, or leave it exactly as it was.

    Modules of the actor stay in evaluation mode: a running statistic that moved would move the policy outside of the
    KL constraint.

    :param critic: how to fit
    :param policy: whose critic
    :param split: which parameters are whose
    :param rollout: with ``observations`` and ``returns``
    :param state: of the fit before
    :param comm: who else has a part of the rollout
    :return: what happened
    """
    if not split.critic:
        return CriticStats(CriticStatus.NO_PARAMETERS)
    # The returns of a state whose observation is not finite are not finite either: name the cause first.
    if not comm.all(all_finite(rollout.observations)):
        return CriticStats(CriticStatus.NONFINITE_OBSERVATIONS)
    if not comm.all(all_finite(rollout.returns)):
        return CriticStats(CriticStatus.NONFINITE_RETURNS)
    old = [parameter.detach().clone() for parameter in split.critic]
    optimizer = policy.optimizer
    old_state = _copy_state(optimizer, split)
    critic_modules = [module for module in policy.modules() if module not in split.actor_modules]
    with evaluation_mode(policy, but_for=critic_modules if critic.training_mode else ()):
        stats = critic.fit(ValueFunction(policy, split, rollout.observations, comm), rollout.returns, state)
    # An infinite loss tells of an overflow even where the optimizer keeps its steps bounded.
    if all_finite(split.critic) and not math.isinf(stats.loss):
        return stats
    with th.no_grad():
        for parameter, tensor in zip(split.critic, old, strict=True):
            parameter.copy_(tensor)
            optimizer.state.pop(parameter, None)
        optimizer.state.update(old_state)
    return replace(stats, status=CriticStatus.DIVERGED)


def _copy_state(optimizer: th.optim.Optimizer, split: ParameterSplit) -> dict[th.Tensor, dict[str, Any]]:
    return {
        parameter: {
            key: value.clone() if isinstance(value, th.Tensor) else value for key, value in optimizer.state[parameter].items()
        }
        for parameter in split.critic
        if parameter in optimizer.state
    }
