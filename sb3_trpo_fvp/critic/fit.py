"""Fitting the value function to the rollout's returns, without touching what the actor uses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.linalg.status import Status
from sb3_trpo_fvp.linalg.vectors import all_finite
from sb3_trpo_fvp.policies import ParameterSplit, evaluation_mode
from sb3_trpo_fvp.policies.batch_normalization import statistics_step


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
    Fit the critic, or leave it and the optimizer's state exactly as they were: also where an exception ends the fit.

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
    critic_modules = [module for module in policy.modules() if module not in split.actor_modules]
    optimizer = policy.optimizer
    before = _Snapshot.of(split, optimizer, critic_modules)
    stats = CriticStats(CriticStatus.DIVERGED)
    try:
        if not critic.training_mode:
            statistics = statistics_step(policy, critic_modules, rollout.observations, policy.predict_values, comm)
            if statistics is not None:
                statistics.take()
                statistics.keep()
        with evaluation_mode(policy, but_for=critic_modules if critic.training_mode else ()):
            stats = critic.fit(ValueFunction(policy, split, rollout.observations, comm), rollout.returns, state)
        # An infinite loss tells of an overflow even where the optimizer keeps its steps bounded.
        if math.isinf(stats.loss) or not before.is_finite_now():
            stats = replace(stats, status=CriticStatus.DIVERGED)
    finally:
        # After an exception or Ctrl-C, too: a fit that was interrupted may have been one that diverged.
        if stats.status is not CriticStatus.FITTED:
            before.restore()
    return stats


@dataclass(frozen=True)
class _Snapshot:
    """
    All that a fit may move, as it was.

    :param tensors: the critic's parameters, and the running statistics that the critic alone uses, each with a copy
    :param parameters: the critic's
    :param optimizer: the policy's
    :param states: the optimizer's state of each of them, if it has one
    """

    tensors: list[tuple[th.Tensor, th.Tensor]]
    parameters: Sequence[th.Tensor]
    optimizer: th.optim.Optimizer
    states: dict[th.Tensor, dict[str, Any]]

    @classmethod
    def of(cls, split: ParameterSplit, optimizer: th.optim.Optimizer, modules: Iterable[nn.Module]) -> "_Snapshot":
        moved = [*split.critic, *(buffer for module in modules for buffer in module.buffers(recurse=False))]
        states = {
            parameter: {key: value.clone() if isinstance(value, th.Tensor) else value for key, value in state.items()}
            for parameter, state in optimizer.state.items()
            if any(parameter is own for own in split.critic)
        }
        return cls([(tensor, tensor.detach().clone()) for tensor in moved], split.critic, optimizer, states)

    def is_finite_now(self) -> bool:
        """Ask about the optimizer's state, too: an Adam whose second moment is infinite never moves again."""
        states = (self.optimizer.state.get(parameter, {}) for parameter in self.parameters)
        return all_finite([tensor for tensor, _ in self.tensors]) and all(map(_is_finite_state, states))

    @th.no_grad()
    def restore(self) -> None:
        """Put everything back; a state that was not finite before, of a file for one, is forgotten."""
        for tensor, old in self.tensors:
            tensor.copy_(old)
        for parameter in self.parameters:
            parameter.grad = None
            self.optimizer.state.pop(parameter, None)
        self.optimizer.state.update({parameter: state for parameter, state in self.states.items() if _is_finite_state(state)})


def _is_finite_state(state: Mapping[str, Any]) -> bool:
    return all_finite([value for value in state.values() if isinstance(value, th.Tensor)])
