"""Fitting the value function to the rollout's returns, without touching what the actor uses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.linalg.vectors import all_finite, flatten, unflatten
from sb3_trpo_fvp.linearization.autograd import GraphLinearization
from sb3_trpo_fvp.linearization.recognition import critic_stack
from sb3_trpo_fvp.linearization.stack import Stack, StackLinearization
from sb3_trpo_fvp.policies import ParameterSplit, evaluation_mode, index_observations, num_observations

_MOST_RANKS = 4
_MOST_NUMBERS = 2**26
"""Features of all ranks that a rank brings together at most: 256 megabytes in single precision."""
_CHEAP_MINIBATCH = 2**22
"""Parameters times states up to which a rank computes a minibatch sooner than it sends a message about it."""


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
    NO_DESCENT = 5
    """No step that was tried lowered the loss: the critic is bit for bit as it was, the damping is raised for the next."""
    ZERO_GRADIENT = 6
    """The loss has no slope: the critic was left alone."""
    NONFINITE_VALUES = 7
    """Finite data, but NaN or infinity in the values or their derivatives: the critic was left alone; its weights are huge."""


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
        self._split = split
        self._observations = observations

    @cached_property
    def _features(self) -> th.Tensor | None:
        return _constant_features(self.policy, self._split, self._observations)

    @cached_property
    def _stack(self) -> Stack | None:
        return critic_stack(self.policy, self._split.critic)

    @property
    def is_alike_everywhere(self) -> bool:
        """
        Whether every rank is sure to compute the same from the same states, and has room for those of all: a plain stack on
        features that stand still. Dropout, for one, draws on each rank for itself.
        """
        features = self._features
        return self._stack is not None and features is not None and features.numel() * self.comm.world_size <= _MOST_NUMBERS

    def of_all_ranks(self) -> "ValueFunction":
        """
        Bring the states of all ranks here, so that nothing is left to ask of the others.

        :return: the critic on the states of all; only where it :attr:`is_alike_everywhere`, on every rank
        """
        assert self._features is not None
        whole = ValueFunction(self.policy, self._split, self._observations)
        whole._features = self.comm.concatenate(self._features)
        whole.size = len(whole._features)
        return whole

    def __call__(self, index: th.Tensor | None = None) -> th.Tensor:
        """
        Predict values.

        :param index: which states, (n,) integers; all if None
        :return: shape (n, 1)
        """
        features = self._features
        if features is None:
            return self.policy.predict_values(self._states(index)).reshape(-1, 1)
        features = features if index is None else features[index]
        values: th.Tensor = self.policy.value_net(self.policy.mlp_extractor.forward_critic(features))
        return values.reshape(-1, 1)

    def linearize(self) -> StackLinearization | GraphLinearization:
        """
        Predict all values and linearise them in the critic's parameters, as these are now.

        :return: with one output of shape (N, 1)
        """
        if self._stack is None:
            with th.enable_grad():
                return GraphLinearization([self()], self.parameters)
        return self._stack.linearize(self._inputs(self._stack))

    def minibatches(
        self, returns: th.Tensor, permutation: th.Tensor, batch_size: int, count: int
    ) -> Iterator[tuple[StackLinearization | GraphLinearization, th.Tensor]]:
        """
        Go through the states once, in minibatches, and linearise each at the parameters of its time.

        :param returns: targets, shape (N,)
        :param permutation: the order of the states, (N,) integers
        :param batch_size: states in a minibatch; fewer in the last one
        :param count: of minibatches, at least N / batch_size; where it is more than that, they are of equal size
        :return: the n values of a minibatch linearised, valid until the next one, and the returns, shape (n, 1)
        """
        indices = th.split(permutation, batch_size)
        indices = indices if len(indices) == count else th.tensor_split(permutation, count)
        sizes = [len(index) for index in indices]
        targets = th.split(returns[permutation].unsqueeze(1), sizes)
        if self._stack is None:
            for index, target in zip(indices, targets, strict=True):
                with th.enable_grad():
                    yield GraphLinearization([self(index)], self.parameters), target
            return
        inputs: Iterable[th.Tensor] = (self._inputs(self._stack, index) for index in indices)
        if self._features is not None:
            inputs = th.split(self._features[permutation], sizes)  # in one go
        linearization: StackLinearization | None = None
        for features, target in zip(inputs, targets, strict=True):
            if linearization is None:
                linearization = self._stack.linearize(features, live_parameters=True)
            else:
                linearization.relinearize(features)
            yield linearization, target

    def _inputs(self, stack: Stack, index: th.Tensor | None = None) -> th.Tensor:
        """Return what the stack is fed with."""
        if self._features is None:
            return stack.features(self._states(index))
        return self._features if index is None else self._features[index]

    def _states(self, index: th.Tensor | None) -> PyTorchObs:
        return self._observations if index is None else index_observations(self._observations, index)


class CriticFit(ABC):
    """A way to fit the critic, chosen by ``TRPO(..., critic=...)``."""

    training_mode: ClassVar[bool] = True
    """Whether modules that only the critic uses are in training mode while it is fitted."""

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

    Several ranks either average the gradients of every minibatch, or, where a minibatch is computed sooner than sent (few
    ranks, a small network, features that stand still), bring all states together once and each do the whole fit, bit for
    bit the same.

    :param n_epochs: passes over the rollout
    :param batch_size: states in a minibatch
    """

    def __init__(self, n_epochs: int, batch_size: int):
        self.n_epochs = n_epochs
        self.batch_size = batch_size

    def fit(self, values: ValueFunction, returns: th.Tensor) -> CriticStats:
        """Do the epochs, see :meth:`CriticFit.fit`."""
        optimizer = values.policy.optimizer
        # Gradients lie on the critic's parameters alone: an optimizer passes over those that have none.
        optimizer.zero_grad(set_to_none=True)
        gradient = flatten([th.zeros_like(parameter) for parameter in values.parameters])
        values, returns, batch_size, permute = self._divide(values, returns, len(gradient))
        for parameter, piece in zip(values.parameters, unflatten(gradient, values.parameters), strict=True):
            parameter.grad = piece
        losses = []
        num_minibatches = values.comm.largest(-(-values.size // batch_size))
        with _fused(optimizer):
            for _ in range(self.n_epochs):
                permutation = th.as_tensor(permute(values.size), device=returns.device)
                for predicted, targets in values.minibatches(returns, permutation, batch_size, num_minibatches):
                    error = predicted.outputs[0] - targets
                    # The gradient of the mean of the squared errors.
                    predicted.vjp([error * (2.0 / max(len(error), 1))], out=gradient.zero_())
                    loss, mean = values.comm.mean([error.square().mean(), gradient], len(error))
                    if mean is not gradient:  # one process averages with nobody
                        gradient.copy_(mean)
                    optimizer.step()
                    losses.append(loss)
        optimizer.zero_grad(set_to_none=True)
        return CriticStats(CriticStatus.FITTED, float(th.stack(losses).mean()) if losses else math.nan)

    def _divide(
        self, values: ValueFunction, returns: th.Tensor, num_parameters: int
    ) -> tuple[ValueFunction, th.Tensor, int, Callable[[int], np.ndarray[Any, Any]]]:
        """Decide, alike on every rank, who fits on which states: critic, targets, batch size and what draws their order."""
        comm = values.comm
        if 1 < comm.world_size <= _MOST_RANKS and self.n_epochs > 0:
            together = values.is_alike_everywhere and self.batch_size * num_parameters <= _CHEAP_MINIBATCH
            ranks = comm.gather((together, self.batch_size))
            if all(willing for willing, _ in ranks):
                order = np.random.default_rng(comm.broadcast(np.random.randint(2**31)))
                batch_size = sum(size for _, size in ranks)
                return values.of_all_ranks(), comm.concatenate(returns), batch_size, order.permutation
        return values, returns, self.batch_size, np.random.permutation


@contextmanager
def _fused(optimizer: th.optim.Optimizer) -> Iterator[None]:
    """Let Adam update all parameters in one kernel for the while, where nobody has chosen an implementation."""
    groups = [
        group
        for group in optimizer.param_groups
        if type(optimizer) in (th.optim.Adam, th.optim.AdamW)
        and not any(group.get(name) for name in ("fused", "foreach", "capturable", "differentiable"))
        and all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in group["params"])
    ]
    chosen = [(group["fused"], group["foreach"]) for group in groups]
    for group in groups:
        group["fused"], group["foreach"] = True, False
    try:
        yield
    finally:
        for group, (fused, foreach) in zip(groups, chosen, strict=True):
            group["fused"], group["foreach"] = fused, foreach


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
    with evaluation_mode(policy, but_for=critic_modules if critic.training_mode else ()):
        stats = critic.fit(ValueFunction(policy, split, rollout.observations, comm), rollout.returns)
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
    # A module in training mode, of the critic alone, may draw random numbers.
    if any(module.training for module in extractor.modules() if not list(module.children())):
        return None
    with th.no_grad():
        return BaseModel.extract_features(policy, observations, extractor)
