"""Fitting the value function to the rollout's returns, without touching what the actor uses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.nn import functional as F

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.parameters import ParameterSplit, all_finite, evaluation_mode, index_observations, num_observations


class CriticStatus(Enum):
    """How a critic fit ended."""

    FITTED = 0
    """The critic was moved."""
    NO_PARAMETERS = 1
    """Nothing to fit: every parameter behind the values is frozen or the actor's."""
    NONFINITE_RETURNS = 2
    """NaN or infinity among the returns: the critic was left alone. Look at the environment's rewards."""
    DIVERGED = 3
    """The fit ended in NaN or infinity; critic and optimizer were restored. Lower the learning rate, normalise rewards."""
    NONFINITE_OBSERVATIONS = 4
    """NaN or infinity among the observations: the critic was left alone. Look at the environment."""


@dataclass(frozen=True)
class CriticStats:
    """
    What happened in a critic fit.

    :param status: how it ended
    :param loss: mean squared error over the minibatches, in squared units of the return; NaN if none was computed
    """

    status: CriticStatus
    loss: float = math.nan


class ValueFunction:
    """
    The critic as a function of the critic's own parameters, on one rollout.

    Where the features extractor is the actor's, it stands still during the fit: features are computed once, without a
    graph, and not again for every minibatch.

    :param policy: the policy; modules that the actor uses must be in evaluation mode
    :param split: which parameters are whose
    :param observations: N states
    :param comm: who else has states of this rollout; the fit averages over the states of all
    """

    def __init__(self, policy: ActorCriticPolicy, split: ParameterSplit, observations: PyTorchObs, comm: Communicator = ALONE):
        self.policy = policy
        self.comm = comm
        self.parameters = split.critic
        self.size = num_observations(observations)
        self._observations = observations
        self._features = _constant_features(policy, split, observations)

    def __call__(self, index: th.Tensor | None = None) -> th.Tensor:
        """
        Predict values.

        :param index: which states, (n,) integers; all if None
        :return: shape (n,)
        """
        if self._features is None:
            observations = self._observations if index is None else index_observations(self._observations, index)
            return self.policy.predict_values(observations).flatten()
        features = self._features if index is None else self._features[index]
        values: th.Tensor = self.policy.value_net(self.policy.mlp_extractor.forward_critic(features))
        return values.flatten()


class CriticFit(ABC):
    """A way to fit the critic, chosen by ``TRPO(..., critic=...)``; state kept between updates is saved with the model."""

    @abstractmethod
    def fit(self, values: ValueFunction, returns: th.Tensor) -> CriticStats:
        """
        Move the critic's parameters towards the returns.

        :param values: the critic on the rollout's N states
        :param returns: targets, shape (N,)
        :return: what happened
        """


class AdamCritic(CriticFit):
    """
    Epochs of minibatches with the policy's own optimizer, whatever it is, as sb3-contrib does.

    :param n_epochs: passes over the rollout
    :param batch_size: states in a minibatch
    """

    def __init__(self, n_epochs: int, batch_size: int):
        self.n_epochs = n_epochs
        self.batch_size = batch_size

    def fit(self, values: ValueFunction, returns: th.Tensor) -> CriticStats:
        """Do the epochs, see :meth:`CriticFit.fit`."""
        optimizer = values.policy.optimizer
        # Gradients are left on the critic's parameters alone: an optimizer passes over those that have none.
        optimizer.zero_grad(set_to_none=True)
        losses = []
        num_minibatches = values.comm.largest(-(-values.size // self.batch_size))
        for _ in range(self.n_epochs):
            permutation = th.as_tensor(np.random.permutation(values.size), device=returns.device)
            for index in minibatches(permutation, self.batch_size, num_minibatches):
                predicted = values(index)
                loss = F.mse_loss(predicted, returns[index].to(predicted.dtype))
                gradients = th.autograd.grad(loss, values.parameters, allow_unused=True)
                used = [pair for pair in zip(values.parameters, gradients, strict=True) if pair[1] is not None]
                loss, *means = values.comm.mean([loss, *(gradient for _, gradient in used)], len(index))
                for (parameter, _), gradient in zip(used, means, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                losses.append(loss.detach())
        optimizer.zero_grad(set_to_none=True)
        return CriticStats(CriticStatus.FITTED, float(th.stack(losses).mean()) if losses else math.nan)


def minibatches(permutation: th.Tensor, batch_size: int, count: int) -> Sequence[th.Tensor]:
    """
    Cut a permutation of this rank's states into as many minibatches as every other rank has.

    :param permutation: (N,) integers
    :param batch_size: states in a minibatch; fewer in the last one
    :param count: the number of minibatches, at least N / batch_size; where it is more than that, they are of equal size
    :return: ``count`` pieces
    """
    pieces = th.split(permutation, batch_size)
    return pieces if len(pieces) == count else th.tensor_split(permutation, count)


def fit_critic(
    critic: CriticFit, policy: ActorCriticPolicy, split: ParameterSplit, rollout: Any, comm: Communicator = ALONE
) -> CriticStats:
    """
    Fit the critic, or leave it exactly as it was.

    Modules of the actor stay in evaluation mode: a running statistic that moved would move the policy outside of the
    KL constraint.

    :param critic: how to fit
    :param policy: whose critic
    :param split: which parameters are whose
    :param rollout: with ``observations`` and ``returns``
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
    with evaluation_mode(policy, but_for=critic_modules):
        stats = critic.fit(ValueFunction(policy, split, rollout.observations, comm), rollout.returns)
    # An infinite loss tells of an overflow even where the optimizer keeps its steps bounded.
    if all_finite(split.critic) and not math.isinf(stats.loss):
        return stats
    with th.no_grad():
        for parameter, tensor in zip(split.critic, old, strict=True):
            parameter.copy_(tensor)
            optimizer.state.pop(parameter, None)
        optimizer.state.update(old_state)
    return CriticStats(CriticStatus.DIVERGED, stats.loss)


def _copy_state(optimizer: th.optim.Optimizer, split: ParameterSplit) -> dict[th.Tensor, dict[str, Any]]:
    return {
        parameter: {
            key: value.clone() if isinstance(value, th.Tensor) else value for key, value in optimizer.state[parameter].items()
        }
        for parameter in split.critic
        if parameter in optimizer.state
    }


def _constant_features(policy: ActorCriticPolicy, split: ParameterSplit, observations: PyTorchObs) -> th.Tensor | None:
    """Compute the critic's features if they do not change while the critic is fitted, else None."""
    cls = type(policy)
    if (
        cls.predict_values is not ActorCriticPolicy.predict_values
        or cls.extract_features is not ActorCriticPolicy.extract_features
    ):
        return None
    extractor = policy.vf_features_extractor
    critic_parameters = {id(parameter) for parameter in split.critic}
    if any(id(parameter) in critic_parameters for parameter in extractor.parameters()):
        return None
    # A module of the critic alone is in training mode now, and may draw random numbers.
    if any(module not in split.actor_modules for module in extractor.modules() if not list(module.children())):
        return None
    with th.no_grad():
        return BaseModel.extract_features(policy, observations, extractor)
